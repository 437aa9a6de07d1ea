"""What arms' scores vary by, and how sure their means and differences are: seeds and examples are both samples.

Of arms x seeds x examples there are three covariances between arms: over seeds, over examples, and of what is left. A mean
over seeds and examples deviates by an example's part, which hundreds of examples tell well, and a seed's part, which few seeds
tell badly. How few is said by pooling: where the trained arms' seeds deviate alike, all of them tell it together.

Every function takes a study's values, or those of many studies at once: `...` stands for no axis or more.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy import optimize, special

from research.evaluation.intervals import NORMAL, wilson
from research.evaluation.metrics import Metric

AGREE = 0.1        # the level of the test that arms' seeds deviate alike: above it they are pooled
LEAST = 0.25       # of the error variance over examples alone: no error variance is taken to be less
ENOUGH = 3         # degrees of freedom over seeds from which on their spread is told


class Deviation(NamedTuple):
  """How far an estimate may lie from the truth: a normal deviation whose variance is itself known only so well.

  So a mixture of normal distributions: of one variance with f degrees of freedom it is Student's t distribution, of the sum of
  two Behrens' and Fisher's (Fisher 1935).
  """
  variances: np.ndarray      # [..., Q]
  weights: np.ndarray        # [Q], their sum is 1

  def beyond(self, distance: np.ndarray | float) -> np.ndarray:
    """The probability [...] of a deviation above `distance` [...]; half of that in either direction where it is two-sided."""
    return special.ndtr(-np.asarray(distance)[..., None] / np.sqrt(np.maximum(self.variances, 1e-300))) @ self.weights

  def half(self) -> float:
    """Half the width of the 95 % interval, for one study."""
    if not self.variances.max() > 0:
      return 0.0
    most = 1e3 * math.sqrt(self.variances.max())
    return float(optimize.brentq(lambda x: self.beyond(x) - 0.025, 0.0, most, xtol=1e-12 * most))


class Spread(NamedTuple):
  """What a difference of one seed on one example varies by: variances of the seed, of the example, and of what is left."""
  seed: float
  example: float
  rest: float
  seed_range: tuple[float, float]      # 95 % interval of the seed's


class Estimate(NamedTuple):
  """A mean with its 95 % interval; `p` and `spread` are None where they would claim more than was sampled."""
  mean: float
  low: float
  high: float
  p: float | None                  # of the mean being 0, two-sided
  deviation: Deviation
  spread: Spread | None = None


class Fit(NamedTuple):
  """The covariances of A arms that all have the same S seeds and n examples."""
  by_seed: np.ndarray        # [..., A, A] over seeds, of an arm's mean over examples
  by_example: np.ndarray     # [..., A, A] over examples, of an arm's mean over seeds
  rest: np.ndarray           # [..., A, A] of one value, of what neither explains
  seeds: int
  examples: int
  pooled: tuple[bool, ...]   # of each arm: whether its seeds' deviation is told together with others'
  agree: np.ndarray          # [...] whether those arms' seeds deviate alike
  step: float                # how much one example may be worth


def fit(values: np.ndarray, trained: Sequence[bool], step: float) -> Fit:
  """The covariances of arms, by the mean squares of the crossed random model (Searle, Casella & McCulloch 1992, ch. 4).

  Args:
    values: of every arm, seed and example, of shape [..., A, S, n] with n above 1.
    trained: of each arm, whether it was trained: what moves a trained arm from seed to seed does not move a prompt.
    step: the value that one example may differ by between arms (see `difference`).
  """
  S, n = values.shape[-2:]
  by_seed, by_example = values.mean(-1), values.mean(-2)
  grand = by_seed.mean(-1)
  seed, example = by_seed - grand[..., None], by_example - grand[..., None]
  outer = lambda x, freedom: np.matmul(x, x.swapaxes(-1, -2)) / freedom
  if S == 1:
    none = np.zeros((*grand.shape, grand.shape[-1]))
    return Fit(none, outer(example, n - 1), none, S, n, tuple(trained), np.ones(grand.shape[:-1], bool), step)
  rest = values - by_seed[..., None] - by_example[..., None, :] + grand[..., None, None]
  over_seeds = outer(seed, S - 1)
  pooled = tuple(bool(t) for t in trained)
  return Fit(over_seeds, outer(example, n - 1), outer(rest.reshape(*rest.shape[:-2], S * n), (S - 1) * (n - 1)), S, n, pooled,
             _agree(over_seeds[..., pooled, :][..., pooled], S - 1), step)


def _agree(over_seeds: np.ndarray, freedom: int) -> np.ndarray:
  """Whether arms' seeds deviate alike: Bartlett's (1937) test of each arm's own part of them; of two arms nothing tells."""
  T = over_seeds.shape[-1]
  if T < 3:
    return np.ones(over_seeds.shape[:-2], bool)
  centred = over_seeds - over_seeds.mean(-1, keepdims=True) - over_seeds.mean(-2, keepdims=True) + over_seeds.mean((-1, -2),
                                                                                                              keepdims=True)
  own = np.maximum(np.diagonal(centred, axis1=-2, axis2=-1), 1e-300)
  statistic = T * freedom * np.log(own.mean(-1)) - freedom * np.log(own).sum(-1)
  return special.chdtrc(T - 1, statistic / (1 + (T / freedom - 1 / (T * freedom)) / (3 * (T - 1)))) >= AGREE


