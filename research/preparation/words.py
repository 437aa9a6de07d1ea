"""Texts as hashes of their words, on disk: what duplicates and leaks are found by, a few bytes a row in memory."""

import hashlib
import os
import re
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np

# A word is a run of letters and digits; of scripts that put no blanks between words a character.
_WORD = re.compile('[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+')
SHINGLE = 3             # words that stand together, by which two texts are compared
BANDS, IN_BAND = 25, 5  # at a similarity of 0.8 two texts miss each other in all bands once in 20,000 times
SEED = 17               # of the signatures: the same rows give the same result
AT_ONCE = 4096          # rows whose stretches are made together
_MULTIPLIER = np.uint64(0x9e3779b97f4a7c15)


class _Digests(dict[str, int]):
  """Word -> its hash, those that were asked for lately; words are made up without end, and few of them come again."""

  def __missing__(self, word: str) -> int:
    if len(self) > 200_000:
      self.clear()
    found = self[word] = _digest(word)
    return found


_digests = _Digests()


def _digest(text: str) -> int:
  return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), 'little')


def split(text: str) -> list[str]:
  """The words of a text, in small letters."""
  return _WORD.findall(text.casefold())


class Hashes(NamedTuple):
  """Of some texts."""
  counts: np.ndarray      # [N] int64: how many words each has
  words: np.ndarray       # [W] uint64: of all words, text by text
  exact: np.ndarray       # [N] uint64: of the whole text, in small letters and blanks made even
  bands: np.ndarray       # [N, BANDS] uint64: texts that are alike agree in some band


def hashes(texts: Sequence[str]) -> Hashes:
  """What texts are compared by."""
  import rensa
  of = [split(text) for text in texts]
  counts = np.array([*map(len, of)], np.int64)
  words = np.fromiter((_digests[word] for one in of for word in one), np.uint64, int(counts.sum()))
  exact = np.array([_digest(' '.join(text.casefold().split())) for text in texts], np.uint64)
  row, found = _shingles_of_all(words, counts)
  ends = np.searchsorted(row, np.arange(len(texts) + 1))
  matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(found.tolist(), ends.tolist(), BANDS * IN_BAND, SEED)
  rows = np.array(matrix.to_rows(), np.uint64).reshape(len(texts), BANDS, IN_BAND)
  keys = np.zeros((len(texts), BANDS), np.uint64)
  for part in range(IN_BAND):
    keys = keys * _MULTIPLIER + rows[:, :, part]
  return Hashes(counts, words, exact, keys)


