"""Studies whose truth is known, many at once: what arms score on seeds and examples."""

from typing import NamedTuple

import numpy as np

from research.studies import statistics

POINT = 0.01


class Design(NamedTuple):
  """A kind of study. The deviation of seeds is that of all arms together."""
  arms: int
  seeds: int
  examples: int
  spread: float = 0.0          # how far the seeds' accuracy deviates
  kind: str = 'normal'         # or 'half wide', 'one wide' (arms whose seeds deviate 3 times as far), 't3', 'bad', 'correlated'

  def __str__(self):
    return f'{self.arms} x {self.seeds} x {self.examples:,}, seeds by {self.spread / POINT:g} points, {self.kind}'


def seeds(rng, d, studies):
  """How much better a seed is than its arm, in units of the spread, [studies, arms, seeds]."""
  shape, wide = (studies, d.arms, d.seeds), np.ones(d.arms)
  drawn = rng.standard_normal(shape)
  if d.kind == 't3':
    drawn = rng.standard_t(3, shape) / 3 ** 0.5
  elif d.kind == 'bad':            # one in seven is far worse
    drawn = drawn / 2 - 4 * (rng.random(shape) < 1 / 7) + 4 / 7
  elif d.kind == 'correlated':     # what a seed does, it does to all arms by half
    drawn = (drawn + rng.standard_normal((studies, 1, d.seeds))) / 2 ** 0.5
  elif d.kind == 'half wide':
    wide[d.arms // 2:] = 3
  elif d.kind == 'one wide':
    wide[-1] = 3
  return drawn * (wide / (wide ** 2).mean() ** 0.5)[:, None]


def chances(rng, d, studies, better=0.0):
  """Of a right answer, [studies, arms, seeds, examples]: about 0.7; examples are hard or not; the first arm gains `better`."""
  gain = np.zeros((d.arms, 1, 1))
  gain[0] = better
  hard = rng.normal(0, 0.2, (studies, 1, 1, d.examples))
  return (0.7 + gain + hard + d.spread * seeds(rng, d, studies)[..., None]).clip(0, 1)


def accuracy(rng, d, studies, better=0.0):
  """Right or wrong, [studies, arms, seeds, examples]."""
  drawn = rng.random((studies, d.arms, d.seeds, d.examples), np.float32)
  return (drawn < chances(rng, d, studies, better)).astype(float)


def loss(rng, d, studies):
  """Nats, skewed: examples differ by much more than arms."""
  hard = rng.normal(0, 0.8, (studies, 1, 1, d.examples))
  own = rng.normal(0, 0.2, (studies, d.arms, d.seeds, d.examples))
  return np.exp(hard + own) - 3 * d.spread * seeds(rng, d, studies)[..., None]


def tested(values, step=1.0, true=None):
  """(p of every pair of arms [studies, pairs] where it may be told, else nan; p of the true differences).

  Args:
    values: [studies, arms, seeds, examples].
    step: see `statistics.fit`.
    true: each arm's true mean, [arms]; all alike where it is left out.
  """
  arms, means = values.shape[1], values.mean((2, 3))
  f, true = statistics.fit(values, [True] * arms, step), np.zeros(arms) if true is None else true
  p, covered = [], []
  for one in range(arms):
    for other in range(one + 1, arms):
      deviation, freedom = statistics.difference(f, one, other)
      found = means[:, one] - means[:, other]
      p.append(np.where(freedom > 1, 2 * deviation.beyond(abs(found)), np.nan))
      covered.append(2 * deviation.beyond(abs(found - true[one] + true[other])))
  return np.stack(p, 1), np.stack(covered, 1)


def holm(p, level=0.05):
  """Which pairs Holm's correction tells apart at the level, [studies, pairs]."""
  order = np.argsort(p, axis=1)
  scaled = np.maximum.accumulate(np.take_along_axis(p, order, 1) * np.arange(p.shape[1], 0, -1), axis=1)
  return np.take_along_axis(scaled, np.argsort(order, axis=1), 1) < level


def levels(draw, d, studies, rng, step=1.0):
  """(share of studies of equal arms in which some pair is told apart, share of differences whose interval holds 0)."""
  wrong, held, left = 0, 0.0, studies
  while left:
    some = min(left, max(1, 2_000_000 // (d.arms * d.seeds * d.examples)))
    p, covered = tested(draw(rng, d, some), step)
    wrong += holm(p).any(1).sum()
    held += (covered > 0.05).mean(1).sum()
    left -= some
  return wrong / studies, held / studies
