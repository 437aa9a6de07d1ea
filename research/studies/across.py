"""What a report says of all tasks together: which arm is better over all, and the table by task."""

import math
from typing import Any

from research.evaluation import metrics
from research.studies import grid
from research.studies.findings import Part, interval, p_value, share_a_letter
from research.studies.overall import FEW, LEVEL


def part(comparison: dict[str, Any]) -> Part | None:
  """The answer over all tasks of a study, with its table; None where the study has one.

  Args:
    comparison: what comparison.json holds.
  """
  o = comparison.get('overall')
  if not o:
    return None
  higher = metrics.measured(o['metric']).higher_is_better
  best, *others = sorted(o['arms'], key=lambda a: a['mean'], reverse=higher)
  out = [f'{"Highest" if higher else "Lowest"} {o["metric"]} over all: {best["arm"]}, {interval(best)}.']
  if best['group'] and others:
    tied = [a['arm'] for a in others if share_a_letter(a, best)]
    out.append(f'No test tells {best["arm"]} from {", ".join(tied)} over all.' if tied else
               f'{best["arm"]} is told apart from every other arm over all.')
  for a in o['arms']:
    if d := a['difference']:
      found = 'cannot be told from' if d['p_adjusted'] is None or d['p_adjusted'] >= LEVEL else (
          'is above' if d['mean'] > 0 else 'is below')
      ahead = d['ahead'] if higher else d['behind']
      out.append(f'{a["arm"]} {found} the baseline {o["baseline"]}: {interval(d, "+")}{_p(d, comparison)}; better on {ahead} '
                 f'of {len(o["units"])} {o["over"]}.')
  return Part(f'Over all {o["over"]}', out + _about(o), table=_table(comparison, o))


def _p(d: dict[str, Any], comparison: dict[str, Any]) -> str:
  if d['p_adjusted'] is None:
    return '' if not comparison['looks'] else ', so few that there is no test'
  return f', {p_value(d["p_adjusted"])} after Holm'


def _about(o: dict[str, Any]) -> list[str]:
  """What the answer is about, and what it is not."""
  count, over = len(o['units']), o['over']
  models = f', the mean over {len(o["models"])} models, which are not' if over == 'tasks' and len(o['models']) > 1 else ''
  out = [f'The {count} {over} are a sample{models}: the interval of a difference says how far it would move with other {over} '
         f'of their kind (a mixed model, arms paired by {over[:-1]}); tests are corrected (Holm) over the pairs of arms.']
  if count < FEW:
    out.append(f'With {count} {over} little can be known of others: intervals are wide, and only large differences are found.')
  if not math.isfinite(metrics.measured(o['metric']).most):
    out.append(f'{o["metric"]} has no upper limit, and is averaged as it is: {over} with large scores weigh most.')
  return out + [f'{arm} has no score on some of the {over}, and is not here.' for arm in o['missing']]


def _table(comparison: dict[str, Any], o: dict[str, Any]) -> list[tuple[str, ...]]:
  """A row an arm: its score on each task, with each model, and over all."""
  cs = comparison['comparisons']
  several = len(o['models']) > 1
  name = lambda c: f'{c["task"]}, {grid.called(c["model"])}' if several else c['task']
  table: list[tuple[str, ...]] = [('arm', *map(name, cs), 'over all [95 %]', 'group', 'difference over all [95 %]')]
  for a in o['arms']:
    scores = [next(interval(one) for one in c['arms'] if one['arm'] == a['arm']) for c in cs]
    gap = interval(a['difference'], '+') if a['difference'] else '(baseline)'
    table.append((a['arm'], *scores, interval(a), a['group'] or '–', gap))
  return table


def lines(comparison: dict[str, Any]) -> list[str]:
  """The same for a terminal; none where the study has one task."""
  if not (found := part(comparison)):
    return []
  return [f'{found.title}: {found.sentences[0]}', *found.sentences[1:]]
