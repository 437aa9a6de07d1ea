"""A conversation with a loss on each of the assistant's turns: where they stand in what the chat template makes of it.

A template that marks what the assistant says with `{% generation %}` is taken at its word. Of another one a turn is what
follows the prompt for it (the turns before, and the template's words that ask for the next), up to the token that ends it.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from research.data import prompts, tasks
from research.data.prompts import Example
from research.data.rows import Row
from research.data.tasks import Task
from research.data.tokenizer import Tokenizer
from research.errors import InputError

Messages = list[dict[str, str]]
Span = tuple[int, int]
TAG = re.compile(r'\{%-?\s*generation\s*-?%\}')      # as transformers looks for it


class Altered(NamedTuple):
  """Turns of a row that its chat template does not write as they are: their numbers, from 1, and who speaks."""
  row: int
  left_out: list[tuple[int, str]]
  rewritten: list[tuple[int, str]]
  unlearned: int = 0      # of the assistant's that were to be learned, and cannot


def examples(task: Task, rows: Sequence[Row], tokenizer: Tokenizer) -> tuple[list[Example], list[Altered]]:
  """Rows to learn from, with what is `learned` of the prompt beside the last turn; rows without turns as ever.

  Prompt and target are the conversation as transformers tokenises it, whole, up to the end of the last turn that is learned.

  Args:
    task: says what answers turns that end with a question.
    rows: of one split, numbered from 0.
    tokenizer: has the chat template.
  Raises:
    InputError: a row cannot be rendered, or nothing of it can be learned.
  """
  chats = {number: row for number, row in enumerate(rows) if task.chat or 'messages' in row}
  others = [number for number in range(len(rows)) if number not in chats]
  plain = prompts.examples(task, [rows[number] for number in others], tokenizer)
  found = {number: e._replace(id=number) for number, e in zip(others, plain)}
  altered: list[Altered] = []
  if not chats:
    return [*found.values()], altered
  if not tokenizer.hf.is_fast:
    raise InputError('task.turns=all: needs a tokenizer that says where in a text its tokens stand (a tokenizer.json)')
  end, closing, marks = tokenizer.end_of_turn(), tokenizer.closing(), TAG.search(tokenizer.hf.get_chat_template())
  for number, row in chats.items():
    try:
      messages = list(row['messages']) if tasks.answered(task, row) else prompts.turns_of(task, row, answered=True)
      text = tokenizer.conversation(messages)
      ids, spans = _marked(messages, tokenizer) if marks else _found(messages, text, tokenizer, closing)
      one = altered_turns(number, messages, text, tokenizer, learned=len(spans))
      says = sum(turn['role'] == 'assistant' for turn in messages)
      if not spans or (one and sum(role == 'assistant' for _, role in one.left_out) == says):
        raise InputError('the chat template leaves out, or does not mark, all that the assistant says: nothing is left')
    except InputError as e:
      raise InputError(f'row {number}: {e}') from None
    whole = tokenizer.as_prompt(ids)
    shift = len(whole) - len(ids)
    *learned, (first, last) = [(max(start + shift, 1), stop + shift) for start, stop in spans]
    target = [*whole[first:last], *([] if marks or whole[last - 1] == end else [end])]      # a template may write no end
    found[number] = Example(number, row, text, prompts.answer(task, row), whole[:first], target, {}, learned=tuple(learned))
    altered += [one] if one else []
  return [found[number] for number in range(len(rows))], altered


def _marked(messages: Messages, tokenizer: Tokenizer) -> tuple[list[int], list[Span]]:
  """A conversation's ids, and the stretches of them that the template marks."""
  found: Any = tokenizer.hf.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
  return tokenizer.known(found['input_ids']), [*_stretches(found['assistant_masks'])]


def _stretches(mask: Sequence[int]) -> Iterator[Span]:
  first = None
  for at, one in enumerate([*mask, 0]):
    if one and first is None:
      first = at
    elif not one and first is not None:
      yield first, at
      first = None


def _found(messages: Messages, text: str, tokenizer: Tokenizer, closing: str) -> tuple[list[int], list[Span]]:
  """A conversation's ids, and the stretches of them that the assistant says, each with the token that ends it.

  A token that stands across the border of a stretch belongs to it, as transformers has it.

  Args:
    messages: the turns.
    text: what the template makes of them.
    tokenizer: has the template.
    closing: what ends a turn.
  """
  encoded: Any = tokenizer.hf(text, add_special_tokens=False)
  offsets = encoded.encodings[0].offsets
  found: list[Span] = []
  last = 0
  for number, turn in enumerate(messages):
    where = _place(messages, number, text, tokenizer, last) if turn['role'] == 'assistant' else None
    if where is None:
      continue
    start, end = where
    rest = text[end:].lstrip()
    if closing and rest.startswith(closing.lstrip()):
      end = len(text) - len(rest) + len(closing.lstrip())
    last = end
    tokens = [at for at, (first, stop) in enumerate(offsets) if first < end and stop > start]
    if tokens:
      found.append((tokens[0], tokens[-1] + 1))
  return tokenizer.known(encoded['input_ids']), found


