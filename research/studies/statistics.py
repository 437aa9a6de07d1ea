"""Differences between arms, with their uncertainty: examples and seeds are both samples."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats
from statsmodels.stats.multitest import multipletests

from research.evaluation.metrics import Metric


class Estimate(NamedTuple):
  """A mean with its 95 % interval; `p` is None where it would claim more than was sampled."""
  mean: float
  low: float
  high: float
  p: float | None


def pseudo_values(metric: Metric, vectors: np.ndarray) -> np.ndarray:
  """Each example's share in a score, so that corpus metrics too have one value an example.

  The jackknife's pseudo-values n·θ - (n - 1)·θ₋ᵢ (Tukey 1958); of a mean they are the examples' own values.

  Args:
    vectors: [n, k], the metric's sums per example.
  Returns:
    [n] float64.
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
    center: the estimate itself, which pseudo-values of a non-linear metric only approach.
  """
  S, n = values.shape
  grand, by_seed, by_example = values.mean(), values.mean(1), values.mean(0)
  ms_example = S * ((by_example - grand) ** 2).sum() / (n - 1)
  if S == 1:
    half = stats.t.ppf(0.975, n - 1) * np.sqrt(ms_example / n)
    return Estimate(center, center - half, center + half, None)
  ms_seed = n * ((by_seed - grand) ** 2).sum() / (S - 1)
  residual = values - by_seed[:, None] - by_example[None] + grand
  ms_residual = (residual ** 2).sum() / ((S - 1) * (n - 1))
  total = max(ms_seed + ms_example - ms_residual, ms_seed, ms_example)
  if total == 0:
    return Estimate(center, center, center, 1.0 if center == 0 else 0.0)
  freedom = total ** 2 / (ms_seed ** 2 / (S - 1) + ms_example ** 2 / (n - 1) + ms_residual ** 2 / ((S - 1) * (n - 1)))
  error = np.sqrt(total / (S * n))
  half = stats.t.ppf(0.975, freedom) * error
  return Estimate(center, center - half, center + half, float(2 * stats.t.sf(abs(center) / error, freedom)))


def level(metric: Metric, by_seed: Sequence[np.ndarray]) -> Estimate:
  """An arm's mean score over seeds. `by_seed`: the metric's sums per example [n, k], one array a seed."""
  values = np.stack([pseudo_values(metric, v) for v in by_seed])
  center = float(np.mean([metric.score(v.sum(0)) for v in by_seed]))
  return crossed(values, center)._replace(p=None)


def difference(metric: Metric, arm: Sequence[np.ndarray], baseline: Sequence[np.ndarray]) -> Estimate:
  """Arm minus baseline, paired by seed and by example."""
  values = np.stack([pseudo_values(metric, a) - pseudo_values(metric, b) for a, b in zip(arm, baseline, strict=True)])
  center = float(np.mean([metric.score(a.sum(0)) - metric.score(b.sum(0)) for a, b in zip(arm, baseline)]))
  return crossed(values, center)


def adjust(p: Sequence[float | None]) -> list[float | None]:
  """Holm's (1979) correction over the tests that there are."""
  there = [x for x in p if x is not None]
  adjusted = iter(multipletests(there, method='holm')[1] if there else [])
  return [None if x is None else float(next(adjusted)) for x in p]
