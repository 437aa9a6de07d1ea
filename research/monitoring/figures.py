"""A report's figures, as SVGs that lie in the page."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from research import look
from research.look import COLOURS, STYLE
from research.monitoring import streams

MOST = 12      # bars of one figure


def drawn(found: dict[str, Any]) -> list[dict[str, str]]:
  """Each figure that there is something to draw for: its name, what it says, and itself.

  Args:
    found: what monitor.json holds.
  """
  labels, accuracy = found['answers']['labels'], found['accuracy']
  every: tuple[tuple[str, bool, Callable[[], str]], ...] = (
      ('evidence', found['requests'] > 1, lambda: _evidence(found)),
      ('languages', bool(found['inputs']['languages']['requests']),
       lambda: _shares(found['inputs']['languages'], 'What languages requests are in, beside the reference.')),
      ('labels', bool(labels), lambda: _shares(labels, 'Which labels were answered, beside those that are right there.')),
      ('calibration', bool(accuracy and accuracy['calibration']), lambda: _calibration(accuracy['calibration'])))
  made = []
  with tempfile.TemporaryDirectory() as place:
    for name, there, draw in every:
      if there:
        with plt.rc_context(STYLE):
          caption = draw()
          look.save(Path(place), name)
          plt.close('all')
        made.append({'name': name, 'caption': caption, 'data': look.embedded(Path(place) / f'{name}.svg')})
  return made


def _evidence(found: dict[str, Any]) -> str:
  """A line a kind, on a logarithmic axis, and the threshold."""
  _, axis = plt.subplots(figsize=(7.5, 3.4))
  styles = ('-', '--')
  for number, (kind, one) in enumerate(found['evidence'].items()):
    curve = one['curve']
    axis.plot(curve['request'], [max(x, 1e-3) for x in curve['wealth']], lw=1.6, label=kind,
              color=COLOURS[number % len(COLOURS)], ls=styles[number // len(COLOURS)])
  axis.axhline(streams.THRESHOLD, color='#888888', ls=':', lw=1.4)
  axis.annotate('alarm', (1, streams.THRESHOLD), xytext=(2, 3), textcoords='offset points', fontsize=9, color='#555555')
  top = max(streams.THRESHOLD * 3, *(min(one['most'], 1e9) * 2 for one in found['evidence'].values()))
  axis.set(yscale='log', ylim=(1e-2, top), xlabel='request', ylabel='evidence (e-value)')
  axis.legend(fontsize=9, loc='upper left', bbox_to_anchor=(1, 1))
  return ('Evidence of change by kind: the wealth of one who bets against "nothing has changed". Where nothing has, all lines '
          'together ever reach the dotted one with probability 5 % at most.')


def _short(text: str) -> str:
  text = look.plain(' '.join(text.split()))
  return text if len(text) <= 28 else f'{text[:27]}…'


def _shares(found: dict[str, Any], caption: str) -> str:
  """Shares of the reference and of requests, side by side."""
  names = sorted({*found['reference'], *found['requests']},
                 key=lambda x: -max(found['reference'].get(x, 0), found['requests'].get(x, 0)))[:MOST]
  _, axis = plt.subplots(figsize=(7, 1.1 + 0.42 * len(names)))
  for at, side in enumerate(('reference', 'requests')):
    axis.barh([y + 0.4 * at - 0.2 for y in range(len(names))], [found[side].get(x, 0) for x in names], height=0.38,
              color=COLOURS[at], label=side)
  axis.set(yticks=range(len(names)), yticklabels=[_short(x) for x in names], xlabel='share')
  axis.invert_yaxis()
  axis.grid(axis='y', visible=False)
  axis.legend(fontsize=9, loc='upper left', bbox_to_anchor=(1, 1))
  return caption


def _calibration(found: dict[str, Any]) -> str:
  """Accuracy by confidence."""
  _, axis = plt.subplots(figsize=(3.6, 3.4))
  axis.plot([0, 1], [0, 1], color='#888888', ls=':', lw=1.2)
  axis.plot([b['confidence'] for b in found['bins']], [b['accuracy'] for b in found['bins']], 'o-', color=COLOURS[0])
  axis.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel='confidence', ylabel='accuracy')
  return 'How often answers were right, by how sure the model was; on the dotted line confidence is calibrated.'
