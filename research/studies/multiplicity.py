"""Many tests at one level: corrections, equivalence, how many seeds it takes, and letters for arms that no test tells apart."""

import math
from collections.abc import Collection, Sequence

from scipy import special
from statsmodels.stats.multitest import multipletests

from research.studies.statistics import Estimate, Spread


def adjust(p: Sequence[float | None], looks: int = 1) -> list[float | None]:
  """Holm's (1979) correction over the tests that there are, each counted twice as much as at the look before.

  Args:
    p: of each test; None where there is none.
    looks: how often these tests have been made, with more data each time. The levels of all looks halve, so what is found at
      any of them is false hardly more often than at the first.
  """
  there = [x for x in p if x is not None]
  adjusted = iter(multipletests(there, method='holm')[1] if len(there) > 1 else there)
  return [None if x is None else min(1.0, float(next(adjusted)) * 2 ** (looks - 1)) for x in p]


def equivalence(found: Estimate, margin: float) -> float | None:
  """p of the difference being as large as `margin` in either direction: below 0.05 it is smaller (TOST, Schuirmann 1987).

  None where nothing varied: from an error of 0 nothing is found.

  Args:
    found: the difference.
    margin: the smallest difference that matters.
  """
  if not found.deviation.variances.max() > 0:
    return None
  return float(found.deviation.beyond(margin - abs(found.mean)))


def needed(spread: Spread, seeds: int, examples: int, difference: float) -> tuple[float, float]:
  """The seeds, with these examples, and the examples, with these seeds, that tell arms apart that differ by so much.

  With 80 % power at the 5 % level, for a mean of variance seed / S + example / n + rest / (S n), taken as normal: of few seeds
  it is a little too few. What templates add stays as it is. inf: no number is enough while the other stays.

  Args:
    spread: of the difference of two arms.
    seeds: that both arms have.
    examples: that both were tested on.
    difference: the one that is to be told from 0.
  """
  allowed = (difference / (special.ndtri(0.975) + special.ndtri(0.8))) ** 2 - spread.of_templates

  def enough(own: float, other: float, others: int) -> float:
    left = allowed - other / others
    return math.inf if left <= 0 else max(2, math.ceil((own + spread.rest / others) / left))     # of one there is no variance
  return enough(spread.seed, spread.example, examples), enough(spread.example, spread.seed, seeds)


def letters(arms: Sequence[str], apart: Collection[frozenset[str]]) -> dict[str, str]:
  """Compact letters: two arms share one exactly where they are not in `apart` (insert and absorb, Piepho 2004).

  Args:
    arms: the one that gets the first letter comes first.
    apart: the pairs that a test tells apart.
  """
  groups = [frozenset(arms)]
  for pair in apart:
    groups = [part for group in groups for part in ([group - {one} for one in sorted(pair)] if pair <= group else [group])]
    groups = [g for i, g in enumerate(groups)
              if not any(g < other or (g == other and j < i) for j, other in enumerate(groups))]
  groups.sort(key=lambda group: [arm not in group for arm in arms])
  return {arm: ''.join(_letter(i) for i, group in enumerate(groups) if arm in group) for arm in arms}


def _letter(number: int) -> str:
  """a, b, …, z, a', b', …"""
  return chr(ord('a') + number % 26) + "'" * (number // 26)
