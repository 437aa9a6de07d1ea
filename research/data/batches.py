"""Documents, lines and batches: how token ids of any length become arrays of one shape.

A document is what the model reads as one piece: a prompt with its answer, or with several answers side by side, each on a
branch of its own. Where the model has an encoder, that reads the prompt (the document's `source`) and the tokens begin with
the decoder's start. Documents share lines: segments keep them apart (`models.layers.attention_mask`), positions restart, and
the loss of a document does not depend on its neighbours.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np

from research.data import paraphrases
from research.data.batch import Batch
from research.data.prompts import Example


class Document(NamedTuple):
  """A tree of tokens: a trunk and its branches, with the targets that are predicted along them."""
  tokens: list[int]
  positions: list[int]
  branches: list[int]      # 0 on the trunk, 1, 2, … on the branches
  index: list[int]         # type: ignore[assignment]  # where each target's prediction is made; hides tuple's method
  targets: list[int]
  source: Sequence[int] = ()     # what an encoder reads


class Layout(NamedTuple):
  """Where a document's targets stand in the arrays: `[line, start:start + count]`."""
  document: int
  line: int
  start: int
  count: int              # type: ignore[assignment]  # hides tuple's method


def prompt_with_answer(example: Example, start: int | None = None) -> Document:
  """The prompt and its target, to learn from or to score: the loss is on the target, and on what is `learned` of the prompt.

  Args:
    example: a row as token ids.
    start: the decoder's start token, where an encoder reads the prompt; None: there is no encoder.
  """
  return prompt_with_answers(example.prompt_ids, [example.target_ids], start, example.learned)


def prompt_with_choices(example: Example, start: int | None = None) -> Document:
  """The prompt once, with every choice on a branch; the targets are the choices' tokens in their order, each with its end.

  Args:
    example: a row as token ids; it has choices, which end as its target does.
    start: as for `prompt_with_answer`.
  """
  end = example.target_ids[-1]
  return prompt_with_answers(example.prompt_ids, [[*ids, end] for ids in example.choices.values()], start)


def prompt_with_answers(prompt: list[int], answers: Sequence[list[int]], start: int | None,
                        learned: Sequence[tuple[int, int]] = ()) -> Document:
  """The prompt once, with every answer on a branch; the targets are what is learned of the prompt, then the answers' tokens.

  Args:
    prompt: its ids.
    answers: the ids of one or more.
    start: as for `prompt_with_answer`.
    learned: stretches of the prompt that are targets too.
  """
  source, prompt = ((), prompt) if start is None else (prompt, [start])
  P = len(prompt)
  tokens, positions, branches = list(prompt), list(range(P)), [0] * P
  index = [at - 1 for first, end in learned for at in range(first, end)]
  targets = [prompt[at + 1] for at in index]
  for branch, answer in enumerate(answers, 1):
    index += [P - 1, *range(len(tokens), len(tokens) + len(answer) - 1)]
    targets += answer
    tokens += answer[:-1]
    positions += range(P, P + len(answer) - 1)
    branches += [branch] * (len(answer) - 1)
  return Document(tokens, positions, branches, index, targets, source)


