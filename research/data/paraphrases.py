"""Several templates of one prompt: each row is asked under each of them, and learned under them in turn.

How a question is put moves a score by as much as what was trained (Sclar et al. 2024, arXiv 2310.11324; Mizrahi et al. 2024,
arXiv 2401.00595), so that templates are a sample, as seeds and examples are.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from research.data.rows import Row
from research.data.templates import fields_of
from research.errors import InputError


def settled(fields: Mapping[str, Any]) -> dict[str, Any]:
  """Fields of a task, of which `prompt` is the first of the `prompts` where there are some.

  Args:
    fields: of `config.task`, without those that are None.
  Raises:
    InputError: there is only one, two are the same, they name other columns than the first, or `prompt` is none of them.
  """
  if not fields.get('prompts'):
    return dict(fields)
  prompts = tuple(fields['prompts'])
  first, *others = prompts
  if not all(isinstance(one, str) and one.strip() for one in prompts):
    raise InputError(f'task.prompts={prompts!r:.80}: must be templates, each a text')
  if not others or len({*prompts}) < len(prompts):
    raise InputError(f'task.prompts={prompts!r:.80}: two templates or more, each once; one template is task.prompt')
  if fields.get('prompt') not in (None, first):
    raise InputError(f'task.prompt={fields["prompt"]!r:.80}: with task.prompts leave it out, or give the first of these')
  for number, one in enumerate(others, 2):
    if {*fields_of(one)} != {*fields_of(first)}:
      raise InputError(f'task.prompts: template {number} names the columns {_listed(one)}, and the first {_listed(first)}: '
                       'paraphrases say the same of a row')
  return {**fields, 'prompts': prompts, 'prompt': first}


def _listed(template: str) -> str:
  return ', '.join(sorted({*fields_of(template)})) or 'none'


def check(prompts: Sequence[str], turns: str, rows: Sequence[Row]) -> None:
  """Refuses rows that bring their prompts themselves.

  Args:
    prompts: of a task.
    turns: `task.turns`.
    rows: of all splits.
  Raises:
    InputError: there are several prompts, and rows of chats.
  """
  if prompts and (turns == 'all' or any('messages' in row for row in rows)):
    raise InputError('task.prompts: rows with `messages` bring their prompts themselves; leave task.prompts out')


def turn(number: int, epoch: int, seed: int, count: int) -> int:
  """Under which of so many templates a row is learned in an epoch: the next one each epoch, and another than its neighbours.

  After as many epochs as there are templates each row was learned under each.

  Args:
    number: of the row.
    epoch: from 0.
    seed: of the order of rows.
    count: how many templates there are.
  """
  return (number + epoch + seed) % count
