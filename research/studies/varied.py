"""What a report says of what scores vary by: a row for each sample, and the scores under each template."""

import itertools
from collections.abc import Sequence
from typing import Any

from research.studies.findings import Part
from research.studies.grid import Cell

TITLE = 'What the scores vary by'
SHOWN = 200      # characters of a template


def parts(c: dict[str, Any], others: Sequence[Part], cells: Sequence[Cell]) -> list[Part]:
  """A report's parts, with this one before what it costs where there is something to say.

  Args:
    c: one of comparison.json's `comparisons`.
    others: the parts.
    cells: of the study, which know the templates.
  """
  if 'variation' not in c:
    return [*others]
  found = c['variation']
  table: list[tuple[str, ...]] = [('arm', 'sample', 'how many', 'each moves the score by [95 %]')]
  for a in found['arms']:
    table += [(a['arm'], row['of'], f'{row["count"]:,}', f'{row["deviation"]:.3f} [{row["low"]:.3f}, {row["high"]:.3f}]')
              for row in a['samples']]
  sentences = ['Standard deviations of what one of a sample adds to the score, by the crossed model. '
               + ('Intervals and tests are about other seeds, templates and examples of their kind, all at once.'
                  if found['templates'] > 1 else 'A draw of demonstrations is which are shown, and in which order.')]
  if found['templates'] > 1:
    sentences += _of_templates(c, found, next((cell.config['task'].get('prompts') or () for cell in cells
                                               if (cell.model, cell.task) == (c['model'], c['task'])), ()))
  at = next(number for number, part in enumerate(others) if part.figure == 'cost')
  return [*others[:at], Part(TITLE, sentences, table=table), *others[at:]]


def _of_templates(c: dict[str, Any], found: dict[str, Any], prompts: Sequence[str]) -> list[str]:
  """How arms score under each template, and whether their order depends on it."""
  out = []
  for number in range(found['templates']):
    told = ', '.join(f'{a["arm"]} {a["by_template"][number]:.3f}' for a in found['arms'])
    text = f' ({prompts[number]!r:.{SHOWN}})' if number < len(prompts) else ''
    out.append(f'Template {number + 1}{text}: {told}.')
  before = {a['arm']: a['mean'] for a in c['arms']}
  turned = []
  for one, other in itertools.combinations(found['arms'], 2):
    ahead = before[one['arm']] - before[other['arm']]
    under = [str(n + 1) for n, (x, y) in enumerate(zip(one['by_template'], other['by_template'])) if (x - y) * ahead < 0]
    if under:
      turned.append(f'{one["arm"]} and {other["arm"]} change places under {", ".join(under)}')
  few = ' With two templates little is known of others.' * (found['templates'] == 2)
  return [*out, ('Nothing here is tested. The order of the arms hangs on the template: ' + '; '.join(turned) if turned else
                 'Nothing here is tested. Under every template the arms come in the same order') + '.' + few]
