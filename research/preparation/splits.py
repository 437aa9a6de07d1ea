"""Which split each row is of: at random, by time, or as its file says."""

import datetime
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from research.errors import InputError
from research.preparation.settings import SplitSettings

NONE, TEST, VALID, TRAIN = -1, 0, 1, 2
NAMES = ('test', 'valid', 'train')
_GIVEN = {'train': TRAIN, 'training': TRAIN, 'valid': VALID, 'validation': VALID, 'val': VALID, 'dev': VALID, 'test': TEST}


def of_file(file: str) -> int:
  """The split that a file's name says: of its words one is train, valid (validation, dev) or test.

  Raises:
    InputError: it says none, or several.
  """
  said = {_GIVEN[word] for word in re.split(r'[^a-z]+', Path(file).name.lower()) if word in _GIVEN}
  if len(said) != 1:
    raise InputError(f'split.by=given: the name of {file} must say one of {", ".join(_GIVEN)}, or split.column name the column '
                     'that does')
  return said.pop()


def are_given(files: Sequence[str]) -> bool:
  """Whether the names of all files say a split, and not all the same."""
  try:
    return len({of_file(file) for file in files}) > 1
  except InputError:
    return False


def named(value: object) -> int:
  """The split that a row's own column says.

  Raises:
    InputError: it says none.
  """
  split = _GIVEN.get(str(value).strip().lower())
  if split is None:
    raise InputError(f'{value!r:.60} is no split (must be one of {", ".join(_GIVEN)})')
  return split


def by_time(times: np.ndarray, s: SplitSettings) -> np.ndarray:
  """[N] int: the latest rows are the test split, and those before them validation.

  Args:
    times: [N] of each row, in seconds.
    s: says how many are of which split.
  """
  order, found = np.argsort(times, kind='stable'), np.full(len(times), TRAIN)
  test, valid = _counts(len(times), s)
  found[order[len(order) - test:]] = TEST
  found[order[len(order) - test - valid:len(order) - test]] = VALID
  return found


def seconds(time: object) -> float:
  """When a row was, from its number or its date in ISO's form.

  Raises:
    InputError: it is neither.
  """
  try:
    if isinstance(time, datetime.datetime):
      return _timestamp(time)
    text = str(time).strip()
    is_number = re.fullmatch(r'-?\d+(\.\d+)?(e[+-]?\d+)?', text)
    return float(text) if is_number else _timestamp(datetime.datetime.fromisoformat(text))
  except (ValueError, OverflowError):
    raise InputError(f'time {time!r:.60} is no number and no date such as 2024-05-31') from None


def _timestamp(time: datetime.datetime) -> float:
  return (time if time.tzinfo else time.replace(tzinfo=datetime.UTC)).timestamp()


def _counts(rows: int, s: SplitSettings) -> tuple[int, int]:
  """How many of so many rows are of the test and of the validation split."""
  return round(rows * s.test), round(rows * s.valid)


def at_random(labels: Sequence[str | None], groups: Sequence[str | None], s: SplitSettings, seed: int) -> np.ndarray:
  """[N] int: drawn by the seed; rows of one group are never of two splits, and every label has its share in each.

  With groups the labels' shares are not kept. A label's last row stays in training, and so does a group larger than a split.

  Args:
    labels: of each row; None: it has none.
    groups: of each row; None: it is a group of its own.
    s: says how many are of which split.
    seed: of the draw.
  """
  rng, found = np.random.Generator(np.random.Philox(key=seed)), np.full(len(labels), TRAIN)
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
