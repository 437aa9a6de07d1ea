"""From a study's results and predictions to comparison.json."""

import itertools
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from research import workdir as files
from research.data.sources import read_jsonl
from research.errors import InputError
from research.evaluation import harness, metrics
from research.studies import statistics
from research.studies.grid import Study
from research.studies.runner import RUNS

COMPARISON = 'comparison.json'
LEVEL = 0.05      # of the tests that tell arms apart


def compare(s: Study, rows: list[dict[str, Any]], workdir: Path) -> dict[str, Any]:
  """Every arm's level, and its difference to the baseline, for each model and task.

  Args:
    s: whose arms are compared, by its `report`.
    rows: the lines of results.jsonl.
    workdir: the study's, which holds the runs' predictions.
  Returns:
    What comparison.json holds (its fields are in the contract of the README).
  Raises:
    InputError: no cell of the baseline ended.
  """
  metric = metrics.measured(s.report)
  comparisons = []
  for model, task in dict.fromkeys((r['model'], r['task']) for r in rows):
    chosen = {arm: sorted((r for r in rows if r['selected'] and (r['model'], r['task'], r['arm']) == (model, task, arm)),
                          key=lambda r: r['seed']) for arm in s.arms}
    missing = [arm for arm, found in chosen.items() if not found]
    if s.baseline in missing:
      raise InputError(f'{workdir}: no cell of the baseline {s.baseline} on {task} ended; see results.jsonl')
    sums = {arm: {r['seed']: _sums(metric, workdir / RUNS / r['key']) for r in found} for arm, found in chosen.items() if found}
    _check_examples(sums, task)
    gaps = _gaps(metric, sums)
    adjusted = _adjusted(sums, gaps)
    arms, groups = [], _groups(metric, sums, adjusted)
    told = {arm: _told(gaps[arm, s.baseline], s.margin, adjusted[frozenset((arm, s.baseline))])
            for arm in sums if (arm, s.baseline) in gaps}
    equivalences = statistics.adjust([difference['p_equivalence'] for difference in told.values()])
    for difference, p in zip(told.values(), equivalences):
      difference['p_equivalence'] = p
    for arm, found in chosen.items():
      if not found:
        continue
      estimate = statistics.level(metric, list(sums[arm].values()))
      if len(found) == 1:      # one trained model: the interval that its own result.json gives
        low, high = found[0]['result']['intervals'][s.report]
        estimate = estimate._replace(low=low, high=high)
      arms.append({
          'arm': arm, 'selected': {f.split('.')[-1]: v for f, v in found[0]['setting'].items()},
          'seeds': [r['seed'] for r in found], 'mean': estimate.mean, 'low': estimate.low, 'high': estimate.high,
          'group': groups.get(arm), 'difference': told.get(arm), 'cost': _mean_cost(found)})
    comparisons.append({'model': model, 'task': task, 'metric': s.report, 'baseline': s.baseline, 'arms': arms,
                        'missing': missing})
  return {'question': s.question, 'margin': s.margin, 'comparisons': comparisons}


Sums = dict[str, dict[int, np.ndarray]]      # arm -> seed -> the metric's sums per example


class Gap(NamedTuple):
  """The difference of two arms, over the seeds that both have."""
  found: statistics.Estimate
  seeds: int
  examples: int


def _gaps(metric: metrics.Metric, sums: Sums) -> dict[tuple[str, str], Gap]:
  """(arm, other) -> arm minus other, both ways round."""
  found = {}
  for arm, other in itertools.permutations(sums, 2):
    both = [seed for seed in sums[arm] if seed in sums[other]]
    if both:
      gap = statistics.difference(metric, [sums[arm][x] for x in both], [sums[other][x] for x in both])
      found[arm, other] = Gap(gap, len(both), len(sums[arm][both[0]]))
  return found


def _adjusted(sums: Sums, gaps: dict[tuple[str, str], Gap]) -> dict[frozenset[str], float | None]:
  """The p of every pair of arms after Holm's correction over all pairs: what letters and differences both go by."""
  pairs = list(itertools.combinations(sums, 2))
  p = statistics.adjust([gaps[pair].found.p if pair in gaps else None for pair in pairs])
  return {frozenset(pair): x for pair, x in zip(pairs, p)}


def _groups(metric: metrics.Metric, sums: Sums, adjusted: dict[frozenset[str], float | None]) -> dict[str, str]:
  """Each arm's compact letters; none where some pair cannot be tested."""
  if None in adjusted.values():
    return {}
  score = {arm: np.mean([metric.score(x.sum(0)) for x in found.values()]) for arm, found in sums.items()}
  arms = sorted(sums, key=score.__getitem__, reverse=metric.higher_is_better)
  return statistics.letters(arms, [pair for pair, p in adjusted.items() if p is not None and p < LEVEL])


def _told(gap: Gap, margin: float | None, p_adjusted: float | None) -> dict[str, Any]:
  """What comparison.json says of a difference; where no number of seeds or examples is enough it is null."""
  found, spread = gap.found, gap.found.spread
  told = {name: getattr(found, name) for name in ('mean', 'low', 'high', 'p')}
  told |= {'p_adjusted': p_adjusted, 'seeds': gap.seeds, 'seed_spread': None if spread is None else spread.seed ** 0.5,
           'p_equivalence': None if found.p is None or not margin else statistics.equivalence(found, margin)}
  least = margin or abs(found.mean)
  if spread is None or not found.error or not least:
    return {**told, 'needed': None}
  seeds, examples = (None if math.isinf(x) else x for x in statistics.needed(spread, gap.seeds, gap.examples, least))
  return {**told, 'needed': {'difference': least, 'seeds': seeds, 'examples': examples}}


def _check_examples(sums: Sums, task: str) -> None:
  """Refuses arms that were tested on different examples: nothing could be paired.

  Raises:
    InputError: their numbers differ.
  """
  counts = {arm: {len(x) for x in found.values()} for arm, found in sums.items()}
  if len(set.union(*counts.values())) > 1:
    told = ', '.join(f'{arm} {" or ".join(map(str, sorted(count)))}' for arm, count in counts.items())
    raise InputError(f'task {task}: the arms were tested on different numbers of examples ({told}), as texts are cut where an '
                     'arm leaves less room for them; give all arms one model.context that leaves them the same')


def _sums(metric: metrics.Metric, run: Path) -> np.ndarray:
  return metric.sums(harness.scored_rows(read_jsonl(run / files.PREDICTIONS / 'test.jsonl')))


def _mean_cost(found: list[dict[str, Any]]) -> dict[str, Any]:
  costs = [r['result']['cost'] for r in found]

  def of_all(values: list[Any]) -> Any:
    """Their mean; of words the first, and None where some run does not know."""
    if isinstance(values[0], str) or None in values:
      return values[0] if isinstance(values[0], str) else None
    return float(np.mean(values))
  return {name: of_all([c.get(name) for c in costs]) for name in costs[0]}