def difference(f: Fit, one: int, other: int) -> tuple[Deviation, np.ndarray]:
  """How far the difference of two arms' means may lie from the truth, paired by seed and by example.

  Its variance is example / n + seed / S: the example's part with n - 1 degrees of freedom, the seed's with those of
  `_seeds_part`, and no less than a share of the error over examples alone. Of each seed half an example either way is added,
  on which the arms differ by `step` (Agresti & Min 2005): arms that agree on all of few examples are not taken to be the same.

  Args:
    f: the arms' covariances.
    one: the number of an arm.
    other: of another.
  Returns:
    The deviation, and its degrees of freedom over seeds [...]: with one no p says anything (0: there is one seed).
  """
  example, rest = (_of_difference(x, one, other) for x in (f.by_example, f.rest))
  example = ((f.examples - 1) * example + f.step ** 2 / f.seeds) / (f.examples + 1)
  if f.seeds == 1:
    return _deviation(f, example, rest), np.zeros(example.shape)
  seed, freedom, least = _seeds_part(f, one, other)
  return _deviation(f, example, rest, seed, freedom, least), freedom


def level(f: Fit, arm: int) -> tuple[Deviation, np.ndarray]:
  """How far an arm's mean may lie from the truth, and its degrees of freedom over seeds [...].

  Args:
    f: the arms' covariances.
    arm: its number.
  """
  example, rest = f.by_example[..., arm, arm], f.rest[..., arm, arm]
  if f.seeds == 1:
    return _deviation(f, example, rest), np.zeros(example.shape)
  seed, freedom = _arms_seeds(f, arm)
  return _deviation(f, example, rest, seed, freedom, LEAST), freedom


def _of_difference(covariance: np.ndarray, one: int, other: int) -> np.ndarray:
  return covariance[..., one, one] + covariance[..., other, other] - 2 * covariance[..., one, other]


def _seeds_part(f: Fit, one: int, other: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | float]:
  """(variance over seeds of a difference, its degrees of freedom, the least share of the error over examples).

  Pooled over the trained arms where they agree, but no less than half of what the two arms' own seeds say; where they do not
  agree, the two arms' own, and then no less than the error over examples. A prompt's seeds stand beside the trained arms'.
  """
  own, S, T = _of_difference(f.by_seed, one, other), f.seeds, sum(f.pooled)
  if f.pooled[one] and f.pooled[other] and T > 2:
    covariance = f.by_seed[..., f.pooled, :][..., f.pooled]
    trace = np.trace(covariance, axis1=-2, axis2=-1)
    pooled = 2 * (trace - covariance.sum((-1, -2)) / T) / (T - 1)
    return (np.where(f.agree, np.maximum(pooled, own / 2), own), np.where(f.agree, (T - 1) * (S - 1), S - 1),
            np.where(f.agree, LEAST, 1.0))
  if T > 1 and f.pooled[one] != f.pooled[other]:
    parts = [_arms_seeds(f, arm) for arm in (one, other)]
    seed = parts[0][0] + parts[1][0]
    return seed, _satterthwaite(*parts), LEAST
  return own, np.full(own.shape, S - 1), LEAST


def _arms_seeds(f: Fit, arm: int) -> tuple[np.ndarray, np.ndarray]:
  """(variance over seeds of an arm's score, its degrees of freedom): of a trained one pooled with others, if they agree.

  What a seed does to all arms alike is told by as many seeds as there are, what it does to each by all of them.
  """
  own, S, T = f.by_seed[..., arm, arm], f.seeds, sum(f.pooled)
  alone = np.full(own.shape, S - 1.0)
  if not f.pooled[arm] or T < 2:
    return own, alone
  covariance = f.by_seed[..., f.pooled, :][..., f.pooled]
  shared = covariance.sum((-1, -2)) / T
  each = np.trace(covariance, axis1=-2, axis2=-1) - shared
  freedom = _satterthwaite((shared / T, S - 1), (each / T, (T - 1) * (S - 1)))
  return np.where(f.agree, np.maximum((shared + each) / T, own / 2), own), np.where(f.agree, freedom, alone)


def _satterthwaite(*parts: tuple[np.ndarray, np.ndarray | float]) -> np.ndarray:
  """Degrees of freedom of a sum of independent (variance, freedom) (Satterthwaite 1946)."""
  total = sum(variance for variance, _ in parts)
  return np.maximum(1.0, total ** 2 / np.maximum(sum(variance ** 2 / freedom for variance, freedom in parts), 1e-300))


@lru_cache(maxsize=8)
def _nodes(count: int) -> tuple[np.ndarray, np.ndarray]:
  """Probabilities and weights to integrate over, Gauss's and Legendre's on their roots: closer together near 0, where
  a variance may be large."""
  places, weights = np.polynomial.legendre.leggauss(count)
  roots = (places + 1) / 2
  return roots ** 2, roots * weights


