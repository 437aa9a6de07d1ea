"""Which arm is better over all: tasks are a sample, as seeds and examples are.

The mixed model of arms and tasks: an arm's score on a task is the arm's own, plus what the task does to all arms, plus what it
does to this one. Arms are paired by task; what a task does to single arms, and all that seeds and examples add there, is seen
in how the differences vary from task to task. Where there is one task and several models, these are the sample.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from research.evaluation import crossed, intervals
from research.evaluation.crossed import Deviation
from research.evaluation.metrics import Metric
from research.studies import multiplicity
from research.studies.grid import Study
from research.studies.statistics import Scores

LEVEL = 0.05      # of the tests that tell arms apart
FEW = 5           # below so many tasks little can be known of others

Pair = tuple[str, str]
Told = dict[Pair, dict[str, Any]]


def of_cases(s: Study, metric: Metric, cases: Sequence[tuple[str, str, Scores]], looks: int) -> dict[str, Any]:
  """`overall` of comparison.json; nothing where there is one task and one model.

  Its tests are one family of their own, as its question is another than that of each task.

  Args:
    s: the study.
    metric: of its report.
    cases: (model, task, what arms scored there) of all of them.
    looks: as for `compare.compare`.
  """
  models, tasks = ([*dict.fromkeys(case[at] for case in cases)] for at in (0, 1))
  over, units, at = ('tasks', tasks, 1) if len(tasks) > 1 else ('models', models, 0)
  arms = [arm for arm in s.arms if all(arm in found.arms for *_, found in cases)]
  if len(units) < 2:
    return {}
  of_units = [[found for *names, found in cases if names[at] == unit] for unit in units]
  means = np.array([[np.mean([one.means[one.arms.index(arm)] for one in of_unit]) for of_unit in of_units] for arm in arms])
  trained = [cases[0][2].fit.pooled[cases[0][2].arms.index(arm)] for arm in arms]
  found = crossed.fit(np.stack([means, means], -1), trained, 0.0)      # measured: examples are within the tasks' own
  told = {pair: _difference(found, metric, means, arms, of_units, pair) for pair in itertools.combinations(arms, 2)}
  p = [x['p'] if looks else None for x in told.values()]
  for x, raw, adjusted in zip(told.values(), p, multiplicity.adjust(p, looks)):
    x |= {'p': raw, 'p_adjusted': adjusted}
  groups = _groups(metric, arms, means.mean(1), told)
  return {'overall': {
      'over': over, 'units': units, 'models': models, 'metric': s.report, 'baseline': s.baseline,
      'arms': [{'arm': arm, **_level(found, metric, means[number], number), 'group': groups.get(arm),
                'by_unit': means[number].tolist(), 'difference': _to_baseline(told, arm, s.baseline)}
               for number, arm in enumerate(arms)],
      'pairs': [{'arm': arm, 'other': other, **x} for (arm, other), x in told.items()],
      'missing': [arm for arm in s.arms if arm not in arms]}}


def _level(found: crossed.Fit, metric: Metric, of_arm: np.ndarray, number: int) -> dict[str, float]:
  center = float(of_arm.mean())
  half = crossed.level(found, number)[0].half()
  low, high = intervals.within(center, half, metric.least, metric.most, len(of_arm))
  return {'mean': center, 'low': low, 'high': high}


def _difference(found: crossed.Fit, metric: Metric, means: np.ndarray, arms: Sequence[str],
                of_units: Sequence[Sequence[Scores]], pair: Pair) -> dict[str, Any]:
  """The first arm minus the second, over all.

  Args:
    found: the covariances over tasks.
    metric: of the scores.
    means: [A, J].
    arms: their names.
    of_units: of each task what arms scored on it, with each model.
    pair: the two arms.
  """
  within = [np.mean([measured(x.fit, *map(x.arms.index, pair)) for x in of_unit]) / len(of_unit) for of_unit in of_units]
  one, other = map(arms.index, pair)
  deviation, freedom = difference(found, one, other, np.mean(within))
  each = means[one] - means[other]
  center, half, most = float(each.mean()), deviation.half(), metric.most - metric.least
  return {'mean': center, 'low': max(center - half, -most), 'high': min(center + half, most),
          'p': None if freedom <= 1 else float(2 * deviation.beyond(abs(center))), 'p_adjusted': None,
          'ahead': int((each > 0).sum()), 'behind': int((each < 0).sum())}


def difference(found: crossed.Fit, one: int, other: int, within: np.ndarray | float) -> tuple[Deviation, np.ndarray]:
  """How far the mean over tasks of a difference may lie from the truth, and its degrees of freedom over tasks [...].

  No less than what is measured within tasks explains: a few tasks may differ by less by chance.

  Args:
    found: the covariances over tasks.
    one: the number of an arm.
    other: of another.
    within: the variance [...] with which the difference is known on a task, on average (see `measured`).
  """
  deviation, freedom = crossed.difference(found, one, other)
  least = np.asarray(within)[..., None] / found.seeds
  return deviation._replace(variances=np.maximum(deviation.variances, least)), freedom


def measured(found: crossed.Fit, one: int, other: int) -> np.ndarray:
  """The variance [...] with which a difference is known on one task: of those that it may have, the harmonic mean.

  Args:
    found: the covariances on that task.
    one: the number of an arm.
    other: of another.
  """
  deviation, _ = crossed.difference(found, one, other)
  return 1 / (1 / np.maximum(deviation.variances, 1e-300) @ deviation.weights)


def _to_baseline(told: Told, arm: str, baseline: str) -> dict[str, Any] | None:
  if (arm, baseline) in told:
    return told[arm, baseline]
  if (baseline, arm) not in told:
    return None
  x = told[baseline, arm]
  return {**x, 'mean': -x['mean'], 'low': -x['high'], 'high': -x['low'], 'ahead': x['behind'], 'behind': x['ahead']}


def _groups(metric: Metric, arms: Sequence[str], means: np.ndarray, told: Told) -> dict[str, str]:
  """Each arm's compact letters; none where some pair cannot be tested."""
  if any(x['p_adjusted'] is None for x in told.values()):
    return {}
  ordered = sorted(arms, key=dict(zip(arms, means)).__getitem__, reverse=metric.higher_is_better)
  return multiplicity.letters(ordered, [frozenset(pair) for pair, x in told.items() if x['p_adjusted'] < LEVEL])
