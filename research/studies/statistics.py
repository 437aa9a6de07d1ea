"""What arms' scores vary by, and how sure their means and differences are: seeds, templates and examples are samples.

How is said by the crossed model (`evaluation.crossed`); here it meets metrics, whose examples have one value each.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

from research.evaluation import crossed, templates
from research.evaluation.crossed import Deviation, Fit, difference, fit, level
from research.evaluation.intervals import pseudo_values, within
from research.evaluation.metrics import Metric

ENOUGH = 3         # degrees of freedom over seeds from which on their spread is told


class Spread(NamedTuple):
  """What a difference of one seed on one example varies by: variances of the seed, of the example, and of what is left.

  Of several templates of the prompt all three are of their mean, and theirs is what another choice of as many would add.
  """
  seed: float
  example: float
  rest: float
  seed_range: tuple[float, float]      # 95 % interval of the seed's
  of_templates: float = 0.0


class Estimate(NamedTuple):
  """A mean with its 95 % interval; `p` and `spread` are None where they would claim more than was sampled."""
  mean: float
  low: float
  high: float
  p: float | None                  # of the mean being 0, two-sided
  deviation: Deviation
  spread: Spread | None = None


class Scores(NamedTuple):
  """What arms scored on the same seeds and examples."""
  arms: tuple[str, ...]
  means: np.ndarray          # [A], over seeds and templates
  fit: Fit
  most: float                # that a score can be; inf where there is no limit
  least: float = 0.0


def scores(metric: Metric, sums: Mapping[str, Sequence[np.ndarray]], trained: Collection[str], each: float = 1.0) -> Scores:
  """Arms' mean scores, and what they vary by.

  Args:
    metric: the score.
    sums: arm -> the metric's sums per example, an array of shape [n, k] for every seed, which all arms have; of several
      templates as `templates.over` gives them.
    trained: the arms that were trained.
    each: how many examples stand in a row of the sums on average, where clusters do (see `evaluation.clusters`).
  """
  means = np.array([np.mean([metric.score(v.sum(0)) for v in of_seeds]) for of_seeds in sums.values()])
  learn = [arm in trained for arm in sums]
  if metric.templates > 1:
    values = np.array([[templates.values(metric, v) for v in of_seeds] for of_seeds in sums.values()])
    found = crossed.fit_templates(values, learn, _step(metric, values) / each)
  else:
    values = np.array([[pseudo_values(metric, v) for v in of_seeds] for of_seeds in sums.values()])
    found = fit(values, learn, _step(metric, values) / each)
  return Scores(tuple(sums), means, found, metric.most, metric.least)


def _step(metric: Metric, values: np.ndarray) -> float:
  """How much one example may differ by between arms: of a share all of it, of other scores as much as examples vary by."""
  varies = float(values.std(-1).mean())
  range_of = metric.most - metric.least
  return range_of if math.isfinite(range_of) and (metric.is_share or not varies) else varies


def mean(s: Scores, arm: str) -> Estimate:
  """An arm's mean score, with an interval that stays where scores can be (see `intervals.within`)."""
  number = s.arms.index(arm)
  deviation, _ = level(s.fit, number)
  center = float(s.means[number])
  low, high = within(center, deviation.half(), s.least, s.most, s.fit.examples)
  return Estimate(center, low, high, None, deviation)


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
  p = None if (s.fit.seeds > 1 or s.fit.templates) and freedom <= 1 else float(2 * deviation.beyond(abs(center)))
  most = s.most - s.least
  low, high = max(center - half, -most), min(center + half, most)
  return Estimate(center, low, high, p, deviation, _spread(s.fit, one, two) if s.fit.seeds > 1 else None)


def _spread(f: Fit, one: int, other: int) -> Spread | None:
  """What a difference varies by; None where too few seeds tell how much of it is theirs."""
  seed, freedom, _ = crossed.seeds_part(f, one, other)
  if freedom < ENOUGH:
    return None
  example, rest = (float(crossed.of_difference(x, one, other)) for x in (f.by_example, f.rest))
  of_seed = lambda variance: max(0.0, float(variance) - rest / f.examples)
  low, high = (of_seed(seed * freedom / special.chdtri(freedom, p)) for p in (0.025, 0.975))
  over = crossed.components(f, lambda x: crossed.of_difference(x, one, other)).get('templates')
  of_templates = over.variance / over.count if over else 0.0
  return Spread(of_seed(seed), max(0.0, example - rest / f.seeds), rest, (low, high), of_templates)
