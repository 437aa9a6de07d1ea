"""From rows to token ids: prompts, targets, demonstrations, choices."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from research.data.rows import Row
from research.data.tasks import Task, choices_of, references_of, target_of
from research.data.templates import fields_of, fill
from research.data.tokenizer import Tokenizer
from research.errors import InputError


class Example(NamedTuple):
  """One row as the model meets it. Prompt and target are tokenised apart and put side by side."""
  id: int                              # the row's number in its split, from 0
  row: Row
  prompt: str
  target: str
  prompt_ids: list[int]                # BOS included where the model has one
  target_ids: list[int]                # with the token that ends it, EOS or the chat's: ending the answer is learned too
  choices: dict[str, list[int]]        # the choice -> its ids without EOS; empty for free text
  content_free: tuple[list[int], ...] = ()    # the prompt without content, in the ways of `CONTENT_FREE` or one; or empty
  learned: tuple[tuple[int, int], ...] = ()   # stretches of the prompt that training learns too: earlier turns (`data.turns`)
  lengths: tuple[tuple[int, int], ...] = ()   # of each choice's text, (characters, UTF-8 bytes): see `_length`
  template: int = 0                    # which of the task's templates asks


def render(task: Task, row: Row, tokenizer: Tokenizer, demonstrations: Sequence[Row] = ()) -> str:
  """The prompt of a row, after the demonstrations: the task's template filled in, or its turns in the chat template.

  Args:
    task: has the template, and says what stands between demonstrations.
    row: the one to ask about.
    tokenizer: has the chat template.
    demonstrations: rows that are shown with their answers, in this order.
  """
  if task.chat or 'messages' in row:
    shown = [turn for d in demonstrations for turn in turns_of(task, d, answered=True)]
    return tokenizer.chat([*shown, *turns_of(task, row, answered=False)])
  return ''.join(fill(task.prompt, d) + answer(task, d) + task.separator for d in demonstrations) + fill(task.prompt, row)


def answer(task: Task, row: Row, choice: str | None = None) -> str:
  """The target of a row; in a chat an answer begins without the template's leading blank.

  Args:
    task: as for `target_of`, as are the others.
    row: whose it is.
    choice: the one that is the answer; None: the row's own.
  """
  text = target_of(task, row, choice)
  return text.strip() if task.chat or 'messages' in row else text


def texts_of(task: Task, row: Row) -> list[str]:
  """What a row says, as training reads it: its turns, or its prompt and all right answers."""
  turns = [turn['content'] for turn in row['messages']] if 'messages' in row else [fill(task.prompt, row)]
  return [*turns, *references_of(task, row)]


CONTENT_FREE = ('N/A', '', '[MASK]')     # what stands for a row's columns where a prompt shall say nothing (Zhao et al. 2021)
NEUTRAL = ('',)                          # the same for `task.scoring=pmi`: the template's own words (Holtzman et al. 2021)


def examples(task: Task, rows: Sequence[Row], tokenizer: Tokenizer,
             demonstrations: Callable[[Row], Sequence[Row]] = lambda row: (), blank: bool = False) -> list[Example]:
  """Renders and tokenises rows, each after its demonstrations; of several templates all rows under the first, then the next.

  Args:
    task: says how a row becomes a prompt and a target.
    rows: of one split, numbered from 0.
    tokenizer: of the model that reads them.
    demonstrations: a row -> the rows that its prompt shows first, answered; without it none.
    blank: also each prompt without content, to calibrate by; `task.scoring=pmi` has one such prompt in any case.
  Raises:
    InputError: a row cannot be rendered, a prompt is empty and the model has no BOS, or a choice begins like another.
  """
  if task.prompts:
    return [e._replace(template=template) for template in range(len(task.prompts))
            for e in examples(under(task, template), rows, tokenizer, demonstrations, blank)]
  rendered, words = [], CONTENT_FREE if blank else NEUTRAL if task.scoring == 'pmi' else ()
  for number, row in enumerate(rows):
    shown = demonstrations(row)
    try:
      rendered.append((render(task, row, tokenizer, shown), answer(task, row), _choices(task, row),
                       _blanks(task, row, tokenizer, shown, words)))
    except InputError as error:
      raise InputError(f'row {number}: {error}') from None
  ids = tokenizer.encode_all(text for prompt, _, _, blanks in rendered for text in (prompt, *blanks))
  said = tokenizer.answers(text for _, target, choices, _ in rendered for text in (target, *choices.values()))
  ends = [tokenizer.end_of_turn() if task.chat or 'messages' in row else tokenizer.eos for row in rows]
  found = [Example(number, row, prompt, target, tokenizer.as_prompt(ids[prompt]), [*said[target], end],
                   {c: said[text] for c, text in choices.items()}, tuple(tokenizer.as_prompt(ids[text]) for text in blanks),
                   lengths=tuple(_length(task, text) for text in choices.values()))
           for number, (row, end, (prompt, target, choices, blanks)) in enumerate(zip(rows, ends, rendered))]
  for e in found:
    if not all((e.prompt_ids, *e.content_free)):
      raise InputError(f'row {e.id}: its prompt is empty, and the model has no token for a text to begin with; leave it out of '
                       'the file, or give task.prompt some words of its own')
  for e in (found if task.own_choices else found[:1]) if not task.rejected else ():
    _check_choices(e, task)
  return found


def under(task: Task, template: int) -> Task:
  """A task of several templates with one of them alone; of one template the task itself."""
  return task._replace(prompt=task.prompts[template], prompts=()) if task.prompts else task


def _choices(task: Task, row: Row) -> dict[str, str]:
  """Each of a row's choices as a target; none where the answer is free."""
  if task.rejected:
    texts = answer(task, row), answer(task._replace(target=task.rejected), row)
    return dict(zip(task.choices, texts))
  return {choice: answer(task, row, choice) for choice in choices_of(task, row)}


