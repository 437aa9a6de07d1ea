"""A comparison's verdict in words, for who reads no further: what its numbers answer, at what cost, and what stays open."""

from collections.abc import Sequence
from typing import Any

from research.evaluation import metrics
from research.look import count, percent
from research.studies import forgotten, optimum
from research.studies.compare import LEVEL
from research.studies.figures import shown
from research.studies.findings import interval, listed, p_value, tested
from research.studies.grid import Study

COSTS = (('trainable_params', 'parameters'), ('peak_bytes', 'memory'), ('train_flops', 'FLOPs'))
NAMES = {'chance': 'choosing at random', 'majority': 'always giving the most frequent answer'}
Arm = dict[str, Any]


def verdict(study: Study, c: dict[str, Any], rows: Sequence[dict[str, Any]]) -> list[str]:
  """The best arm, what the arms that matter beside it come to and cost, and why all that may yet be otherwise.

  Beside the best stand the cheapest of those that no test tells from it (or else the second best), and the baseline.

  Args:
    study: the one that was run.
    c: one of comparison.json's `comparisons`.
    rows: the lines of results.jsonl.
  """
  best, *others = sorted(c['arms'], key=lambda a: a['mean'], reverse=metrics.measured(c['metric']).higher_is_better)
  if c['split'] == 'valid':
    return [f'No verdict yet: not all runs have ended. So far {best["arm"]} is ahead ({c["metric"]} {interval(best)}).']
  side = 'highest' if metrics.measured(c['metric']).higher_is_better else 'lowest, which is best'
  lines = {name: c[name] for name in NAMES if c[name] is not None}
  most = max(lines, key=lambda name: lines[name], default=None)
  above = lambda a: most is None or a['low'] > lines[most]
  beside = _beside(c, best, others)
  out = [f'{best["arm"]} scores {side}: {c["metric"]} {interval(best)}' +
         (f', where {NAMES[most]} scores {lines[most]:.3f}.' if most else '.')]
  if not above(best) and most:
    out = [f'No arm is shown to be better than {NAMES[most]} ({lines[most]:.3f}): {best["arm"]} scores {side}, '
           f'{c["metric"]} {interval(best)}, and nothing follows about which way of adapting is better.']
  else:
    out += [_one_beside(study, c, a, best) + ('' if above(a) or most is None else
                                              f' It is not shown to be better than {NAMES[most]}.') for a in beside]
  return out + _open(study, c, rows, [best, *beside])


def _beside(c: dict[str, Any], best: Arm, others: Sequence[Arm]) -> list[Arm]:
  """The arms that a verdict names beside the best, the better ones first."""
  tied = [a for a in others if _pair(c, a, best) and not _apart(c, a, best)]
  cheapest = min(tied or others[:1], key=lambda a: a['cost']['train_flops'], default=best)
  named = {cheapest['arm'], c['baseline']}
  return [a for a in others if a['arm'] in named]


def _pair(c: dict[str, Any], one: Arm, other: Arm) -> dict[str, Any] | None:
  return next((x for x in c['pairs'] if {x['arm'], x['other']} == {one['arm'], other['arm']}), None)


def _apart(c: dict[str, Any], one: Arm, other: Arm) -> bool:
  pair = _pair(c, one, other)
  p = tested(pair) if pair else None
  return p is not None and p < LEVEL


def _one_beside(study: Study, c: dict[str, Any], a: Arm, best: Arm) -> str:
  """What an arm reaches of the best one's score, with which share of its cost, and whether a test tells them apart."""
  return f'{a["arm"]} {_reaches(c, a, best)}{_costs(a, best)}; {_told(study, c, a, best)}.'


def _reaches(c: dict[str, Any], a: Arm, best: Arm) -> str:
  metric, name = metrics.measured(c['metric']), c['metric'].split('/', 1)[1]
  if metric.higher_is_better and metric.least == 0 and best['mean'] > 0:
    return f'reaches {percent(a["mean"] / best["mean"])} of {best["arm"]}\'s {name}'
  return f'is {abs(a["mean"] - best["mean"]):.3f} worse than {best["arm"]} in {name}'


def _costs(a: Arm, best: Arm) -> str:
  of = {arm['arm']: arm['cost'] for arm in (a, best)}
  mine, its = of[a['arm']], of[best['arm']]
  if not mine['train_flops']:
    return ' without any training' if its['train_flops'] else ''
  if not its['train_flops']:
    return f', and was trained for it ({count(mine["train_flops"])} FLOPs)'
  alike = mine.get('cohort_size', 1) == its.get('cohort_size', 1)      # else memory is a share of other sizes
  ratios = {what: mine[name] / its[name] for name, what in COSTS
            if mine[name] and its[name] and (alike or name != 'peak_bytes')}
  if all(0.995 <= ratio < 1.005 for ratio in ratios.values()):
    return ' at the same cost'
  return f' with {listed(f"{_times(ratio)} its {what}" for what, ratio in ratios.items())}'


def _times(ratio: float) -> str:
  return f'{percent(ratio)} of' if ratio < 1.005 else f'{ratio:,.0f} times' if ratio >= 9.95 else f'{ratio:.2g} times'


def _told(study: Study, c: dict[str, Any], a: Arm, best: Arm) -> str:
  pair = _pair(c, a, best)
  p = tested(pair) if pair else None
  if pair is None:
    return 'no seed ended in both, so nothing tells whether they differ'
  if p is None:
    return 'so few seeds allow no test of whether they differ'
  if p < LEVEL:
    return f'a test tells them apart ({p_value(p)})'
  d = next((x['difference'] for x in (a, best) if {a['arm'], best['arm']} == {x['arm'], c['baseline']}), None)
  if d and d['p_equivalence'] is not None and d['p_equivalence'] < LEVEL:
    return f'they differ by less than {study.margin:g} either way'
  return 'they cannot be told apart'


def _open(study: Study, c: dict[str, Any], rows: Sequence[dict[str, Any]], named: Sequence[Arm]) -> list[str]:
  """What may turn the verdict round: edges of grids, one seed, runs that were lost, and what was forgotten meanwhile."""
  mine = [r for r in rows if (r['model'], r['task']) == (c['model'], c['task']) and not r['reports']]
  edges = [f'{a["arm"]} ({field} {shown(value)}, the {edge} that was tried)' for a in named
           for field, value, edge in optimum.edges(study, a, mine) if edge != optimum.ONLY]
  out = [f'Tuning ended at an edge for {listed(edges)}: a better value may lie beyond it.'] if edges else []
  lost = [f'{a["arm"]} {a["runs"]["finished"]} of {a["runs"]["planned"]}' for a in named
          if a['runs']['finished'] < a['runs']['planned']]
  out += [f'Runs that ended: {listed(lost)}.'] if lost else []
  out += [f'Not in the comparison, as every run failed or diverged: {listed(c["missing"])}.'] if c['missing'] else []
  for r in c.get('retained', ()):
    below = [a['arm'] for a in r['arms'] if forgotten.worse(r, a['change'])]
    out += [f'{listed(below)} lost on {r["name"]}, which no arm trained on.'] if below else []
  if 'without_leaked' in c:
    out.append(f'Training holds {c["without_leaked"]["leaked"]} of the {c["examples"]} rows that this is measured on.')
  if len(c['seeds']) == 1 and any(a['cost']['train_flops'] for a in c['arms']):
    out.append('One seed: this is about these trained models, and another seed may order them otherwise.')
  return out
