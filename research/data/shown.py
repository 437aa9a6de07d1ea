"""Rows as the model reads them, for a terminal: token ids written out, special tokens too, and what has a loss marked."""

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rich.cells import cell_len

from research.data import batches, prompts, turns
from research.data.batches import Document
from research.data.prompts import Example
from research.data.rows import Row
from research.data.tasks import Task
from research.data.tokenizer import Tokenizer

WIDTH = 80                                   # columns
OPENS, CLOSES, BREAK = '⟦', '⟧', '↵'         # around what is learned, where there is no colour; a line break
HALF = '\ufffd'                              # what decoders write for bytes that are no character
LEARNED, SPECIAL, HEAD = '32', '2', '1'      # green, dim, bold: SGR codes of a terminal


class Reading(NamedTuple):
  """A sequence of tokens, and which of them have a loss."""
  ids: list[int]
  learned: list[bool]
  label: str = ''


def of_task(task: Task, rows: Sequence[Row], tokenizer: Tokenizer, start: int | None = None, colour: bool = False) -> list[str]:
  """Rows of a task as training reads them, without a model.

  Args:
    task: not of plain text.
    rows: of one split, from its first on.
    tokenizer: of the model that is to read them; `appends_eos` where an encoder does.
    start: the decoder's start token, where an encoder reads the prompt.
    colour: as for `lines`.
  """
  found = turns.examples(task, rows, tokenizer)[0] if task.turns == 'all' else prompts.examples(task, rows, tokenizer)
  document = batches.prompt_with_choices if task.rejected else batches.prompt_with_answer
  return lines(found, [document(e, start) for e in found], tokenizer, colour)


def lines(examples: Sequence[Example], documents: Sequence[Document], tokenizer: Tokenizer, colour: bool, context: int = 0,
          loss: str = 'learned') -> list[str]:
  """Rows in lines of at most 80 columns.

  Args:
    examples: name the rows, and their choices.
    documents: the same rows as a batch is made of them.
    tokenizer: of the model that reads them.
    colour: for a terminal that has some; without it, what has a loss stands in ⟦ ⟧.
    context: the most tokens that the model reads at one time; 0: not told.
    loss: what the tokens with a loss are called.
  """
  mark = 'green' if colour else f'in {OPENS} {CLOSES}'
  found = [f'{mark}: what is {loss}; {BREAK} ends a line of the text']
  for example, document in zip(examples, documents):
    readings = _readings(example, document)
    found += ['', _styled(_headline(example, document, context, loss), HEAD if colour else '')]
    for one in readings:
      found += [f'  {one.label}:'] if one.label else []
      found += _laid_out(_cells(one, tokenizer, colour), indent=4 if one.label else 2)
  return found


def _headline(example: Example, document: Document, context: int, loss: str) -> str:
  """One line about a row: how long it is, and how much of it has a loss."""
  room = f' of {context:,}' if context else ''
  answers, count = _answers(document), len(document.targets)
  if document.source:
    said = f'the encoder reads {len(document.source):,} tokens{room}, the decoder {len(answers[0][1]):,}'
  else:
    longest = max(len(ids) for _, ids in answers)
    said = f'{document.branches.count(0) + longest:,} tokens{room}' + (' with the longer answer' if len(answers) > 1 else '')
  return f'row {example.id}: {said}; {count:,} {loss}'


def _readings(example: Example, document: Document) -> list[Reading]:
  """What a document has the model read: its trunk with its answer, or apart where there are several; and a row's choices."""
  answers, P = _answers(document), document.branches.count(0)
  trunk, learned = document.tokens[:P], [False] * P
  for at in document.index:
    if at < P - 1:
      learned[at + 1] = True
  whole = lambda label, ids, known: Reading([*known.ids, *ids], [*known.learned, *[True] * len(ids)], label)
  nothing, begun = Reading([], []), Reading(trunk, learned)
  if document.source:
    source = list(document.source)
    found = [Reading(source, [False] * len(source), 'the encoder reads'), whole('the decoder', answers[0][1], begun)]
  elif len(answers) == 1:
    found = [whole('', answers[0][1], begun)]
  else:
    found = [begun._replace(label='prompt'), *(whole(name, ids, nothing) for name, (_, ids) in zip(example.choices, answers))]
  if len(answers) == 1:
    found += [Reading(ids, [False] * len(ids), f'choice {name}, {len(ids)} token{"s" if len(ids) > 1 else ""}')
              for name, ids in example.choices.items()]
  return found


def _answers(document: Document) -> list[tuple[int, list[int]]]:
  """(where its first token is predicted, ids) of each answer."""
  P, found = document.branches.count(0), []      # each answer begins after the trunk's last token
  for at, token in zip(document.index, document.targets):
    if at == P - 1:
      found.append((at, [token]))
    elif at >= P:
      found[-1][1].append(token)
  return found


def _cells(one: Reading, tokenizer: Tokenizer, colour: bool) -> Iterator[tuple[str, str]]:
  """(character, style) of each that is written; without colour, with marks around what is learned."""
  special = {i for i, token in tokenizer.hf.added_tokens_decoder.items() if token.special} | {*tokenizer.hf.all_special_ids}
  kind = lambda at: (one.learned[at], 'soft' if one.ids[at] < 0 else 'special' if one.ids[at] in special else 'text')
  inside = False
  for (learned, what), group in itertools.groupby(range(len(one.ids)), kind):
    places = [*group]
    ids = [one.ids[at] for at in places]
    if learned != inside and not colour:
      yield (OPENS if learned else CLOSES), ''
    inside = learned
    if what == 'text':
      text = _visible(_text(ids, one.ids[places[0] - 1:places[0]], tokenizer))
    else:
      text = f'<soft prompt: {len(ids)}>' if what == 'soft' else ''.join(tokenizer.hf.convert_ids_to_tokens(ids))
    style = ';'.join([LEARNED] * learned + [SPECIAL] * (what != 'text' and not learned) + [HEAD] * (what != 'text' and learned))
    yield from ((c, style if colour else '') for c in text)
  if inside and not colour:
    yield CLOSES, ''


def _text(ids: list[int], before: list[int], tokenizer: Tokenizer) -> str:
  """Ids as they read after the token before them, if that is a whole character: some vocabularies give a first one no blank."""
  decode = lambda ids: str(tokenizer.hf.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
  before = [i for i in before if i >= 0]
  first, both = decode(before), decode([*before, *ids])
  return both[len(first):] if both.startswith(first) and not first.endswith(HALF) else decode(ids)


def _visible(text: str) -> str:
  """A text without characters that would move a terminal's cursor or not be seen; line breaks stay."""
  return ''.join(c if c.isprintable() or c == '\n' else c.encode('unicode_escape').decode() for c in text)


def _laid_out(cells: Iterator[tuple[str, str]], indent: int) -> list[str]:
  """Lines that hold the characters; one that is too long goes on in the next."""
  rows: list[list[tuple[str, str]]] = [[]]
  used = 0
  for c, style in cells:
    width = cell_len(c)
    if used + width >= WIDTH - indent:           # a column is left for a line break
      rows.append([])
      used = 0
    if c == '\n':
      rows[-1].append((BREAK, style))
      rows.append([])
      used = 0
    else:
      rows[-1].append((c, style))
      used += width
  styled = lambda row: ''.join(_styled(''.join(c for c, _ in some), style)
                               for style, some in itertools.groupby(row, lambda cell: cell[1]))
  return [' ' * indent + styled(row) for row in rows if row]


def _styled(text: str, style: str) -> str:
  return f'\x1b[{style}m{text}\x1b[0m' if style else text
