"""Differences between arms, with their uncertainty: examples and seeds are both samples."""

import math
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats
from statsmodels.stats.multitest import multipletests

from research.evaluation.metrics import Metric


class Spread(NamedTuple):
  """What a value of one seed on one example varies by: variances of the seed, of the example, and of what is left."""
  seed: float
  example: float
  rest: float


class Estimate(NamedTuple):
  """A mean with its 95 % interval; `p` and `spread` are None where they would claim more than was sampled."""
  mean: float
  low: float
  high: float
  p: float | None                  # of the mean being 0, two-sided
  error: float = 0.0               # the mean's standard error
  freedom: float = math.inf        # its degrees of freedom
  spread: Spread | None = None


def pseudo_values(metric: Metric, vectors: np.ndarray) -> np.ndarray:
  """Each example's share in a score, so that corpus metrics too have one value an example.

  The jackknife's pseudo-values n·θ - (n - 1)·θ₋ᵢ (Tukey 1958); of a mean they are the examples' own values.

  Args:
    metric: the one that the sums are of.
    vectors: the metric's sums per example, of shape [n, k].
  Returns:
    One value an example, float64 of shape [n].
  """
  n, total = len(vectors), vectors.sum(0)
  return n * metric.score(total) - (n - 1) * metric.score(total - vectors)


def crossed(values: np.ndarray, center: float) -> Estimate:
  """An interval for the mean of [S seeds, n examples], both drawn at random.

  The variance of the mean is (MS_seed + MS_example - MS_residual) / (S n), by the expected mean squares of the two-way
  crossed random model (Searle, Casella & McCulloch 1992, ch. 4), no smaller than either margin alone, with Satterthwaite's
  (1946) degrees of freedom. With one seed the interval is over examples only: it is about these trained models, not about
  the arms, and there is no p.

  Args:
    values: of one seed on one example each, of shape [S, n], with n above 1.
    center: the estimate itself, which pseudo-values of a non-linear metric only approach.
  """
  S, n = values.shape
  grand, by_seed, by_example = values.mean(), values.mean(1), values.mean(0)
  ms_example = S * ((by_example - grand) ** 2).sum() / (n - 1)
  if S == 1:
    error = np.sqrt(ms_example / n)
    half = stats.t.ppf(0.975, n - 1) * error
    return Estimate(center, center - half, center + half, None, float(error), n - 1)
  ms_seed = n * ((by_seed - grand) ** 2).sum() / (S - 1)
  residual = values - by_seed[:, None] - by_example[None] + grand
  ms_residual = (residual ** 2).sum() / ((S - 1) * (n - 1))
  total = max(ms_seed + ms_example - ms_residual, ms_seed, ms_example)
  spread = Spread(*(float(max(0.0, x)) for x in ((ms_seed - ms_residual) / n, (ms_example - ms_residual) / S, ms_residual)))
  if total == 0:
    return Estimate(center, center, center, 1.0 if center == 0 else 0.0, spread=spread)
  freedom = total ** 2 / (ms_seed ** 2 / (S - 1) + ms_example ** 2 / (n - 1) + ms_residual ** 2 / ((S - 1) * (n - 1)))
  error = np.sqrt(total / (S * n))
  half = stats.t.ppf(0.975, freedom) * error
  p = float(2 * stats.t.sf(abs(center) / error, freedom))
  return Estimate(center, center - half, center + half, p, float(error), float(freedom), spread)


def level(metric: Metric, by_seed: Sequence[np.ndarray]) -> Estimate:
  """An arm's mean score over seeds. `by_seed`: the metric's sums per example, an array of shape [n, k] for every seed."""
  values = np.stack([pseudo_values(metric, v) for v in by_seed])
  center = float(np.mean([metric.score(v.sum(0)) for v in by_seed]))
  return crossed(values, center)._replace(p=None)


def difference(metric: Metric, arm: Sequence[np.ndarray], baseline: Sequence[np.ndarray]) -> Estimate:
  """Arm minus baseline, paired by seed and by example.

  Args:
    metric: the score that differs.
    arm: the metric's sums per example, an array of shape [n, k] for every seed.
    baseline: the same of the baseline, with the same seeds and examples in the same order.
  """
  values = np.stack([pseudo_values(metric, a) - pseudo_values(metric, b) for a, b in zip(arm, baseline, strict=True)])
  center = float(np.mean([metric.score(a.sum(0)) - metric.score(b.sum(0)) for a, b in zip(arm, baseline)]))
  return crossed(values, center)


def adjust(p: Sequence[float | None]) -> list[float | None]:
  """Holm's (1979) correction over the tests that there are."""
  there = [x for x in p if x is not None]
  if len(there) == 1:
    return list(p)
  adjusted = iter(multipletests(there, method='holm')[1] if there else [])
  return [None if x is None else float(next(adjusted)) for x in p]


def equivalence(found: Estimate, margin: float) -> float:
  """p of the difference being as large as `margin` in either direction: below 0.05 it is smaller (TOST, Schuirmann 1987)."""
  if not found.error:
    return float(abs(found.mean) >= margin)
  return float(max(stats.t.sf((found.mean + margin) / found.error, found.freedom),
                   stats.t.cdf((found.mean - margin) / found.error, found.freedom)))


def needed(spread: Spread, seeds: int, examples: int, difference: float) -> tuple[float, float]:
  """The seeds, with these examples, and the examples, with these seeds, that tell arms apart that differ by so much.

  With 80 % power at the 5 % level, for a mean of variance seed / S + example / n + rest / (S n), taken as normal: of few seeds
  it is a little too few. inf: no number is enough while the other stays.

  Args:
    spread: of the difference of two arms (see `crossed`).
    seeds: that both arms have.
    examples: that both were tested on.
    difference: the one that is to be told from 0.
  """
  allowed = (difference / (stats.norm.ppf(0.975) + stats.norm.ppf(0.8))) ** 2

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
