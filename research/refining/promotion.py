"""Whether a challenger takes the incumbent's place: not worse on what was right before, and better on what is new.

Both are tested one-sided at `LEVEL`, on differences of the same examples. Not worse is half of the two one-sided tests of
equivalence (Schuirmann 1987): the least that the difference may be must lie above minus the margin. Since both must hold, the
chance to promote a challenger that fails either is at most the level (Berger 1982).

Of few examples with the same answers nothing varies, and still the next might be lost. So the least is that of the examples and
one more, on which the challenger is wrong and the incumbent right: of n alike it is about -2.7 / n, as by the score test of
paired shares (Tango 1998), where the examples alone would promote a challenger that is as much worse as the margin too often.
"""

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import optimize, special

from research.evaluation import clusters
from research.evaluation.crossed import Deviation
from research.evaluation.metrics import Metric
from research.studies import statistics

LEVEL = 0.05      # of each test
LEAST = 8         # new test examples (or clusters of them) below which nothing is decided
MARGIN = 0.02     # of a metric's range; of one without limits that number itself


class Compared(NamedTuple):
  """The challenger minus the incumbent on some examples; above 0 the challenger is better, of every metric."""
  examples: int
  units: int            # that vary: clusters where examples are of some
  incumbent: float      # its score
  challenger: float
  mean: float           # of the difference
  low: float            # 95 % interval
  high: float
  p: float              # of it being 0 or less
  bound: float          # the least that it may be, by 1 - LEVEL
  unchanged: float      # what the bound were if all answers were the same


class Decision(NamedTuple):
  """What was decided, and why not where it was not."""
  promoted: bool
  old_holds: bool
  new_holds: bool
  reasons: list[str]


def compared(metric: Metric, challenger: np.ndarray, incumbent: np.ndarray, of: Sequence[Hashable] = ()) -> Compared:
  """Two models' scores on the same examples.

  Args:
    metric: the score.
    challenger: the metric's sums per example, of shape [n, k].
    incumbent: the other's, of the same examples.
    of: of each example the cluster that it is of; none: each stands for itself.
  """
  sign = 1.0 if metric.higher_is_better else -1.0
  sums = {'challenger': challenger, 'incumbent': incumbent}
  level = {name: float(metric.score(one.sum(0))) if len(one) else math.nan for name, one in sums.items()}
  apart = {name: [clusters.sums(one, of)] for name, one in sums.items()}
  units = len(apart['challenger'][0])
  if units < 2:
    return Compared(len(challenger), units, level['incumbent'], level['challenger'], *[math.nan] * 6)
  scores = statistics.scores(metric, apart, (), len(challenger) / units)
  found = statistics.gap(scores, 'challenger', 'incumbent')
  step = scores.fit.step      # of a mean over templates, if there are several, under all of which one more would be lost
  mean, lost = sign * found.mean, step * math.sqrt(metric.templates) / (units + 1)
  unchanged = -lost - float(special.stdtrit(units - 1, 1 - LEVEL)) * step / math.sqrt(units * (units + 1))
  low, high = sorted((sign * found.low, sign * found.high))
  return Compared(len(challenger), units, level['incumbent'], level['challenger'], mean, low, high,
                  float(found.deviation.beyond(mean)), mean * units / (units + 1) - lost - reach(found.deviation), unchanged)


def reach(deviation: Deviation) -> float:
  """How far an estimate lies above the truth at most, by 1 - LEVEL."""
  most = 1e3 * math.sqrt(max(0.0, float(deviation.variances.max())))
  if not most:
    return 0.0
  return float(optimize.brentq(lambda x: float(deviation.beyond(x)) - LEVEL, 0.0, most, xtol=1e-12 * most))


def decide(old: Compared, new: Compared, margin: float) -> Decision:
  """Promoted or not.

  Args:
    old: on the test rows that were there before.
    new: on those that came from feedback.
    margin: how much worse on the old ones is not worse.
  """
  reasons = []
  old_holds = old.bound > -margin      # of NaN it is not
  new_holds = new.units >= LEAST and new.mean > 0 and new.p < LEVEL
  if old.units < 2:
    reasons.append(f'{old.units} old test examples are too few to compare on')
  elif not old_holds and old.unchanged <= -margin:
    reasons.append(f'{old.units} old test examples are too few for a margin of {margin:g}: even if all answers were the same, '
                   f'the difference might be as low as {old.unchanged:+.4f}; give more of them, or a larger --margin')
  elif not old_holds:
    reasons.append(f'on the old test rows it may be worse by more than the margin of {margin:g}: the difference is '
                   f'{old.mean:+.4f}, and it may be as low as {old.bound:+.4f}')
  if new.units < LEAST:
    reasons.append(f'{new.units} new test examples are too few: {LEAST} or more are needed')
  elif not new_holds:
    reasons.append(f'on the new test rows it is not shown to be better: the difference is {new.mean:+.4f}, p = {new.p:.3g}')
  return Decision(old_holds and new_holds, old_holds, new_holds, reasons)


def margin_of(metric: Metric, given: float | None) -> float:
  """The margin in units of the metric: as given, or MARGIN of its range."""
  if given is not None:
    return given
  return MARGIN * (metric.most - metric.least) if metric.limited else MARGIN