def _uncertain(variance: np.ndarray, freedom: np.ndarray | float, count: int) -> tuple[np.ndarray, np.ndarray]:
  """(variances [..., count], weights) of what a variance with these degrees of freedom may be: f / chi² times it."""
  places, weights = _nodes(count)
  freedom = np.asarray(freedom, float)[..., None]
  return variance[..., None] * freedom / (2 * special.gammaincinv(freedom / 2, places)), weights


def _deviation(f: Fit, example: np.ndarray, rest: np.ndarray, seed: np.ndarray | None = None,
               freedom: np.ndarray | float = 0, least: np.ndarray | float = 1.0) -> Deviation:
  """Of a mean, from its variances: of one example, of one value's rest, and of one seed where there are several."""
  over_examples = example / f.examples
  if seed is None:
    return Deviation(*_uncertain(over_examples, f.examples - 1, 40))
  apart = np.maximum(over_examples - rest / (f.seeds * f.examples), 0)      # what the seed's part does not hold already
  examples, of_examples = _uncertain(apart, f.examples - 1, 8)
  seeds, of_seeds = _uncertain(seed / f.seeds, freedom, 40)
  variances = np.maximum(examples[..., None] + seeds[..., None, :], (least * over_examples)[..., None, None])
  return Deviation(variances.reshape(*variances.shape[:-2], -1), np.outer(of_examples, of_seeds).ravel())


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


class Scores(NamedTuple):
  """What arms scored on the same seeds and examples."""
  arms: tuple[str, ...]
  means: np.ndarray          # [A], over seeds
  fit: Fit
  most: float                # that a score can be; inf where there is no limit
  least: float = 0.0


def scores(metric: Metric, sums: Mapping[str, Sequence[np.ndarray]], trained: Collection[str], each: float = 1.0) -> Scores:
  """Arms' mean scores, and what they vary by.

  Args:
    metric: the score.
    sums: arm -> the metric's sums per example, an array of shape [n, k] for every seed, which all arms have.
    trained: the arms that were trained.
    each: how many examples stand in a row of the sums on average, where clusters do (see `evaluation.clusters`).
  """
  values = np.array([[pseudo_values(metric, v) for v in of_seeds] for of_seeds in sums.values()])
  means = np.array([np.mean([metric.score(v.sum(0)) for v in of_seeds]) for of_seeds in sums.values()])
  return Scores(tuple(sums), means, fit(values, [arm in trained for arm in sums], _step(metric, values) / each),
                metric.most, metric.least)


def _step(metric: Metric, values: np.ndarray) -> float:
  """How much one example may differ by between arms: of a share all of it, of other scores as much as examples vary by."""
  varies = float(values.std(-1).mean())
  range_of = metric.most - metric.least
  return range_of if math.isfinite(range_of) and (metric.is_share or not varies) else varies


def mean(s: Scores, arm: str) -> Estimate:
  """An arm's mean score, with an interval that stays where scores can be.

  Of scores with limits it is Wilson's, for as many examples as would vary as much; of others above 0 it is that of their
  logarithm.
  """
  number = s.arms.index(arm)
  deviation, _ = level(s.fit, number)
  center, half = float(s.means[number]), deviation.half()
  width = s.most - s.least
  if math.isfinite(width):
    share = min(1.0, max(0.0, (center - s.least) / width))
    varies = share * (1 - share) * width ** 2
    alike = varies / (half / NORMAL) ** 2 if varies and half else s.fit.examples
    low, high = (s.least + width * x for x in wilson(share, alike))
  elif s.least < 0:
    low, high = max(center - half, s.least), center + half
  else:
    factor = math.exp(half / center) if center > 0 else 1.0
    low, high = (center / factor, center * factor) if center > 0 else (0.0, half)
  return Estimate(center, min(low, center), max(high, center), None, deviation)


def gap(s: Scores, arm: str, other: str) -> Estimate:
  """An arm's mean score minus another's.

  Args:
    s: the arms' scores.
    arm: the one.
    other: the other.
  """
  one, two = s.arms.index(arm), s.arms.index(other)
  deviation, freedom = difference(s.fit, one, two)
  center, half = float(s.means[one] - s.means[two]), deviation.half()
  p = None if s.fit.seeds > 1 and freedom <= 1 else float(2 * deviation.beyond(abs(center)))
  most = s.most - s.least
  low, high = max(center - half, -most), min(center + half, most)
  return Estimate(center, low, high, p, deviation, _spread(s.fit, one, two, float(freedom)))


def _spread(f: Fit, one: int, other: int, freedom: float) -> Spread | None:
  """What a difference varies by; None where too few seeds tell how much of it is theirs."""
  if freedom < ENOUGH:
    return None
  seed, _, _ = _seeds_part(f, one, other)
  example, rest = (float(_of_difference(x, one, other)) for x in (f.by_example, f.rest))
  of_seed = lambda variance: max(0.0, float(variance) - rest / f.examples)
  low, high = (of_seed(seed * freedom / special.chdtri(freedom, p)) for p in (0.025, 0.975))
  return Spread(of_seed(seed), max(0.0, example - rest / f.seeds), rest, (low, high))
