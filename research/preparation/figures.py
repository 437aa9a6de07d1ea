"""A prepared folder's figures: what went, how long rows are, how labels and groups are spread."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from research.look import COLOURS, STYLE

MOST = 20      # bars of one figure


def draw(folder: Path, found: dict[str, Any], lengths: dict[str, np.ndarray], unit: str) -> dict[str, str]:
  """Writes figures/*.png; gives those that there was something to draw for, with what each says.

  Args:
    folder: the prepared one.
    found: what report.json holds.
    lengths: split -> [N] lengths of its rows.
    unit: of the lengths.
  """
  (folder / 'figures').mkdir(exist_ok=True)
  captions = {}
  for name, drawn in (('dropped', lambda: _dropped(found['rows'])), ('labels', lambda: _labels(found['labels']['splits'])),
                      ('lengths', lambda: _lengths(lengths, unit, found['context'])),
                      *((f'group-{number}', lambda column=column: _group(column, found['groups'][column]))
                        for number, column in enumerate(found['groups'], 1))):
    with plt.rc_context(STYLE):
      caption = drawn()
      if caption is not None:
        plt.savefig(folder / 'figures' / f'{name}.png', metadata={'Software': None})
        captions[name] = caption
      plt.close('all')
  return captions


def _dropped(rows: dict[str, Any]) -> str | None:
  """A bar for each reason."""
  if not rows['dropped']:
    return None
  _, axis = plt.subplots(figsize=(7, 0.9 + 0.32 * (len(rows['dropped']) + 1)))
  bars = [('kept', rows['kept'], COLOURS[2]), *((reason, n, COLOURS[1]) for reason, n in rows['dropped'].items())]
  _bars(axis, bars)
  axis.set(xlabel='rows')
  return f'Of {rows["read"]:,} rows that came in, those that stayed, and those that went, by reason.'


def _bars(axis: Any, bars: Sequence[tuple[str, int, str]]) -> None:
  for y, (_, value, colour) in enumerate(bars):
    axis.barh(y, value, color=colour, height=0.6)
    axis.annotate(f'{value:,}', (value, y), xytext=(4, 0), textcoords='offset points', va='center', fontsize=9)
  axis.set(yticks=range(len(bars)), yticklabels=[_short(name) for name, _, _ in bars],
           xlim=(0, 1.15 * max(1, *(value for _, value, _ in bars))))
  axis.invert_yaxis()
  axis.grid(axis='y', visible=False)


def _short(text: str) -> str:
  """A value as a figure's label: in one line, and no formula."""
  text = ' '.join(text.split()).replace('$', r'\$')
  return text if len(text) <= 28 else f'{text[:27]}…'


def _labels(splits: dict[str, dict[str, int]]) -> str | None:
  """Label shares of each split, side by side."""
  names = list(dict.fromkeys(label for of in splits.values() for label in of))[:MOST]
  if not names:
    return None
  there = {split: of for split, of in splits.items() if of}
  _, axis = plt.subplots(figsize=(7, 0.9 + 0.14 * (len(there) + 1) * len(names)))
  for at, (split, of) in enumerate(there.items()):
    shares = [of.get(name, 0) / sum(of.values()) for name in names]
    axis.barh(np.arange(len(names)) + (at - (len(there) - 1) / 2) * 0.8 / len(there), shares, height=0.8 / len(there),
              color=COLOURS[at], label=split)
  axis.set(yticks=range(len(names)), yticklabels=[_short(name) for name in names], xlabel='share of the split\'s rows')
  axis.invert_yaxis()
  axis.grid(axis='y', visible=False)
  axis.legend(fontsize=9, loc='upper left', bbox_to_anchor=(1, 1))
  return 'Which share of each split has which label.'


def _lengths(lengths: dict[str, np.ndarray], unit: str, context: int) -> str | None:
  """Shares of rows by length, a line a split, on a logarithmic axis where lengths differ much."""
  there = {split: of for split, of in lengths.items() if len(of)}
  everything = np.concatenate([*there.values()])
  low, high = max(1, int(everything.min())), int(everything.max()) + 1
  wide = high > 50 * low
  edges = np.geomspace(low, high, 41) if wide else np.linspace(low, high, min(41, max(3, high - low + 1)))
  _, axis = plt.subplots(figsize=(7, 2.8))
  for at, (split, of) in enumerate(there.items()):
    shares = np.histogram(np.maximum(of, 1), edges)[0] / len(of)
    axis.stairs(shares, edges, color=COLOURS[at], lw=1.8, label=split)
  axis.set(xlabel=unit, ylabel='share of rows', xscale='log' if wide else 'linear')
  if context and context < 4 * high:
    axis.axvline(context, color='#888888', ls='--', lw=1)
    axis.annotate('context', (context, axis.get_ylim()[1]), rotation=90, fontsize=8, color='#666666', ha='right', va='top')
  axis.legend(fontsize=9)
  return f'How long the rows are, in {unit}.'


def _group(column: str, of: dict[str, Any]) -> str | None:
  """A panel for each label: its share in each group, with the interval."""
  groups = [group for group in of['groups'] if group['labels']][:MOST]
  names = [label for label, _ in sorted(of['gaps'].items(), key=lambda gap: -gap[1]['gap'])][:4]
  if not groups or not names:
    return None
  _, axes = plt.subplots(1, len(names), figsize=(2.2 + 1.9 * len(names), 0.9 + 0.32 * len(groups)), sharey=True, squeeze=False)
  for axis, label in zip(axes[0], names):
    for y, group in enumerate(groups):
      s = group['labels'][label]
      sides = [[s['share'] - s['low']], [s['high'] - s['share']]]
      axis.errorbar(s['share'], y, xerr=sides, fmt='o', color=COLOURS[0], capsize=3)
    axis.set(title=_short(label), xlabel='share', yticks=range(len(groups)), yticklabels=[_short(g['value']) for g in groups])
  axes[0][0].invert_yaxis()
  return f'The share of each label in each group of {column}, with its 95 % interval; labels with the largest gaps first.'