def _shingles_of_all(words: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """[G] int64, of rows in their order, and [G] uint64, their shingles as `shingles` has them, but some more than once.

  Args:
    words: [W] uint64 of all rows.
    counts: [N] int64, how many each row has.
  """
  row = np.repeat(np.arange(len(counts)), counts)
  whole = row[SHINGLE - 1:] == row[:max(0, len(row) - SHINGLE + 1)]      # stretches within one row
  found, of = stretches(words, SHINGLE)[whole], row[SHINGLE - 1:][whole]
  few = np.flatnonzero((counts > 0) & (counts < SHINGLE))
  starts = np.cumsum(counts) - counts
  short = [stretches(words[starts[n]:starts[n] + counts[n]], int(counts[n])) for n in few]
  of, found = np.concatenate([of, few]), np.concatenate([found, *short])
  order = np.argsort(of, kind='stable')
  return of[order], found[order]


class Words:
  """The words of all rows: one file of their hashes, and one for each band of the signatures."""

  def __init__(self, folder: Path):
    """
    Args:
      folder: where the files are made; it exists.
    """
    self._folder = folder
    self._starts = array('q', [0])
    self.exact = array('Q')                      # see `Hashes`, of each row
    self._words = open(folder / 'words', 'w+b')      # noqa: SIM115  # closed in `__exit__`
    self._bands = [open(folder / f'band{number}', 'wb') for number in range(BANDS)]      # noqa: SIM115

  def __enter__(self) -> 'Words':
    return self

  def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
    for file in (self._words, *self._bands):
      file.close()

  def add(self, found: Hashes) -> None:
    """Some rows more."""
    self._starts.frombytes((np.cumsum(found.counts) + self._starts[-1]).astype(np.int64).tobytes())
    self._words.write(found.words.tobytes())
    self.exact.frombytes(found.exact.tobytes())
    for number, file in enumerate(self._bands):
      file.write(np.ascontiguousarray(found.bands[:, number]).tobytes())

  def finish(self) -> None:
    """Makes what was added readable."""
    for file in (self._words, *self._bands):
      file.flush()

  def of(self, row: int) -> np.ndarray:
    """[W] uint64: the hashes of a row's words."""
    return self._read(self._starts[row], self._starts[row + 1])

  def _read(self, start: int, end: int) -> np.ndarray:
    return np.frombuffer(os.pread(self._words.fileno(), 8 * (end - start), 8 * start), np.uint64)

  def grams(self, rows: np.ndarray, count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Hashes of all stretches of so many words, some rows at a time: [G] int64, the row of each, and [G] uint64, the hashes.

    Args:
      rows: [N] int64, their numbers in order; those that have fewer words have no stretch.
      count: words of a stretch.
    """
    starts = np.frombuffer(self._starts, np.int64)
    for some in (rows[at:at + AT_ONCE] for at in range(0, len(rows), AT_ONCE)):
      first, past = starts[some], starts[some + 1]
      words = self._read(int(first[0]), int(past[-1]))
      of = np.full(len(words), -1)                                # rows between these are of none
      for number, one, end in zip(some.tolist(), (first - first[0]).tolist(), (past - first[0]).tolist()):
        of[one:max(one, end - count + 1)] = number
      found = stretches(words, count)
      of = of[:len(found)]
      yield of[of >= 0], found[of >= 0]

  def candidates(self, rows: np.ndarray, side: np.ndarray | None = None) -> np.ndarray:
    """[P, 2] int64, the earlier row first: those that agree in some band, each with the row before and the first.

    Args:
      rows: [N] int64, the numbers of those that are compared, in order.
      side: [N] bool; given, rows are compared with those of the other side alone, each with the nearest before and after.
    """
    found = [np.empty((0, 2), np.int64)]
    for number in range(BANDS):
      keys = np.fromfile(self._folder / f'band{number}', np.uint64)[rows]
      order = np.argsort(keys, kind='stable')
      places = np.arange(len(order))
      begins = np.ones(len(order), bool)                     # places of which the key is not the one before
      begins[1:] = keys[order[1:]] != keys[order[:-1]]
      first = np.maximum.accumulate(np.where(begins, places, 0))
      if side is None:
        same = places[~begins]
        pairs = [(same - 1, same), (first[same], same)]
      else:
        pairs = [(before[ok], places[ok]) for of in (True, False)
                 for before in [np.maximum.accumulate(np.where(side[order] == of, places, -1))]
                 for ok in [(before >= first) & (side[order] != of)]]
        last = np.append(np.flatnonzero(begins)[1:], len(order))[np.cumsum(begins) - 1] if len(order) else places
        pairs += [(places[ok], after[ok]) for of in (True, False)
                  for after in [np.minimum.accumulate(np.where(side[order] == of, places, len(order))[::-1])[::-1]]
                  for ok in [(after < last) & (side[order] != of)]]
      found = [np.unique(np.concatenate([*found, *(rows[np.stack([order[a], order[b]], 1)] for a, b in pairs)]), axis=0)]
    return found[0]

  def counts(self, rows: np.ndarray) -> np.ndarray:
    """[N] int64: how many words each of these rows has."""
    starts = np.frombuffer(self._starts, np.int64)
    return starts[rows + 1] - starts[rows]

  def similarity(self, row: int, other: int) -> float:
    """Jaccard's, of the sets of all stretches of `SHINGLE` words."""
    a, b = (shingles(self.of(one), SHINGLE) for one in (row, other))
    both = len(np.intersect1d(a, b, assume_unique=True))
    return both / max(1, len(a) + len(b) - both)


_NONE = np.empty(0, np.uint64)


def stretches(hashes: np.ndarray, count: int) -> np.ndarray:
  """[W - count + 1] uint64: a hash of every `count` words that stand together, of words [W]."""
  if len(hashes) < count:
    return np.empty(0, np.uint64)
  found = np.zeros(len(hashes) - count + 1, np.uint64)
  for part in range(count):
    found = found * _MULTIPLIER + hashes[part:len(hashes) - count + 1 + part]
  return found ^ (found >> np.uint64(29))


def shingles(hashes: np.ndarray, count: int) -> np.ndarray:
  """[G] uint64: the set of the stretches of words [W], in order; of fewer words, that one stretch."""
  return np.unique(stretches(hashes, min(count, max(1, len(hashes)))))
