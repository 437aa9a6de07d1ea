"""What quality costs: every arm's score with its interval against what it took, on logarithmic axes."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import matplotlib.ticker
from matplotlib.transforms import ScaledTranslation, Transform

from research.look import MARKERS, count, plain

GAP = 7.0        # points between what would lie on top of each other
NEAR = 0.04      # of an axis: points that are no farther apart would
LINES = (('chance', 'chance', ':'), ('majority', 'most frequent answer', '--'))


def aside(axis: Any, points: float, at: Iterable[tuple[float, float]]) -> Transform:
  """Where an axis has its data, so many points to the right.

  Args:
    axis: whose limits then hold the data, which matplotlib does not see to here.
    points: to the right.
    at: the data, before they are moved.
  """
  axis.update_datalim([*at])
  axis.autoscale_view()
  return axis.transData + ScaledTranslation(points / 72, 0, axis.figure.dpi_scale_trans)


def asides(places: Sequence[float]) -> list[float]:
  """How many points each place is moved so that no two that nearly coincide lie on top of each other."""
  span = (max(places) - min(places)) or 1.0
  out, group = [0.0] * len(places), list[int]()
  order = sorted(range(len(places)), key=lambda i: places[i])
  for n, i in enumerate(order):
    group.append(i)
    if n + 1 == len(order) or places[order[n + 1]] - places[i] > NEAR * span:
      for at, member in enumerate(group):
        out[member] = GAP * (at - (len(group) - 1) / 2)
      group = []
  return out


def inference_flops(a: Mapping[str, Any]) -> float | None:
  """Of one answer's prompt: 2 for each parameter and token read (Kaplan et al. 2020); None where it was not recorded."""
  tokens = a['cost'].get('prompt_tokens')
  return 2 * a['cost']['total_params'] * tokens if tokens else None


def draw(c: Mapping[str, Any], colour: Mapping[str, str]) -> tuple[str, str]:
  """A panel for each cost that is known; what was not trained stands apart at the left.

  Args:
    c: one of comparison.json's `comparisons`.
    colour: of each arm.
  Returns:
    The figure's title and caption.
  """
  arms = c['arms']
  memory = [a['cost']['peak_bytes'] / 2 ** 30 if a['cost']['train_flops'] else 0.0 for a in arms]
  panels: list[tuple[str, list[float | None]]] = [
      ('training FLOPs', [a['cost']['train_flops'] for a in arms]), ('training memory, GiB', [*memory]),
      ('FLOPs to read a prompt', [inference_flops(a) for a in arms])]
  known = [(label, [v or 0.0 for v in values]) for label, values in panels if any(values) and None not in values]
  _, axes = plt.subplots(1, max(1, len(known)), figsize=(3.1 * max(1, len(known)) + 1.6, 3.4), sharey=True, squeeze=False)
  for axis, (label, values) in zip(axes[0], known or [('', [0.0] * len(arms))]):
    _panel(axis, label, values, arms, colour)
    for name, _, style in LINES:
      if c[name] is not None:
        axis.axhline(c[name], color='#888888', ls=style, lw=1, zorder=0)
  for name, label, style in LINES:
    if c[name] is not None:
      axes[0][-1].plot([], [], color='#888888', ls=style, lw=1, label=label)
  axes[0][0].set_ylabel(plain(c['metric']))
  axes[0][-1].legend(fontsize=9, loc='center left', bbox_to_anchor=(1.02, 0.5))
  in_use = '' if known and known[-1][0] == panels[-1][0] else ' What prompts cost in use was not recorded.'
  return ('Quality against cost', f'Score on the {c["split"]} split with its 95 % interval against what the arm took; further '
          f'left is cheaper, on logarithmic axes. Points that would coincide stand side by side.{in_use}')


def _panel(axis: Any, label: str, values: list[float], arms: Sequence[Mapping[str, Any]], colour: Mapping[str, str]) -> None:
  positive = [v for v in values if v > 0]
  low, high = (min(positive), max(positive)) if positive else (1.0, 1.0)
  room = max(high / low, 1.6) ** (0.35 if min(values) <= 0 else 0.12)
  nothing = low / room                      # where what took nothing stands
  places = [v if v > 0 else nothing for v in values]
  axis.set_xscale('log')
  moves = asides([math.log(place) for place in places])
  for n, (a, place, moved) in enumerate(zip(arms, places, moves)):
    axis.errorbar(place, a['mean'], yerr=[[a['mean'] - a['low']], [a['high'] - a['mean']]], fmt=MARKERS[n % len(MARKERS)],
                  ms=7, color=colour[a['arm']], capsize=3, lw=1.6, label=plain(a['arm']),
                  transform=aside(axis, moved, [(place, a['low']), (place, a['high'])]))
  edge = max(high / low, 1.6) ** 0.12
  axis.set(xlabel=label, xlim=(min(places) / edge, high * edge))
  ticks = [low, high] if high / low > 1.3 else [math.sqrt(low * high)]
  ticks += [math.sqrt(low * high)] if high / low > 30 else []
  named = {tick: f'{tick:.2g}' if tick < 1000 else count(tick) for tick in sorted(ticks)}
  if min(values) <= 0:
    named = {nothing: 'none', **(named if positive else {})}
    axis.axvline(nothing * math.sqrt(low / nothing), color='#888888', lw=0.6, zorder=0)
  axis.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
  axis.set_xticks(list(named), list(named.values()))
