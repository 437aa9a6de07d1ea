"""Rows that are one: the same text, or nearly; and training rows that the other splits hold a part of."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from research.preparation import splits
from research.preparation.corpus import Corpus
from research.preparation.words import Words, all_grams

EXACT, NEAR = 'exact duplicate', 'near duplicate'
LEAK, PART_LEAK = 'leak: a row of valid or test', 'leak: words of a row of valid or test'


def drop_exact(corpus: Corpus, words: Words, rank: Sequence[int], labels: Sequence[str | None], across: bool) -> None:
  """Drops rows whose text, but for capitals and blanks, is that of a row before; of rows with two labels that is told.

  Args:
    corpus: the rows.
    words: of them.
    rank: of each row, its split where splits are given: a row of a lower rank stays, and of a higher one goes as a leak.
    labels: of each row; None where it has none.
    across: whether rows of different ranks are compared.
  """
  keys, rows = np.frombuffer(words.exact, np.uint64), corpus.kept()
  order = rows[np.lexsort((rows, np.asarray(rank)[rows], keys[rows]))]
  first = -1
  for number in order.tolist():
    if first >= 0 and keys[number] == keys[first] and (across or rank[number] == rank[first]):
      other = '' if labels[number] == labels[first] else f', which is labelled {labels[first]!r}'
      corpus.drop(number, EXACT if rank[number] == rank[first] else LEAK, f'of {corpus.where(first)}{other}')
    else:
      first = number


def drop_near(corpus: Corpus, words: Words, rank: Sequence[int], similarity: float, across: bool) -> None:
  """Drops rows that are as similar as this to one that stays.

  Args:
    corpus: the rows.
    words: of them.
    rank: as for `drop_exact`.
    similarity: Jaccard's, of the sets of all three words that stand together.
    across: as for `drop_exact`.
  """
  compared = lambda one, other: across or rank[one] == rank[other]
  for number, other, found in _similar(corpus, words, rank, similarity, compared):
    corpus.drop(number, NEAR if rank[number] == rank[other] else LEAK, f'{found:.2f} of {corpus.where(other)}')


def _similar(corpus: Corpus, words: Words, rank: Sequence[int], similarity: float,
             compared: Callable[[int, int], bool]) -> Iterator[tuple[int, int, float]]:
  """(row, one that stays, their similarity) for rows that go; a row that has gone keeps no other from staying."""
  pairs = words.candidates()
  if not len(pairs):
    return
  ranks = np.asarray(rank)
  swap = ranks[pairs[:, 0]] > ranks[pairs[:, 1]]      # the one that stays comes first
  pairs[swap] = pairs[swap][:, ::-1]
  for first, second in pairs[np.lexsort((pairs[:, 0], pairs[:, 1], ranks[pairs[:, 1]]))].tolist():
    if corpus.left[first] and corpus.left[second] and compared(first, second):
      found = words.similarity(first, second)
      if found >= similarity:
        yield second, first, found


def drop_leaks(corpus: Corpus, words: Words, split: Sequence[int], similarity: float, count: int, near: bool) -> None:
  """Drops training rows that are a row of the test or validation split, nearly so, or share words with one.

  Args:
    corpus: the rows.
    words: of them.
    split: of each row, one of those of `splits`; below 0: of none.
    similarity: as for `drop_near`.
    count: how many words that stand together make a leak; 0: they are not looked for.
    near: whether similar rows are looked for; those that were dropped as duplicates are not there any more.
  """
  numbers = corpus.kept()
  of = np.asarray(split)[numbers]
  held_out, train = numbers[(of == splits.TEST) | (of == splits.VALID)], numbers[of == splits.TRAIN]
  keys = np.frombuffer(words.exact, np.uint64)
  there = dict(zip(keys[held_out].tolist(), held_out.tolist()))
  for number in train.tolist():
    if (other := there.get(int(keys[number]))) is not None:
      corpus.drop(number, LEAK, f'of {corpus.where(other)}')
  if near:
    apart = lambda one, other: split[one] in (splits.TEST, splits.VALID) and split[other] == splits.TRAIN
    for number, other, found in _similar(corpus, words, split, similarity, apart):
      corpus.drop(number, LEAK, f'{found:.2f} of {corpus.where(other)}')
  if not count:
    return
  grams, owner = all_grams(words.grams(held_out, count))
  if not len(grams):
    return
  for number, own in words.grams([n for n in train.tolist() if corpus.left[n]], count):
    at = np.minimum(np.searchsorted(grams, own), len(grams) - 1)
    hits = np.flatnonzero(grams[at] == own)
    if len(hits):
      corpus.drop(number, PART_LEAK, f'{count} words of {corpus.where(int(owner[at[hits[0]]]))}')
