"""Where between the values of its grid each arm's best value lies, and how many times the baseline's that is."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import stats

from research.evaluation import metrics
from research.studies.grid import SCALES, Study

ENOUGH = 3      # seeds for an interval
ONLY = 'only one'      # of the values of a grid that has no other: nothing was chosen


def best(points: Mapping[float, float], higher: bool) -> float | None:
  """The value at the top (or bottom) of the parabola through the best point and its two neighbours, over the value's logarithm.

  Args:
    points: value above 0 -> what it scored.
    higher: whether a higher score is better.
  Returns:
    None where the best point is the lowest or highest value, so that nothing is known of one side.
  """
  values = sorted(points)
  i = (max if higher else min)(range(len(values)), key=lambda i: points[values[i]])
  if i in (0, len(values) - 1):
    return None
  x, y = np.log(values[i - 1:i + 2]), [points[v] for v in values[i - 1:i + 2]]
  square, slope, _ = np.polyfit(x - x[1], y, 2)
  return float(math.exp(x[1] - slope / (2 * square))) if square else values[i]


def of_arms(s: Study, rows: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
  """Each arm's best value of each axis of fractions, such as learning rates, with its ratio to the baseline's.

  Best by what settings are chosen by, seed by seed.

  Args:
    s: the study.
    rows: the lines of results.jsonl of one model and task.
  Returns:
    arm -> field -> {value: geometric mean over seeds, seeds: how many, ratio, low, high: to the baseline's, paired by seed, by
    Student's distribution of logarithms; None with fewer than three seeds}; without a field of which some seed's best lies at
    an edge.
  """
  found = {arm: {field: by_seed for field in spec.get('grid', {})
                 if field in SCALES and (by_seed := _by_seed(s, rows, arm, field))} for arm, spec in s.arms.items()}
  return {arm: {field: _told(by_seed, found[s.baseline].get(field) if arm != s.baseline else None)
                for field, by_seed in fields.items()} for arm, fields in found.items() if fields}


def _by_seed(s: Study, rows: list[dict[str, Any]], arm: str, field: str) -> dict[int, float]:
  """seed -> the best value of one field, with the others as they were chosen; empty where some seed has none."""
  mine = [r for r in rows if r['arm'] == arm and not r['reports']]
  chosen = next((r['setting'] for r in mine if r['chosen']), None)
  if chosen is None:
    return {}
  points: dict[int, dict[float, float]] = {}
  for r in mine:
    alone = all(r['setting'][f] == v for f, v in chosen.items() if f != field)
    if alone and r['result'] and isinstance(r['setting'][field], float) and r['setting'][field] > 0:
      points.setdefault(r['seed'], {})[r['setting'][field]] = r['result']['metrics'][s.select]
  higher = metrics.measured(s.select).higher_is_better
  found = {seed: best(of_seed, higher) for seed, of_seed in points.items()}
  return {} if None in found.values() else {seed: value for seed, value in found.items() if value is not None}


def _told(by_seed: dict[int, float], of_baseline: dict[int, float] | None) -> dict[str, Any]:
  told: dict[str, Any] = {'value': math.exp(np.mean(np.log([*by_seed.values()]))), 'seeds': len(by_seed),
                          'ratio': None, 'low': None, 'high': None}
  both = [seed for seed in by_seed if of_baseline and seed in of_baseline]
  if of_baseline and len(both) >= ENOUGH:
    logs = np.log([by_seed[seed] / of_baseline[seed] for seed in both])
    reach = stats.t.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) / math.sqrt(len(logs))
    told |= {name: float(math.exp(logs.mean() + way * reach)) for name, way in (('ratio', 0), ('low', -1), ('high', 1))}
  return told


def edges(s: Study, a: dict[str, Any], rows: list[dict[str, Any]]) -> list[tuple[str, Any, str]]:
  """The numeric fields of which an arm's chosen value is lowest, highest or the only one: (name, value, which).

  Args:
    s: the study.
    a: the arm, as comparison.json has it.
    rows: the lines of results.jsonl of one model and task by which settings were chosen.
  """
  found = []
  for field in s.arms[a['arm']].get('grid', {}):
    name = field.split('.')[-1]
    values, value = [r['setting'][field] for r in rows if r['arm'] == a['arm']], a['selected'][name]
    if all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values) and value in (min(values), max(values)):
      found.append((name, value, ONLY if len({*values}) == 1 else 'lowest' if value == min(values) else 'highest'))
  return found
