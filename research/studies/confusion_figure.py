"""Which classes each arm takes for which: its confusion matrix, where all rows have the same few choices."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Rectangle

from research.evaluation import confusion
from research.look import plain
from research.studies import outcomes

MOST = 12           # classes of a figure
BESIDE = 4          # panels in a line
NONE = 'other'      # what is said that is no class
INK = 0.55          # how dense a colour is where all of a class went there: numbers stay readable


def totals(c: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], workdir: Path) -> tuple[list[str], dict[str, np.ndarray]]:
  """The classes, and of each arm how often which right class (rows) was taken for which (columns, the last of no class).

  Args:
    c: one of comparison.json's `comparisons`.
    rows: the lines of results.jsonl.
    workdir: the study's, which holds the runs' predictions.
  Returns:
    All seeds of an arm together, int [C, C + 1]; no arm where rows have choices of their own, none, or too many.
  """
  classes: list[str] = []
  found: dict[str, np.ndarray] = {}
  for r in (r for a in c['arms'] for r in rows if r['selected'] and r['arm'] == a['arm']):
    if (r['model'], r['task']) == (c['model'], c['task']):
      lines = outcomes.predictions(workdir, r['key'], c['split'])
      of_each = {tuple(line.get('choices') or ()) for line in lines}
      here = [choice.strip() for choice in next(iter(of_each), ())]
      if len(of_each) != 1 or not 1 < len(here) <= MOST or classes not in ([], here):
        return [], {}
      classes = here
      table = confusion.tables([x['target'].strip() for x in lines], [x['prediction'].strip() for x in lines], classes)
      counts = table.sum(0).reshape(len(classes) + 1, -1).astype(int)
      found[r['arm']] = found.get(r['arm'], 0) + counts[:-1]
  return classes, found


def draw(c: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], workdir: Path,
         colour: Mapping[str, str]) -> tuple[str, str] | None:
  """A panel for each arm; None where there is nothing to draw.

  Args:
    c: as for `totals`, as are the next two.
    rows: those lines.
    workdir: the study's.
    colour: of each arm.
  """
  classes, found = totals(c, rows, workdir)
  if not found:
    return None
  other = any(table[:, -1].any() for table in found.values())
  names = [_short(name) for name in (*classes, *([NONE] if other else []))]
  across, side = min(len(found), BESIDE), max(1.9, 0.42 * len(names) + 0.5)
  down = -(-len(found) // across)
  _, axes = plt.subplots(down, across, figsize=(across * side + 1, down * (side + 0.9)), sharey=True, squeeze=False)
  for axis in axes.flat[len(found):]:
    axis.set_visible(False)
  for axis, (arm, table) in zip(axes.flat, found.items()):
    for (i, j), n in np.ndenumerate(table[:, :len(names)]):
      axis.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, color=colour[arm], lw=0, alpha=INK * n / max(1, table[i].sum())))
      axis.text(j, i, f'{n}', ha='center', va='center', fontsize=9 if len(names) < 8 else 6)
    axis.set(title=plain(arm), xlim=(-0.5, len(names) - 0.5), ylim=(len(classes) - 0.5, -0.5), xlabel='said', aspect='equal')
    axis.set_xticks(range(len(names)), names, rotation=45, ha='right')
    axis.set_yticks(range(len(classes)), names[:len(classes)])
    axis.grid(False)
  for axis in axes[:, 0]:
    axis.set_ylabel('right')
  plt.tight_layout()
  seeds = ', all seeds together' if len(c['seeds']) > 1 else ''
  return 'Which classes are confused', (f'How many {c["split"]} examples of each right class (rows) got which answer '
                                        f'(columns){seeds}; the denser the colour, the larger the share of the class.')


def _short(text: str) -> str:
  text = plain(' '.join(text.split()))
  return text if len(text) <= 14 else f'{text[:13]}…'
