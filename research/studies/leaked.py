"""What a report says where training holds rows that arms were scored on: every score without these rows too."""

from collections.abc import Sequence
from typing import Any

from research.studies.findings import Part, interval

TITLE = 'Without the rows that training holds'


def parts(c: dict[str, Any], others: Sequence[Part]) -> list[Part]:
  """A report's parts, with this one after the answer where there is something to say.

  Args:
    c: one of comparison.json's `comparisons`.
    others: the parts, the answer first.
  """
  if 'without_leaked' not in c:
    return [*others]
  found = c['without_leaked']
  rows = f'{found["leaked"]} of the {c["examples"]} {c["split"]} rows'
  if not found['arms']:
    return [others[0], Part(TITLE, [f'Training holds {rows}, in whole or in part: too few are left to score the arms without '
                                    'them, and the scores above may be of what was learned by heart.']), *others[1:]]
  before = {a['arm']: a for a in c['arms']}
  table: list[tuple[str, ...]] = [('arm', 'score [95 %]', 'without these rows', f'difference to {c["baseline"]} without them')]
  for a in found['arms']:
    gap = interval(a['difference'], '+') if a['difference'] else '–'
    table.append((a['arm'], interval(before[a['arm']]), interval(a), gap))
  sentence = (f'Training holds {rows}, in whole or in part. All else in this report is over all rows; here the scores stand '
              f'beside those over the other {found["examples"]}, of which nothing is tested.')
  return [others[0], Part(TITLE, [sentence], table=table), *others[1:]]


def line(c: dict[str, Any]) -> list[str]:
  """The same for a terminal: one line, or none."""
  if 'without_leaked' not in c:
    return []
  found = c['without_leaked']
  told = ', '.join(f'{a["arm"]} {interval(a)}' for a in found['arms']) or 'too few are left to be scored'
  return [f'without the {found["leaked"]} of {c["examples"]} {c["split"]} rows that training holds: {told}']
