"""Rows that are one: the same text, or nearly; and training rows that the other splits hold, or hold a part of."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from research.console import progress
from research.preparation import splits
from research.preparation.corpus import Corpus
from research.preparation.words import Words

EXACT, NEAR, LEAK = 'exact_duplicate', 'near_duplicate', 'leak'
PART = 'ngram'                # kind of a leak, beside 'exact' and 'near'
GRAMS = 20_000_000            # stretches of words that are held at one time
SIEVE = 26                    # bits of a hash by which most stretches are told apart from those that are sought


class Same(NamedTuple):
  """A row, and the one that it is, or nearly is."""
  number: int
  other: int
  kind: str                   # exact, near or `PART`
  detail: str


def exact(corpus: Corpus, words: Words, rank: np.ndarray) -> Iterator[Same]:
  """Rows whose text, but for capitals and blanks, is that of another, which comes first.

  Args:
    corpus: the rows.
    words: of them.
    rank: [N] of each row, its split where splits are given. Training rows are compared among themselves, and so are those of
      valid and test, where that of test comes first.
  """
  keys, rows = np.frombuffer(words.exact, np.uint64), corpus.kept()
  trained = rank[rows] == splits.TRAIN
  order = rows[np.lexsort((rows, rank[rows], keys[rows], trained))]
  first = -1
  for number in order.tolist():
    if first >= 0 and keys[number] == keys[first] and _compared(rank, number, first):
      yield Same(number, first, 'exact', f'of {corpus.where(first)}')
    else:
      first = number


def _compared(rank: np.ndarray, one: int, other: int) -> bool:
  return bool((rank[one] == splits.TRAIN) == (rank[other] == splits.TRAIN))


def near(corpus: Corpus, words: Words, rank: np.ndarray, threshold: float) -> Iterator[Same]:
  """Rows that are as similar as this to one that is left when they are looked at; whoever drops them does so at once.

  Those whose text is one are left to `exact`.

  Args:
    corpus: the rows.
    words: of them.
    rank: [N], as for `exact`.
    threshold: Jaccard's, of the sets of all three words that stand together.
  """
  pairs, keys = words.candidates(corpus.kept()), np.frombuffer(words.exact, np.uint64)
  pairs = pairs[keys[pairs[:, 0]] != keys[pairs[:, 1]]]
  pairs = pairs[(rank[pairs[:, 0]] == splits.TRAIN) == (rank[pairs[:, 1]] == splits.TRAIN)]
  swap = rank[pairs[:, 0]] > rank[pairs[:, 1]]      # the one that stays comes first
  pairs[swap] = pairs[swap][:, ::-1]
  pairs = pairs[np.lexsort((pairs[:, 0], pairs[:, 1], rank[pairs[:, 1]]))]
  with progress('prepare: comparing pairs', len(pairs)) as done:
    for other, number in pairs.tolist():
      if corpus.left[other] and corpus.left[number]:
        found = words.similarity(other, number)
        if found >= threshold:
          yield Same(number, other, 'near', f'{found:.2f} of {corpus.where(other)}')
      done(1)


class Leaks(NamedTuple):
  """What training holds of the other splits."""
  train: list[Same]                # training rows, each once, with the row of valid or test that it is or holds a part of
  held_out: list[int]              # all rows of valid and test of which training holds something


def leaks(corpus: Corpus, words: Words, split: np.ndarray, threshold: float, count: int) -> Leaks:
  """Training rows that are a row of valid or test, nearly so, or share words with one.

  Args:
    corpus: the rows.
    words: of them.
    split: [N] of each row, one of those of `splits`.
    threshold: as for `near`.
    count: how many words that stand together make a leak; 0: they are not looked for.
  """
  rows = corpus.kept()
  trained = split[rows] == splits.TRAIN
  train, held_out = rows[trained], rows[~trained]
  found: dict[int, Same] = {}
  keys = np.frombuffer(words.exact, np.uint64)
  there = dict(zip(keys[held_out][::-1].tolist(), held_out[::-1].tolist()))
  for number in train[np.isin(keys[train], keys[held_out])].tolist():
    other = there[int(keys[number])]
    found[number] = Same(number, other, 'exact', f'of {corpus.where(other)}')
  touched = set(held_out[np.isin(keys[held_out], keys[train])].tolist())
  for one, other in words.candidates(rows, trained).tolist():
    number, other = (one, other) if split[one] == splits.TRAIN else (other, one)
    if number in found and other in touched:
      continue
    alike = words.similarity(number, other)
    if alike >= threshold:
      found.setdefault(number, Same(number, other, 'near', f'{alike:.2f} of {corpus.where(other)}'))
      touched.add(other)
  if count and len(train):
    for some in _parts(held_out, words, count):
      _share_words(corpus, words, train, some, count, found, touched)
  return Leaks([found[number] for number in sorted(found)], sorted(touched))


def _parts(rows: np.ndarray, words: Words, count: int) -> Iterator[np.ndarray]:
  """The rows in parts of about `GRAMS` stretches of so many words."""
  ends = np.cumsum(np.maximum(words.counts(rows) - count + 1, 0))
  part = ends // GRAMS
  for number in np.unique(part):
    yield rows[part == number]


def _share_words(corpus: Corpus, words: Words, train: np.ndarray, held_out: np.ndarray, count: int, found: dict[int, Same],
                 touched: set[int]) -> None:
  """Adds what shares `count` words to the training rows found, and to the others touched."""
  of, grams = map(np.concatenate, zip(*words.grams(held_out, count)))
  if not len(grams):
    return
  unique, first, inverse = np.unique(grams, return_index=True, return_inverse=True)
  hit, sieve = np.zeros(len(unique), bool), np.zeros(1 << SIEVE, bool)
  sieve[unique >> np.uint64(64 - SIEVE)] = True
  for numbers, own in words.grams(train, count):
    some = sieve[own >> np.uint64(64 - SIEVE)]      # most are not there, and a search for each takes longer
    numbers, own = numbers[some], own[some]
    at = np.minimum(np.searchsorted(unique, own), len(unique) - 1)
    hits = np.flatnonzero(unique[at] == own)
    hit[at[hits]] = True
    where = np.unique(numbers[hits], return_index=True)
    for number, place in zip(where[0].tolist(), hits[where[1]].tolist()):
      if number not in found:
        other = int(of[first[at[place]]])
        found[number] = Same(number, other, PART, f'{count} words of {corpus.where(other)}')
  touched.update(np.unique(of[hit[inverse]]).tolist())


def by_kind(found: Sequence[Same]) -> dict[str, int]:
  """How many leaks there are of each kind."""
  return {kind: sum(one.kind == kind for one in found) for kind in ('exact', 'near', PART)}
