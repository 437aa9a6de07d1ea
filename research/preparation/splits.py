"""Which split each row is of: at random, by time, or as its file says."""

import datetime
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from research.errors import InputError
from research.preparation.settings import SplitSettings

TEST, VALID, TRAIN = 0, 1, 2
NAMES = ('test', 'valid', 'train')
_GIVEN = {'train': TRAIN, 'training': TRAIN, 'valid': VALID, 'validation': VALID, 'dev': VALID, 'test': TEST}


def given(file: str) -> int:
  """The split that a file's name says: of its words one is train, valid (validation, dev) or test.

  Raises:
    InputError: it says none, or several.
  """
  said = {_GIVEN[word] for word in re.split(r'[^a-z]+', Path(file).name.lower()) if word in _GIVEN}
  if len(said) != 1:
    raise InputError(f'splits.by=given: the name of {file} must say one of {", ".join(_GIVEN)}')
  return said.pop()


def by_time(times: Sequence[object], s: SplitSettings, where: Sequence[str]) -> np.ndarray:
  """[N] int: the latest rows are the test split, and those before them validation.

  Args:
    times: of each row, a number or a date in ISO's form.
    s: says how many are of which split.
    where: of each row its file and line, for the error (`InputError`) that it has no time.
  """
  keys = np.array([_seconds(time, place) for time, place in zip(times, where)])
  order, found = np.argsort(keys, kind='stable'), np.full(len(keys), TRAIN)
  test, valid = _counts(len(keys), s)
  found[order[len(order) - test:]] = TEST
  found[order[len(order) - test - valid:len(order) - test]] = VALID
  return found


def _seconds(time: object, where: str) -> float:
  if isinstance(time, (int, float)) and not isinstance(time, bool):
    return float(time)
  try:
    text = str(time).strip()
    return float(text) if re.fullmatch(r'-?\d+(\.\d+)?', text) else _timestamp(datetime.datetime.fromisoformat(text))
  except ValueError:
    raise InputError(f'{where}: columns.time holds {time!r:.60}, which is no number and no date such as 2024-05-31') from None


def _timestamp(time: datetime.datetime) -> float:
  return (time if time.tzinfo else time.replace(tzinfo=datetime.UTC)).timestamp()


def _counts(rows: int, s: SplitSettings) -> tuple[int, int]:
  """How many of so many rows are of the test and of the validation split."""
  return round(rows * s.test), round(rows * s.valid)


def at_random(labels: Sequence[str | None], groups: Sequence[str | None], s: SplitSettings) -> np.ndarray:
  """[N] int: drawn by the seed; rows of one group are never of two splits, and every label has its share in each.

  With groups the labels' shares are not kept. A label's last row stays in training, and so does a group larger than a split.

  Args:
    labels: of each row; None: it has none.
    groups: of each row; None: it is a group of its own.
    s: says how many are of which split, and the seed.
  """
  rng, found = np.random.Generator(np.random.Philox(key=s.seed)), np.full(len(labels), TRAIN)
  if any(group is not None for group in groups):
    units: dict[object, list[int]] = {}
    for number, group in enumerate(groups):
      units.setdefault(number if group is None else f'group {group}', []).append(number)
    members = [*units.values()]
    for split, wanted in zip((TEST, VALID), _counts(len(labels), s)):
      for unit in rng.permutation(len(members)).tolist():
        if found[members[unit][0]] == TRAIN and len(members[unit]) <= wanted:
          found[members[unit]] = split
          wanted -= len(members[unit])
    return found
  strata: dict[str | None, list[int]] = {}
  for number, label in enumerate(labels):
    strata.setdefault(label if s.stratify else None, []).append(number)
  owed = np.zeros(2)                   # parts of a row, from label to label: so the splits have their size in all
  for rows in strata.values():
    order = np.array(rows)[rng.permutation(len(rows))]
    owed += len(rows) * np.array((s.test, s.valid))
    test = min(int(owed[0] + 0.5), len(rows) - 1)
    valid = min(int(owed[1] + 0.5), len(rows) - 1 - test)
    owed -= (test, valid)
    found[order[:test]] = TEST
    found[order[test:test + valid]] = VALID
  return found
