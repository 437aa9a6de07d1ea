"""What a report says of what was forgotten: a sentence for each task that the study retains, and a table."""

from collections.abc import Sequence
from typing import Any

from research.evaluation import metrics
from research.studies.findings import Part, interval

TITLE = 'What was forgotten'


def worse(retained: dict[str, Any], change: dict[str, float]) -> bool:
  """Whether a change's interval lies on the side of forgetting."""
  return change['high'] < 0 if metrics.get(retained['metric']).higher_is_better else change['low'] > 0


def parts(c: dict[str, Any], others: Sequence[Part]) -> list[Part]:
  """A report's parts, with this one before what it cost where the study retains something.

  Args:
    c: one of comparison.json's `comparisons`.
    others: the parts.
  """
  if not c.get('retained'):
    return [*others]
  sentences = ['Tasks that no arm trained on: the base before, each arm after. Nothing here is tested; an interval of a change '
               'that does not hold 0 is no p-value, and there are several.']
  table: list[tuple[str, ...]] = [('task', 'metric', 'arm', 'score [95 %]', 'change from the base [95 %]')]
  for r in c['retained']:
    table.append((r['name'], r['metric'], 'base', interval(r['base']), '–'))
    table += [(r['name'], r['metric'], a['arm'], interval(a), interval(a['change'], '+')) for a in r['arms']]
    lost = [a['arm'] for a in r['arms'] if worse(r, a['change'])]
    sentences.append(f'{r["name"]} ({r["metric"]}, {r["examples"]} examples): ' +
                     (f'{", ".join(lost)} {"lie" if len(lost) > 1 else "lies"} below the base.' if lost else
                      'no arm is shown to lie below the base.'))
  at = next(number for number, part in enumerate(others) if part.figure == 'cost')
  return [*others[:at], Part(TITLE, sentences, 'retained', table=table), *others[at:]]
