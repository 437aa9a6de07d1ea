"""From a study's results and predictions to comparison.json."""

from pathlib import Path
from typing import Any

import numpy as np

from research import workdir as files
from research.data.sources import read_jsonl
from research.errors import InputError
from research.evaluation import harness, metrics
from research.studies import statistics
from research.studies.grid import Study
from research.studies.runner import RUNS

COMPARISON = 'comparison.json'


def compare(s: Study, rows: list[dict[str, Any]], workdir: Path) -> dict[str, Any]:
  """Every arm's level, and its difference to the baseline, for each model and task.

  Args:
    rows: the lines of results.jsonl.
  Returns:
    What comparison.json holds (its fields are in the contract of the README).
  """
  metric = metrics.get(s.report.split('/')[1])
  comparisons = []
  for model, task in dict.fromkeys((r['model'], r['task']) for r in rows):
    chosen = {arm: sorted((r for r in rows if r['selected'] and (r['model'], r['task'], r['arm']) == (model, task, arm)),
                          key=lambda r: r['seed']) for arm in s.arms}
    missing = [arm for arm, found in chosen.items() if not found]
    if s.baseline in missing:
      raise InputError(f'{workdir}: no cell of the baseline {s.baseline} on {task} ended; see results.jsonl')
    sums = {arm: {r['seed']: _sums(metric, workdir / RUNS / r['key']) for r in found} for arm, found in chosen.items()}
    base = sums[s.baseline]
    arms = []
    for arm, found in chosen.items():
      if not found:
        continue
      estimate = statistics.level(metric, list(sums[arm].values()))
      if len(found) == 1:      # one trained model: the interval that its own result.json gives
        low, high = found[0]['result']['intervals'][s.report]
        estimate = estimate._replace(low=low, high=high)
      both = [seed for seed in sums[arm] if seed in base]
      gap = None
      if arm != s.baseline and both:
        gap = statistics.difference(metric, [sums[arm][x] for x in both], [base[x] for x in both])
      arms.append({
          'arm': arm, 'selected': {f.split('.')[-1]: v for f, v in found[0]['setting'].items()},
          'seeds': [r['seed'] for r in found], 'mean': estimate.mean, 'low': estimate.low, 'high': estimate.high,
          'difference': None if gap is None else gap._asdict(), 'cost': _mean_cost(found)})
    adjusted = statistics.adjust([a['difference']['p'] if a['difference'] else None for a in arms])
    for a, p in zip(arms, adjusted):
      if a['difference']:
        a['difference']['p_adjusted'] = p
    comparisons.append({'model': model, 'task': task, 'metric': s.report, 'baseline': s.baseline, 'arms': arms,
                        'missing': missing})
  return {'question': s.question, 'margin': s.margin, 'comparisons': comparisons}


def _sums(metric: metrics.Metric, run: Path) -> np.ndarray:
  return metric.sums(harness.scored_rows(read_jsonl(run / files.PREDICTIONS / 'test.jsonl')))


def _mean_cost(found: list[dict[str, Any]]) -> dict[str, Any]:
  costs = [r['result']['cost'] for r in found]
  return {name: value if isinstance(value, str) else float(np.mean([c[name] for c in costs]))
          for name, value in costs[0].items()}
