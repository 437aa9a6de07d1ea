"""The crossed model of scores: seeds, templates and examples are samples, and arms meet all of them alike.

Of arms x seeds x examples there are three covariances between arms: over seeds, over examples, and of what is left. A mean
over seeds and examples deviates by an example's part, which hundreds of examples tell well, and a seed's part, which few seeds
tell badly. How few is said by pooling: where the trained arms' seeds deviate alike, all of them tell it together. Templates of
a prompt are few too, and stand beside the seeds. Anything else of which there are few can stand in their place, such as tasks.

Every function takes a study's values, or those of many studies at once: `...` stands for no axis or more.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import scipy
from scipy import special

AGREE = 0.1        # the level of the test that arms' seeds deviate alike: above it they are pooled
LEAST = 0.25       # of the error variance over examples alone: no error variance is taken to be less


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
    return float(scipy.optimize.brentq(lambda x: self.beyond(x) - 0.025, 0.0, most, xtol=1e-12 * most))


class Fit(NamedTuple):
  """The covariances of A arms that all have the same S seeds and n examples; of K templates those of the mean over them."""
  by_seed: np.ndarray        # [..., A, A] over seeds, of an arm's mean over examples
  by_example: np.ndarray     # [..., A, A] over examples, of an arm's mean over seeds
  rest: np.ndarray           # [..., A, A] of one value, of what neither explains
  seeds: int
  examples: int
  pooled: tuple[bool, ...]   # of each arm: whether its seeds' deviation is told together with others'
  agree: np.ndarray          # [...] whether those arms' seeds deviate alike
  step: float                # how much one example may be worth
  templates: 'Fit | None' = None      # K templates in place of the seeds, of means over seeds
  both: np.ndarray | float = 0.0      # [..., A, A] over seeds and templates, of what neither explains of a mean over examples
  each: np.ndarray | float = 0.0      # [..., A, A] of one value, of what no two of seeds, templates and examples explain


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


def fit_templates(values: np.ndarray, trained: Sequence[bool], step: float) -> Fit:
  """The covariances of arms whose every seed met every example under every template, crossed as seeds and examples are.

  Args:
    values: of shape [..., A, S, K, n], with K and n above 1.
    trained: as for `fit`.
    step: as for `fit`.
  """
  S, K, n = values.shape[-3:]
  found, over = fit(values.mean(-2), trained, step / K ** 0.5), fit(values.mean(-3), trained, step / S ** 0.5)
  if S == 1:
    return found._replace(templates=over)

  def covariance(x: np.ndarray, freedom: int) -> np.ndarray:
    for axis in range(values.ndim - 3, x.ndim):
      x = x - x.mean(axis, keepdims=True)
    flat = x.reshape(*values.shape[:-3], -1)
    return np.matmul(flat, flat.swapaxes(-1, -2)) / freedom
  return found._replace(templates=over, both=covariance(values.mean(-1), (S - 1) * (K - 1)),
                        each=covariance(values, (S - 1) * (K - 1) * (n - 1)))


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
  `seeds_part`, and no less than a share of the error over examples alone. Of each seed half an example either way is added,
  on which the arms differ by `step` (Agresti & Min 2005): arms that agree on all of few examples are not taken to be the same.

  Args:
    f: the arms' covariances.
    one: the number of an arm.
    other: of another.
  Returns:
    The deviation, and its degrees of freedom over seeds [...], or over templates where those are fewer: with one no p says
    anything (0: there is one seed, and one template).
  """
  example, rest = (of_difference(x, one, other) for x in (f.by_example, f.rest))
  example = ((f.examples - 1) * example + f.step ** 2 / f.seeds) / (f.examples + 1)
  if f.templates:
    return _with_templates(f, example, lambda x: of_difference(x, one, other), lambda g: seeds_part(g, one, other))
  if f.seeds == 1:
    return _deviation(f, example, rest), np.zeros(example.shape)
  seed, freedom, least = seeds_part(f, one, other)
  return _deviation(f, example, rest, seed, freedom, least), freedom


def level(f: Fit, arm: int) -> tuple[Deviation, np.ndarray]:
  """How far an arm's mean may lie from the truth, and its degrees of freedom over seeds [...].

  Args:
    f: the arms' covariances.
    arm: its number.
  """
  example, rest = f.by_example[..., arm, arm], f.rest[..., arm, arm]
  if f.templates:
    return _with_templates(f, example, lambda x: x[..., arm, arm], lambda g: (*_arms_seeds(g, arm), LEAST))
  if f.seeds == 1:
    return _deviation(f, example, rest), np.zeros(example.shape)
  seed, freedom = _arms_seeds(f, arm)
  return _deviation(f, example, rest, seed, freedom, LEAST), freedom