def _place(messages: Messages, number: int, text: str, tokenizer: Tokenizer, after: int) -> Span | None:
  """Where in a conversation's text what an assistant says begins and ends; None where it cannot be told.

  Args:
    messages: the turns.
    number: of the turn, from 0.
    text: what the template makes of them.
    tokenizer: has the template.
    after: where the turn before has ended.
  """
  try:
    prompt = tokenizer.chat(messages[:number])
  except InputError:      # such as a template that wants a question first
    prompt = None
  said = messages[number]['content'].strip()
  start = len(prompt) if prompt is not None and text.startswith(prompt) and len(prompt) >= after else None
  if start is not None and text[start:].lstrip().startswith(said):
    return start, text.index(said, start) + len(said)
  before, marked, behind = _with_mark(messages, [number], tokenizer).partition(_mark(number))
  if not marked or not text.endswith(behind):
    return None
  if start is None:
    start = len(before) if text.startswith(before) and len(before) >= after else None
  end = len(text) - len(behind)
  return (start, end) if start is not None and start < end else None


def _mark(number: int) -> str:
  """A text that no template has, and no row."""
  return f'\uf5d0{number}\uf5d1'


def _with_mark(messages: Messages, numbers: Sequence[int], tokenizer: Tokenizer) -> str:
  """The conversation as the template writes it where these turns said their mark."""
  try:
    return tokenizer.conversation([{**turn, 'content': _mark(number)} if number in numbers else turn
                                   for number, turn in enumerate(messages)])
  except InputError:
    return ''


def altered_turns(row: int, messages: Messages, text: str, tokenizer: Tokenizer, learned: int | None = None) -> Altered | None:
  """Which turns a template leaves out, or writes otherwise than they are but for blanks around them; None where there are none.

  Args:
    row: its number.
    messages: the turns.
    text: what the template makes of them.
    tokenizer: has the template.
    learned: how many turns of the assistant's have a loss; None: the last alone.
  """
  bare = _with_mark(messages, range(len(messages)), tokenizer)
  places = {number: bare.find(_mark(number)) for number, turn in enumerate(messages) if bare and turn['content'].strip()}
  left_out = [number for number, place in places.items() if place < 0]
  rewritten, at = [], 0
  for number in sorted(places.keys() - {*left_out}, key=places.__getitem__):
    said = messages[number]['content'].strip()
    place = text.find(said, at)
    if place < 0:
      rewritten.append(number)
    else:
      at = place + len(said)
  of_assistant = sum(turn['role'] == 'assistant' for turn in messages)
  unlearned = 0 if learned is None else max(of_assistant - learned, 0)
  if not left_out and not rewritten and not unlearned:
    return None
  named = lambda numbers: [(number + 1, messages[number]['role']) for number in sorted(numbers)]
  return Altered(row, named(left_out), named(rewritten), unlearned)


def altered_prompts(task: Task, found: Sequence[Example], tokenizer: Tokenizer) -> list[Altered]:
  """The rows of chats in whose prompts turns are not written as they are.

  Args:
    task: says how a row becomes turns.
    found: as `prompts.examples` gives them.
    tokenizer: has the chat template.
  """
  turns = lambda e: prompts.turns_of(prompts.under(task, e.template), e.row, answered=False)
  altered = [altered_turns(e.id, turns(e), e.prompt, tokenizer) for e in found if task.chat or 'messages' in e.row]
  return [one for one in altered if one]


def told(altered: Sequence[Altered], rows: int, split: str, every_turn: bool = False) -> str:
  """A line about what a template leaves out or rewrites; empty where it writes everything as it is.

  Args:
    altered: the rows where it does not.
    rows: how many there are in all.
    split: what they are called.
    every_turn: whether each of the assistant's turns was to be learned.
  """
  if not altered:
    return ''
  said = []
  for verb, field in (('leaves turns out', 'left_out'), ('rewrites turns', 'rewritten')):
    those = [(one.row, *getattr(one, field)[0]) for one in altered if getattr(one, field)]
    if those:
      row, turn, role = those[0]
      said.append(f'{verb} of {len(those)} (first: row {row}, turn {turn}, the {role}\'s)')
  unlearned = sum(one.unlearned for one in altered)
  effect = 'the model reads what it writes'
  if every_turn:
    effect = 'the assistant\'s are learned as it writes them' + (f', and {unlearned} that it does not write, or not in a place '
                                                                'of their own, are not learned' if unlearned else '')
  return f'{split}: of {rows} rows the chat template {" and ".join(said) or "marks fewer turns than there are"}; {effect}'
