"""Plain text as something to learn from: the next token of a language model, or for T5 what stood in a text's gaps.

A row is {'text': …}. Texts longer than the model reads are cut into pieces; nothing else is done to them.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from research.data import tasks
from research.data.prompts import Example
from research.data.rows import Row
from research.data.tasks import Task
from research.data.tokenizer import Tokenizer, sentinel
from research.errors import InputError


def pieces(rows: Sequence[Row], tokenizer: Tokenizer, longest: int) -> list[tuple[Row, list[int]]]:
  """Each text's ids, in pieces of at most `longest` tokens, with the row that they came from.

  Args:
    rows: each with a text.
    tokenizer: no special token is added to the texts.
    longest: tokens of a piece; the last piece of a text may be shorter.
  Raises:
    InputError: `longest` is below 1.
  """
  if longest < 1:
    raise InputError('model.context: leaves no room for any piece of a text; raise it')
  known = tokenizer.encode_all(row['text'] for row in rows)
  texts = [(row, known[row['text']]) for row in rows]
  return [(row, ids[i:i + longest]) for row, ids in texts for i in range(0, len(ids), longest)]


def next_token(rows: Sequence[Row], tokenizer: Tokenizer, context: int) -> list[Example]:
  """Every token of every text is predicted from those before it in its piece, the first from BOS (EOS where the model has
  none); EOS after the text.

  Args:
    rows: each with a text.
    tokenizer: of the model that reads them.
    context: the most tokens that the model reads at one time, 3 or more: a piece has two fewer, for BOS and EOS.
  """
  first = tokenizer.eos if tokenizer.bos is None else tokenizer.bos
  found = pieces(rows, tokenizer, context - 2)
  ends = [number + 1 == len(found) or found[number + 1][0] is not row for number, (row, _) in enumerate(found)]
  return [Example(number, row, '', tokenizer.decode(ids), [first], [*ids, tokenizer.eos] if last else ids, {})
          for number, ((row, ids), last) in enumerate(zip(found, ends))]


def byte_counts(found: Sequence[Example]) -> list[int]:
  """UTF-8 bytes of the pieces of texts, together those of the texts: a cut within a character, or a blank that a tokenizer does
  not write, is made up for by the last piece."""
  counts, left = [], 0
  for number, e in enumerate(found):
    if not number or found[number - 1].row is not e.row:
      left = len(e.row['text'].encode())
    last = number + 1 == len(found) or found[number + 1].row is not e.row
    counts.append(left if last else min(left, len(e.target.encode())))
    left -= counts[-1]
  return counts


class Corrupted:
  """Texts with gaps: `source` keeps a sentinel for each gap, and the target says what stood there (span corruption, Raffel et
  al. 2020), or is the whole text (denoising, as BART's text infilling, Lewis et al. 2020).

  A text of one length always gives a source and a target of one length each, wherever its gaps fall.
  """

  def __init__(self, rows: Sequence[Row], tokenizer: Tokenizer, context: int, noise: float, span: float, seed: int,
               whole: bool = False):
    """
    Args:
      rows: each with a text.
      tokenizer: its vocabulary has sentinels (see `data.tokenizer.sentinel`).
      context: the most tokens that the model reads at one time; a piece of a text has one fewer, for EOS.
      noise: the share of a text's tokens that go into gaps.
      span: how many tokens go into one gap, on average.
      seed: of where the gaps fall, with the text's number and the epoch.
      whole: the target is the whole text; otherwise what stood in the gaps.
    Raises:
      InputError: the vocabulary has too few sentinels, or no text two tokens.
    """
    self._pieces = [(row, ids) for row, ids in pieces(rows, tokenizer, context - 1) if len(ids) > 1]
    if not self._pieces:
      raise InputError('task.objective: no piece of a text has two tokens, one to keep and one for a gap')
    self._tokenizer, self._noise, self._span, self._seed, self._whole = tokenizer, noise, span, seed, whole
    most = max(self._gaps(len(ids))[1] for _, ids in self._pieces)
    known = tokenizer.hf.get_vocab()
    missing = next((i for i in range(most) if sentinel(i) not in known), None)
    if missing is not None:
      raise InputError(f'task.objective: a text needs {most} sentinels, but the vocabulary has only '
                       f'{missing} ({sentinel(0)}, …); shorten the texts with model.context, or raise task.span')
    self._sentinels = [known[sentinel(i)] for i in range(most)]

  def __len__(self) -> int:
    return len(self._pieces)

  def _gaps(self, length: int) -> tuple[int, int]:
    """How many tokens of a text go into gaps, and how many gaps there are."""
    tokens = min(max(round(length * self._noise), 1), length - 1)
    return tokens, min(max(round(tokens / self._span), 1), length - tokens)

  def example(self, number: int, epoch: int = 0) -> Example:
    """The number-th text with the gaps of one epoch: a pure function of (number, epoch)."""
    row, ids = self._pieces[number]
    rng = np.random.Generator(np.random.Philox(key=[self._seed, (epoch << 32) + number]))
    tokens, gaps = self._gaps(len(ids))
    inside, outside = _parts(tokens, gaps, rng), _parts(len(ids) - tokens + 2, gaps + 1, rng)
    outside[0] -= 1                              # a text may begin and end in a gap
    source: list[int] = []
    target: list[int] = []
    at = 0
    for mark, kept, lost in zip(self._sentinels, outside, inside):
      source += [*ids[at:at + kept], mark]
      target += [mark, *ids[at + kept:at + kept + lost]]
      at += kept + lost
    source += ids[at:]
    if self._whole:
      target = ids

    def say(ids: list[int]) -> str:
      return self._tokenizer.hf.decode(ids, clean_up_tokenization_spaces=False)  # type: ignore[return-value]  # str of one list
    eos = [self._tokenizer.eos]
    return Example(number, row, say(source), say(target), [*source, *eos], [*target, *eos], {})


def _parts(total: int, count: int, rng: np.random.Generator) -> list[int]:
  """`total` as a sum of `count` numbers above 0, every way equally likely."""
  cuts: Iterable[int] = np.sort(rng.choice(total - 1, count - 1, replace=False)) + 1 if count > 1 else []
  return np.diff([0, *cuts, total]).astype(int).tolist()


def with_objective(task: Task, has_encoder: bool) -> Task:
  """The task with what a model of this kind learns of plain text.

  Args:
    task: of any kind.
    has_encoder: whether the model has one.
  Raises:
    InputError: the task names an objective of the other kind.
  """
  if task.objective is None:
    return task._replace(objective='span_corruption' if has_encoder else 'continuation')
  if task.objective in tasks.GAPS and not has_encoder:
    raise InputError(f'task.objective={task.objective}: needs a model with an encoder, such as T5')
  if task.objective in tasks.GAPS and tasks.BITS_PER_BYTE in task.metrics:
    raise InputError(f'task.metrics: {tasks.BITS_PER_BYTE} is of whole texts and answers, not of gaps (task.objective='
                     f'{task.objective})')
  if task.objective == 'continuation' and has_encoder:
    raise InputError(f'task.objective=continuation: a model with an encoder learns plain text by {" or ".join(tasks.GAPS)}')
  return task