def of_difference(covariance: np.ndarray, one: int, other: int) -> np.ndarray:
  """The variance [...] of a difference.

  Args:
    covariance: of arms, [..., A, A].
    one: the number of an arm.
    other: of another.
  """
  return covariance[..., one, one] + covariance[..., other, other] - 2 * covariance[..., one, other]


def seeds_part(f: Fit, one: int, other: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | float]:
  """(variance over seeds of a difference, its degrees of freedom, the least share of the error over examples).

  Pooled over the trained arms where they agree, but no less than half of what the two arms' own seeds say; where they do not
  agree, the two arms' own, and then no less than the error over examples. A prompt's seeds stand beside the trained arms'.

  Args:
    f: the arms' covariances; each of what is given has their shape [...].
    one: the number of an arm.
    other: of another.
  """
  own, S, T = of_difference(f.by_seed, one, other), f.seeds, sum(f.pooled)
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


Pick = Callable[[np.ndarray], np.ndarray]      # covariances [..., A, A] -> the variance [...] of an arm or a difference
Part = tuple[np.ndarray, np.ndarray, np.ndarray | float]      # as `seeds_part` gives it


def _picked(covariance: np.ndarray | float, pick: Pick) -> np.ndarray | float:
  return pick(covariance) if isinstance(covariance, np.ndarray) else covariance


def _with_templates(f: Fit, example: np.ndarray, pick: Pick, part: Callable[[Fit], Part]) -> tuple[Deviation, np.ndarray]:
  """Of a mean over seeds, templates and examples: the deviation, and the fewer degrees of freedom of seeds and templates.

  Its variance is seed / S + template / K + example / n, less what is counted twice in these, as each holds the parts of
  the values that it has with another.

  Args:
    f: the covariances, with those of templates.
    example: the variance of an example's mean.
    pick: the arm, or the two.
    part: covariances -> (variance over seeds, or what stands in their place, its degrees of freedom, the least share).
  """
  assert f.templates is not None
  S, K, n = f.seeds, f.templates.seeds, f.examples
  over_examples = example / n
  twice = pick(f.rest) / (S * n) + pick(f.templates.rest) / (K * n) - _picked(f.each, pick) / (S * K * n)
  examples, of_examples = _uncertain(np.maximum(over_examples - twice, 0), n - 1, 8)
  variance, freedom, least = part(f.templates)
  variance = variance / K
  if S > 1:
    of_seeds, freedom_of_seeds, least_of_seeds = part(f)
    whole = np.maximum(np.maximum(variance, of_seeds / S), variance + of_seeds / S - _picked(f.both, pick) / (S * K))
    of_both = _satterthwaite((variance, freedom), (of_seeds / S, freedom_of_seeds))
    variance, freedom, least = whole, np.minimum(freedom, freedom_of_seeds), np.maximum(least, least_of_seeds)
  else:
    of_both = freedom
  between, weights = _uncertain(variance, of_both, 40)
  variances = np.maximum(examples[..., None] + between[..., None, :], np.asarray(least * over_examples)[..., None, None])
  return Deviation(variances.reshape(*variances.shape[:-2], -1), np.outer(of_examples, weights).ravel()), np.asarray(freedom)


class Component(NamedTuple):
  """The variance that one of a sample adds to a score, with its 95 % interval."""
  count: int          # type: ignore[assignment]  # how many there are; hides tuple's method
  variance: float
  low: float
  high: float


def components(f: Fit, pick: Pick) -> dict[str, Component]:
  """What seeds, templates and examples each add, where there are two or more of them, by the mean squares.

  0 where what others do explains all that a sample seems to do.

  Args:
    f: the covariances of one study.
    pick: the arm, or the two.
  """
  S, n, t = f.seeds, f.examples, f.templates
  K, over_templates = (t.seeds, pick(t.rest)) if t else (1, 0.0)
  both, each, rest = _picked(f.both, pick), _picked(f.each, pick), pick(f.rest)

  def component(count: int, over: np.ndarray, others: np.ndarray | float) -> Component:
    quantiles = (1.0, *((count - 1) / special.chdtri(count - 1, p) for p in (0.025, 0.975)))
    return Component(count, *(max(0.0, float(over * q - others)) for q in quantiles))
  found = {'seeds': component(S, pick(f.by_seed), rest / n + both / K - each / (K * n))} if S > 1 else {}
  if t:
    found['templates'] = component(K, pick(t.by_seed), over_templates / n + both / S - each / (S * n))
  return {**found, 'examples': component(n, pick(f.by_example), rest / S + over_templates / K - each / (S * K))}
