"""What a report says of bias: whether tuning changed it, a sentence for each score, and a table."""

from collections.abc import Sequence
from typing import Any

from research.studies.compare import LEVEL
from research.studies.findings import Part, interval, p_value

TITLE = 'Did tuning change the bias'


def parts(c: dict[str, Any], others: Sequence[Part]) -> list[Part]:
  """A report's parts, with this one before what it cost where the study retains a probe.

  Args:
    c: one of comparison.json's `comparisons`.
    others: the parts.
  """
  if not c.get('bias'):
    return [*others]
  table: list[tuple[str, ...]] = [('probe', 'score', 'arm', 'score [95 %]', 'change from the base [95 %]')]
  for r in c['bias']:
    table.append((r['name'], r['metric'], 'base', interval(r['base']), '–'))
    table += [(r['name'], r['metric'], a['arm'], interval(a), interval(a['change'], '+') + _tested(a['change']))
              for a in r['arms']]
  sentences = [_sentence(r) for r in c['bias'] if r['ideal'] is not None]
  sentences += ['Changes of these scores are tested, paired by sentence and corrected together (Holm)' + (
      '; with one seed the tests are of these trained models, not of arms.' if len(c['seeds']) == 1 else '.')]
  sentences += [f'By {said}.' for said in dict.fromkeys(r['definition'] for r in c['bias'] if r['ideal'] is not None)]
  at = next((number for number, part in enumerate(others) if part.figure == 'cost'), len(others))
  return [*others[:at], Part(TITLE, sentences, table=table), *others[at:]]


def _p(change: dict[str, Any]) -> float | None:
  return change['p_models'] if change['p_adjusted'] is None else change['p_adjusted']


def _tested(change: dict[str, Any]) -> str:
  p = _p(change)
  return '' if p is None else f', {p_value(p)}'


def _sentence(r: dict[str, Any]) -> str:
  """Of a score of bias: what the base has, and which arms change it, towards what a model without bias has or away from it."""
  moved = []
  for a in r['arms']:
    p = _p(a['change'])
    if p is not None and p < LEVEL:
      nearer = abs(a['mean'] - r['ideal']) < abs(r['base']['mean'] - r['ideal'])
      moved.append(f'{a["arm"]} moves it by {interval(a["change"], "+")}, '
                   f'{"towards" if nearer else "away from"} {r["ideal"]:g}')
  said = '; '.join(moved) if moved else 'no arm is shown to change it'
  return (f'{r["metric"]} ({r["name"]}, {r["examples"]} examples in {r["clusters"]} clusters; {r["ideal"]:g} without bias): '
          f'{interval(r["base"])} for the base; {said}.')