def _length(task: Task, text: str) -> tuple[int, int]:
  """Characters and bytes of a choice's text without the blank that its template begins with, which no harness counts."""
  template = task.target
  text = text.removeprefix(template[:len(template) - len(template.lstrip())])
  return len(text), len(text.encode())


def _blanks(task: Task, row: Row, tokenizer: Tokenizer, shown: Sequence[Row], words: Sequence[str]) -> tuple[str, ...]:
  """A row's prompts without content.

  Args:
    task: has the template.
    row: the one to ask about.
    tokenizer: has the chat template.
    shown: its demonstrations.
    words: what stands for content, in each of the prompts.
  Raises:
    InputError: the template formats a column as something other than text, such as a number.
  """
  try:
    return tuple(render(task, _emptied(task, row, word), tokenizer, shown) for word in words)
  except InputError as e:
    asks = 'task.scoring=pmi' if words == NEUTRAL else 'strategy.calibrate=True'
    raise InputError(f'{asks}: task.prompt={task.prompt!r} cannot say {words[0] or "nothing"} in its columns ({e})') from None


def _emptied(task: Task, row: Row, word: str) -> Row:
  """A row that says `word` wherever the prompt would say something of it; in a list or an object, wherever that does."""
  turns = turns_of(task, row, answered=False) if 'messages' in row else []
  said = {'messages': [*turns[:-1], {**turns[-1], 'content': word}]} if turns else {}

  def emptied(value: Any) -> Any:
    if isinstance(value, dict):
      return {key: emptied(one) for key, one in value.items()}
    return [emptied(one) for one in value] if isinstance(value, (list, tuple)) else word
  return {**row, **{column: emptied(row.get(column)) for column in fields_of(task.prompt)}, **said}


def placeholders(slots: int) -> list[int]:
  """What stands in a prompt's ids for the vectors of a soft prompt, before all else (see `models.layers.Embedding`)."""
  return [-1 - slot for slot in range(slots)]


def turns_of(task: Task, row: Row, answered: bool) -> list[dict[str, str]]:
  """A row's turns up to where the assistant is to speak.

  Args:
    task: has the template of the question, and of an answer that the turns lack.
    row: with `messages`, or columns of the template.
    answered: also the turn with what the assistant is to say.
  """
  if 'messages' not in row:
    turns = [{'role': 'user', 'content': fill(task.prompt, row)}]
  else:
    turns = list(row['messages'])
    if len(turns) > 1 and turns[-1]['role'] == 'assistant':      # what it says is the target
      del turns[-1]
  if answered:
    turns.append({'role': 'assistant', 'content': answer(task, row)})
  return turns


def _beginnings(e: Example) -> list[tuple[str, str]]:
  """Choices of which the first is the beginning of the second."""
  return [(one, other) for one, ids in e.choices.items() for other, longer in e.choices.items()
          if one != other and longer[:len(ids)] == ids]


def _check_choices(e: Example, task: Task) -> None:
  """Refuses choices that cannot be told apart; a row's own may begin alike, of which `told` speaks.

  Raises:
    InputError: names two of them.
  """
  for one, other in _beginnings(e):
    if e.choices[one] == e.choices[other]:
      raise InputError(f'row {e.id}: its choices {one!r} and {other!r} are the same tokens')
    if task.scoring == 'sum' and not task.own_choices:
      raise InputError(f'task.choices: {one!r} is the beginning of {other!r}, so ranking could never prefer the longer '
                       'one; end task.target with a full stop, or rename one')


def told(task: Task, found: Sequence[Example], split: str) -> str:
  """A line about rows of which some choice can never be preferred; empty where there are none.

  Args:
    task: says what they are ranked by.
    found: the rows.
    split: theirs.
  """
  found = [e for e in found if not e.template]
  rows = [e.id for e in found if _beginnings(e)] if task.own_choices and task.scoring == 'sum' else []
  return f'{split}: in {len(rows)} of {len(found)} rows (first: row {rows[0]}) a choice is the beginning of another, which ' \
         'task.scoring=sum can never prefer; mean, byte and pmi can' if rows else ''


def tokens_needed(prompt: int, answer: int, apart: bool) -> int:
  """Tokens of the context that a prompt and its answer need.

  Args:
    prompt: its tokens.
    answer: its tokens.
    apart: each has the context to itself, as where an encoder reads the prompt.
  """
  return max(prompt, answer) if apart else prompt + answer


def check_lengths(found: list[Example], context: int, split: str, answer: int = 0, apart: bool = False) -> None:
  """Refuses rows that do not fit, with their number; nothing is ever cut.

  Args:
    found: the rows of one split.
    context: the most tokens that the model reads at one time.
    split: what the error calls them.
    answer: tokens that a generated answer may take, where they are more than the target's.
    apart: see `tokens_needed`.
  Raises:
    InputError: a prompt and its answer, or a prompt and a choice, need more than the context.
  """
  answers = [max(len(e.target_ids), answer, *(len(c) + 1 for c in e.choices.values()), 0) for e in found]
  lengths = [tokens_needed(max(map(len, (e.prompt_ids, *e.content_free))), n, apart) for e, n in zip(found, answers)]
  long = [*dict.fromkeys(e.id for e, n in zip(found, lengths) if n > context)]
  if long:
    raise InputError(f'{len(long)} of {len({e.id for e in found})} {split} rows are longer than the context of {context} '
                     f'tokens with their answer (first: row {long[0]}; longest: {max(lengths)} tokens); raise model.context, '
                     'or leave them out of the file')
