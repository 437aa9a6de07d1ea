"""Texts as hashes of their words, on disk: what duplicates and leaks are found by, a few bytes a row in memory."""

import hashlib
import os
import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np

# A word is a run of letters and digits; of scripts that put no blanks between words a character.
_WORD = re.compile('[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+')
SHINGLE = 3             # words that stand together, by which two texts are compared
BANDS, IN_BAND = 25, 5  # at a similarity of 0.8 two texts miss each other in all bands once in 20,000 times
SEED = 17               # of the signatures: the same rows give the same result
AT_ONCE = 4096          # rows whose signatures are made together
_MULTIPLIER = np.uint64(0x9e3779b97f4a7c15)


def _digest(text: str) -> int:
  return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), 'little')


def split(text: str) -> list[str]:
  """The words of a text, in small letters."""
  return _WORD.findall(text.casefold())


class Words:
  """The words of all rows: one file of their hashes, and one for each band of the signatures."""

  def __init__(self, folder: Path):
    """
    Args:
      folder: where the files are made; it exists.
    """
    self._folder = folder
    self._known: dict[str, int] = {}
    self._starts = array('q', [0])
    self.exact = array('Q')                      # of each row the hash of its text, small letters and blanks made even
    self._words = open(folder / 'words', 'w+b')      # noqa: SIM115  # closed in `__exit__`
    self._bands = [open(folder / f'band{number}', 'wb') for number in range(BANDS)]      # noqa: SIM115
    self._waiting: list[np.ndarray] = []

  def __enter__(self) -> 'Words':
    return self

  def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
    for file in (self._words, *self._bands):
      file.close()

  def add(self, text: str) -> None:
    """One row more."""
    known = self._known
    hashes = np.array([known[word] if word in known else self._new(word) for word in split(text)], np.uint64)
    self._words.write(hashes.tobytes())
    self._starts.append(self._starts[-1] + len(hashes))
    self.exact.append(_digest(' '.join(text.casefold().split())))
    self._waiting.append(hashes)
    if len(self._waiting) == AT_ONCE:
      self._write_signatures()

  def finish(self) -> None:
    """Makes what was added readable."""
    self._write_signatures()
    self._known.clear()
    for file in (self._words, *self._bands):
      file.flush()

  def _new(self, word: str) -> int:
    if len(self._known) > 1_000_000:      # words are made up without end, and few of them come again
      self._known.clear()
    found = self._known[word] = _digest(word)
    return found

  def _write_signatures(self) -> None:
    import rensa
    if not self._waiting:
      return
    sets = [shingles(hashes, SHINGLE) for hashes in self._waiting]
    flat = np.concatenate(sets).tolist(), np.cumsum([0, *map(len, sets)]).tolist()
    matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(*flat, BANDS * IN_BAND, SEED)
    rows = np.array(matrix.to_rows(), np.uint64).reshape(len(sets), BANDS, IN_BAND)
    keys = np.zeros((len(sets), BANDS), np.uint64)
    for part in range(IN_BAND):
      keys = keys * _MULTIPLIER + rows[:, :, part]
    for number, file in enumerate(self._bands):
      np.ascontiguousarray(keys[:, number]).tofile(file)
    self._waiting.clear()

  def of(self, row: int) -> np.ndarray:
    """[W] uint64: the hashes of a row's words."""
    start, end = self._starts[row], self._starts[row + 1]
    return np.frombuffer(os.pread(self._words.fileno(), 8 * (end - start), 8 * start), np.uint64)

  def grams(self, rows: Sequence[int] | np.ndarray, count: int) -> Iterator[tuple[int, np.ndarray]]:
    """(row, [G] uint64 hashes of all stretches of so many words); rows that are shorter have none."""
    for row in rows:
      yield int(row), stretches(self.of(int(row)), count)

  def candidates(self) -> np.ndarray:
    """[P, 2] int64, the earlier row first: those that agree in some band, each with the row before and the first."""
    found = [np.empty((0, 2), np.int64)]
    for number in range(BANDS):
      keys = np.fromfile(self._folder / f'band{number}', np.uint64)
      order = np.argsort(keys, kind='stable')
      same = np.flatnonzero(keys[order[1:]] == keys[order[:-1]]) + 1      # places that go on with the key before
      if not len(same):
        continue
      begins = np.ones(len(order), bool)
      begins[same] = False
      first = np.maximum.accumulate(np.where(begins, np.arange(len(order)), 0))
      pairs = (np.stack([order[before], order[same]], 1) for before in (same - 1, first[same]))
      found = [np.unique(np.concatenate([*found, *pairs]), axis=0)]
    return found[0]

  def similarity(self, row: int, other: int) -> float:
    """Jaccard's, of the sets of all stretches of `SHINGLE` words."""
    a, b = (shingles(self.of(one), SHINGLE) for one in (row, other))
    both = len(np.intersect1d(a, b, assume_unique=True))
    return both / max(1, len(a) + len(b) - both)


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


def all_grams(found: Iterable[tuple[int, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
  """[G] uint64, the hashes of several rows' stretches in order and each once, and [G] int64, a row that each is of."""
  rows, grams = [], []
  for row, hashes in found:
    rows.append(np.full(len(hashes), row, np.int64))
    grams.append(hashes)
  if not grams:
    return np.empty(0, np.uint64), np.empty(0, np.int64)
  unique, at = np.unique(np.concatenate(grams), return_index=True)
  return unique, np.concatenate(rows)[at]