def round_up(n: int, multiple: int) -> int:
  return -(-n // multiple) * multiple


class LineCapacity(NamedTuple):
  """How much stands on one line."""
  tokens: int              # L, that the decoder reads
  source: int = 0          # S, that an encoder reads; 0 where there is none

  def holds(self, tokens: int, source: int) -> bool:
    return tokens <= self.tokens and source <= self.source

  def share(self, tokens: int, source: int) -> float:
    return max(tokens / self.tokens, source / self.source if self.source else 0)


def room_for(documents: Sequence[Document], at_least: int) -> LineCapacity:
  """Lines that hold every document and as many short ones as fit on `at_least` tokens."""
  tokens = max(len(d.tokens) for d in documents)
  source = max(len(d.source) for d in documents)
  if not source:
    return LineCapacity(round_up(max(at_least, tokens), 32))
  source = round_up(max(at_least, source), 32)
  usual = sum(len(d.tokens) for d in documents) / sum(len(d.source) for d in documents)      # for each token of the source
  return LineCapacity(round_up(max(tokens, int(1.25 * usual * source)), 32), source)


def first_fit_decreasing(sizes: Sequence[tuple[int, int]], room: LineCapacity) -> list[list[int]]:
  """First-fit decreasing: document numbers per line; equal input gives equal output.

  Args:
    sizes: of each document, the tokens of its decoder's and of its encoder's side.
    room: of one line; every document fits into it.
  """
  lines: list[list[int]] = []
  free: list[LineCapacity] = []
  for i in sorted(range(len(sizes)), key=lambda i: (-room.share(*sizes[i]), i)):
    line = next((n for n, left in enumerate(free) if left.holds(*sizes[i])), None)
    if line is None:
      lines.append([])
      free.append(room)
      line = len(lines) - 1
    lines[line].append(i)
    free[line] = LineCapacity(free[line].tokens - sizes[i][0], free[line].source - sizes[i][1])
  return lines


def pack(documents: Sequence[Document], lines: list[list[int]], room: LineCapacity,
         targets: int) -> tuple[Batch, list[Layout]]:
  """Lays documents out in lines.

  Args:
    documents: the documents that `lines` numbers; others may be among them.
    lines: document numbers per line, as `first_fit_decreasing` gives them; an empty line is padding.
    room: L and S of every line.
    targets: T of every line, at least `most_targets`.
  Returns:
    The batch, with `branches` where some document has several answers, and where each document's targets stand.
  """
  B, several = len(lines), any(max(d.branches) > 1 for d in documents)
  empty = lambda length: np.zeros((B, length), np.int32)
  batch = Batch(empty(room.tokens), empty(room.tokens), empty(room.tokens), index=empty(targets), targets=empty(targets),
                weights=np.zeros((B, targets), np.float32))
  if several:
    batch = batch._replace(branches=empty(room.tokens))
  if room.source:
    batch = batch.with_source(Batch(empty(room.source), empty(room.source), empty(room.source)))
  layout = []
  for b, line in enumerate(lines):
    at = used = read = 0
    for segment, number in enumerate(line, 1):
      d = documents[number]
      end = at + len(d.tokens)
      batch.tokens[b, at:end], batch.positions[b, at:end], batch.segments[b, at:end] = d.tokens, d.positions, segment
      if batch.branches is not None:
        batch.branches[b, at:end] = d.branches
      stop = used + len(d.targets)
      batch.index[b, used:stop] = np.asarray(d.index) + at
      batch.targets[b, used:stop], batch.weights[b, used:stop] = d.targets, 1
      layout.append(Layout(number, b, used, len(d.targets)))
      if d.source:
        until = read + len(d.source)
        batch.source_tokens[b, read:until], batch.source_positions[b, read:until] = d.source, range(len(d.source))
        batch.source_segments[b, read:until] = segment
        read = until
      at, used = end, stop
  return batch, layout


def order(count: int, seed: int, start: int) -> Iterator[int]:
  """Row numbers from the `start`-th draw on: every row once an epoch, each epoch in its own order.

  A pure function of (seed, start): a run that is resumed, or runs elsewhere, sees the same rows.

  Args:
    count: how many rows there are.
    seed: of the epochs' orders.
    start: how many draws come before, in all epochs together.
  """
  epoch, at = divmod(start, count)
  while True:
    for i in np.random.Generator(np.random.Philox(key=[seed, epoch + 1])).permutation(count)[at:]:
      yield int(i)
    epoch, at = epoch + 1, 0


class TrainingBatches:
  """Batch number s of a run, for any s: a pure function of (documents, seed, s)."""

  def __init__(self, documents: Sequence[Document], batch_size: int, microbatches: int, seed: int, steps: int,
               redraw: Callable[[int, int], Document] | None = None, multiple: int = 1,
               own: Callable[[int], range | set[int]] = range, templates: int = 1):
    """
    Args:
      documents: all that there are to learn from.
      batch_size: documents a step, divided evenly over the microbatches.
      microbatches: M, the parts of a batch that are laid out apart.
      seed: of the order in which documents are drawn (see `order`).
      steps: the first ones, whose batches determine one shape for all, so that the step is compiled once; a later batch that
        needs more lines gets them, and a compilation of its own.
      redraw: (number, epoch) -> the document as that epoch sees it, as long as it stands in `documents`; without it every
        epoch sees the same.
      multiple: what the number of lines is filled up to a multiple of, with empty ones.
      own: how many lines -> the numbers of those that are asked for here; others are left empty.
      templates: how many times `documents` holds all that there is: under one template after the other, which take turns.
    """
    self._count, self._seed, self._own = len(documents) // templates, seed, own

    def document(number: int, epoch: int) -> Document:
      return documents[paraphrases.turn(number, epoch, seed, templates) * self._count + number]
    self._redraw = redraw or document
    self._part, self._parts, self._multiple = batch_size // microbatches, microbatches, multiple
    usual = sum(len(d.source) or len(d.tokens) for d in documents) / len(documents)
    self._room = room_for(documents, at_least=min(128, int(self._part * usual)))      # a small batch has short lines
    self._lines = self._targets = 1
    for step in range(steps):
      for chosen, lines in self._packed(step, document):
        self._lines = max(self._lines, len(lines))
        self._targets = max(self._targets, most_targets(chosen, lines))

  def _packed(self, step: int, document: Callable[[int, int], Document]) -> list[tuple[list[Document], list[list[int]]]]:
    count, start = self._count, step * self._part * self._parts
    draws = zip(order(count, self._seed, start), itertools.count(start))
    parts = []
    for _ in range(self._parts):
      chosen = [document(number, draw // count) for number, draw in itertools.islice(draws, self._part)]
      parts.append((chosen, first_fit_decreasing([(len(d.tokens), len(d.source)) for d in chosen], self._room)))
    return parts

  def __call__(self, step: int) -> Batch:
    """The batch of one step, every array with a leading axis of M microbatches."""
    packed = self._packed(step, self._redraw)
    lines = round_up(max(self._lines, *(len(lines) for _, lines in packed)), self._multiple)
    targets = round_up(max(self._targets, *(most_targets(*part) for part in packed)), 8)
    own = self._own(lines)
    filled = lambda found: [found[n] if n < len(found) and n in own else [] for n in range(lines)]
    parts = [pack(chosen, filled(found), self._room, targets)[0] for chosen, found in packed]
    return jax.tree.map(lambda *x: np.stack(x), *parts)


def most_targets(documents: Sequence[Document], lines: list[list[int]]) -> int:
  """The largest number of targets in one line."""
  return max(sum(len(documents[i].targets) for i in line) for line in lines)


def evaluation_batches(documents: Sequence[Document], batch_size: int,
                       multiple: int = 1) -> Iterator[tuple[Batch, list[Layout]]]:
  """All documents once, in batches of one shape: at most `batch_size` lines, filled up to a multiple with empty ones.

  Each comes as `pack` returns it, a batch and where its documents' targets stand.

  Args:
    documents: one or more.
    batch_size: the most lines of a batch, before it is filled up.
    multiple: what the number of lines is filled up to a multiple of.
  """
  room = room_for(documents, 256)
  lines = first_fit_decreasing([(len(d.tokens), len(d.source)) for d in documents], room)
  targets = round_up(most_targets(documents, lines), 8)
  count = -(-len(lines) // batch_size)
  each = -(-len(lines) // count)               # evenly, so that little of the last batch is padding
  for i in range(0, len(lines), each):
    some = lines[i:i + each]
    yield pack(documents, some + [[]] * (round_up(each, multiple) - len(some)), room, targets)
