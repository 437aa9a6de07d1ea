"""95 % intervals over examples: how far a score would move with other examples of the same kind."""

import math

import numpy as np
from scipy import special

from research.evaluation.metrics import Metric

RESAMPLES = 2000
NORMAL = float(special.ndtri(0.975))      # standard errors on either side of a 95 % interval


def resample_counts(examples: int, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
  """How often each example is drawn in each bootstrap resample, float64 of shape [resamples, examples].

  Args:
    examples: how many are drawn in a resample, out of as many.
    resamples: how many there are.
    seed: of the draws.
  """
  rng = np.random.Generator(np.random.Philox(key=[seed, 0]))
  return rng.multinomial(examples, np.full(examples, 1 / examples), size=resamples).astype(np.float64)


def wilson(share: float, examples: float, quantile: float = NORMAL) -> tuple[float, float]:
  """(low, high) of a share of so many examples: those true shares that it does not deviate from by more than the quantile.

  Within [0, 1], and of some width at 0 and 1 too (Wilson 1927).

  Args:
    share: between 0 and 1.
    examples: as many as would vary as much; not necessarily a whole number.
    quantile: of the deviation in standard errors, two-sided.
  """
  weight = quantile ** 2 / examples
  center = (share + weight / 2) / (1 + weight)
  half = quantile / (1 + weight) * (share * (1 - share) / examples + weight / (4 * examples)) ** 0.5
  return center - half, center + half


def interval(metric: Metric, vectors: np.ndarray, of_clusters: bool = False) -> list[float]:
  """[low, high] of one model's score.

  Wilson's interval (1927) for a share of examples, which stays honest at 0 and 1; the percentile bootstrap over
  examples (Efron 1979), resampled as corpora, for everything else.

  Args:
    metric: the score.
    vectors: the metric's sums per example, or per cluster of examples, of shape [n, k].
    of_clusters: whether they are of clusters: Wilson's interval is then for as many examples as would vary as much.
  """
  share = float(metric.score(vectors.sum(0)))
  if metric.is_share:
    low, high = wilson(share, _alike(vectors, share) if of_clusters else len(vectors))
  else:
    scores = metric.score(resample_counts(len(vectors)) @ vectors)
    low, high = np.percentile(scores, [2.5, 97.5])
  return [min(float(low), share), max(float(high), share)]    # rounding, or a skewed bootstrap, may leave it outside


def _alike(vectors: np.ndarray, share: float) -> float:
  """How many examples would vary as much as a share does over clusters: by their deviations from it, linearised.

  Of clusters that do not vary at all each counts once.

  Args:
    vectors: [c, 2] of each cluster, how many are right and how many there are.
    share: of all.
  """
  count, all_of = len(vectors), vectors[:, 1].sum()
  if count < 2:
    return 1.0
  deviations = vectors[:, 0] - share * vectors[:, 1]
  variance = count / (count - 1) * float((deviations ** 2).sum()) / all_of ** 2
  return share * (1 - share) / variance if variance and 0 < share < 1 else float(count)


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


def within(center: float, half: float, least: float, most: float, examples: int) -> tuple[float, float]:
  """(low, high) around a score that stay where scores can be.

  Of scores with limits they are Wilson's, for as many examples as would vary as much; of others above 0 those of their
  logarithm.

  Args:
    center: the score.
    half: half the width of its 95 % interval, if it had no limits.
    least: that a score can be.
    most: that a score can be; inf where there is no limit.
    examples: how many there are.
  """
  width = most - least
  if math.isfinite(width):
    share = min(1.0, max(0.0, (center - least) / width))
    varies = share * (1 - share) * width ** 2
    alike = varies / (half / NORMAL) ** 2 if varies and half else examples
    low, high = (least + width * x for x in wilson(share, alike))
  elif least < 0:
    low, high = max(center - half, least), center + half
  else:
    factor = math.exp(half / center) if center > 0 else 1.0
    low, high = (center / factor, center * factor) if center > 0 else (0.0, half)
  return min(low, center), max(high, center)
