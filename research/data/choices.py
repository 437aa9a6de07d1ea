"""What a model chooses among: texts that are the same for all rows, or each row's own, and which of them a row's answer names.

A row's own choices are a list (`{options}`, `{choices[text]}`), or stand in a column each (`{sol1}`, `{sol2}`). Its answer is
the text of one of them, or a number or letter.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from research.data.rows import Row
from research.data.templates import not_text, value_of
from research.errors import InputError

SCORINGS = ('sum', 'mean', 'char', 'byte', 'pmi')      # what choices are ranked by: see `evaluation.score.Scores`
CALIBRATION = ('ece', 'brier', 'log_loss')             # metrics of the choices' probabilities
OF_OWN = ('accuracy', 'exact_match', *CALIBRATION, 'perplexity', 'bits_per_byte')      # metrics that know no classes
FIELD = re.compile(r'\{([^{}!:]+)\}')


def are_own(choices: Sequence[str]) -> bool:
  """Whether choices are columns of a row, in place of texts."""
  return bool(choices) and all(map(FIELD.fullmatch, choices))


def of_row(fields: Sequence[str], row: Row) -> tuple[str, ...]:
  """A row's own choices.

  Args:
    fields: one that is a list, or several of one text each, in braces.
    row: has them.
  Raises:
    InputError: a column is missing or of another form, or the choices are not two or more different texts.
  """
  columns = [value_of(field[1:-1], row) for field in fields]
  if len(fields) == 1 and not isinstance(columns[0], (list, tuple)):
    raise InputError(f'task.choices={fields[0]}: column {fields[0][1:-1]!r} is no list of choices, such as ["a", "b"]; give '
                     'several columns as "(\'{a}\',\'{b}\')"')
  found = columns[0] if len(fields) == 1 else columns
  for number, one in enumerate(found, 1):
    if wrong := not_text(one) or ('' if str(one).strip() else 'is empty'):
      raise InputError(f'choice {number} of {" ".join(fields)} {wrong}')
  texts = [str(one) for one in found]
  if len(texts) < 2 or len({one.strip() for one in texts}) < len(texts):
    raise InputError(f'{" ".join(fields)} holds {texts!r:.80}: must be two or more choices, each once')
  return tuple(texts)


def check(choices: Sequence[str], scoring: str, metrics: Sequence[str]) -> None:
  """Refuses a rule or a metric that these choices cannot have.

  Args:
    choices: of a task, as its config has them.
    scoring: what they are ranked by.
    metrics: that the task measures.
  Raises:
    InputError: says which.
  """
  if scoring not in SCORINGS or (scoring != 'sum' and not choices):
    raise InputError(f'task.scoring={scoring!r}: must be one of {", ".join(SCORINGS)}, of a task with task.choices')
  for metric in metrics:
    if metric in CALIBRATION and not choices:
      raise InputError(f'task.metrics: {metric} is of a task with task.choices, whose probabilities it judges')
    if metric not in OF_OWN and '.py:' not in metric and are_own(choices):
      raise InputError(f'task.metrics: {metric} has no meaning where each row has choices of its own (task.choices='
                       f'{" ".join(choices)}); there are {", ".join(OF_OWN)}')


def counted_from(choices: Sequence[str], column: str, splits: Iterable[Sequence[Row]]) -> int | None:
  """What the numbers of answers count from, where all answers are numbers (or letters, of a row's own choices); None: texts.

  From 0, unless no answer is 0 and some is as large as the number of its choices: then from 1.

  Args:
    choices: of a task.
    column: of the answer.
    splits: the rows of each; what is wrong with single rows is not looked for.
  """
  own, asked = are_own(choices), []
  for row in (row for rows in splits for row in rows if column in row):
    value = row[column]
    if not (_is_number(value) or (own and _is_letter(value))):
      return None
    try:
      asked.append((value, of_row(choices, row) if own else choices))
    except InputError:
      return None
  if all(value in texts if own else str(value) in texts for value, texts in asked):
    return None
  numbers = [(int(value), len(texts)) for value, texts in asked if _is_number(value)]
  return int(all(number != 0 for number, _ in numbers) and any(number == count for number, count in numbers))


def named(value: Any, texts: Sequence[str], start: int | None) -> str:
  """Which choice an answer names.

  Args:
    value: the answer.
    texts: the choices.
    start: what numbers count from; None: the answer is a text.
  Raises:
    InputError: it names none.
  """
  if start is None:
    found = [one for one in texts if one.strip() == str(value).strip()]
    if not found:
      raise InputError(f'answer {value!r:.80} is none of the row\'s choices ({", ".join(texts):.200}), and not all answers are '
                       'numbers or letters')
    return found[0]
  number = ord(value.upper()) - ord('A') if _is_letter(value) else int(value) - start
  if not 0 <= number < len(texts):
    raise InputError(f'answer {value!r:.80}: there are {len(texts)} choices, numbered from {start} as in all rows of the task')
  return texts[number]


def _is_number(value: Any) -> bool:
  return (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, str) and value.isascii()
                                                                      and value.isdecimal())


def _is_letter(value: Any) -> bool:
  return isinstance(value, str) and len(value) == 1 and value.isascii() and value.isalpha()
