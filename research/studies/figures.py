"""A study's figures: how the arms learned, how they were tuned, and what quality costs."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import matplotlib.ticker
import numpy as np

from research import look
from research.evaluation import harness, metrics
from research.look import COLOURS, MARKERS, STYLE, plain
from research.studies import confusion_figure, cost_figure, outcomes
from research.studies.grid import Study

RELIABILITY, CONFUSION = 'reliability', 'confusion'
SIDE = 4.0        # points between the curves of two arms over the same values
BESIDE = 4        # panels of learning curves in a line
BEGINS = 0.1      # of the steps: losses of the first ones would leave no room for those of the end
Drawn = dict[str, dict[str, str]]      # figure -> {name, svg, title, caption}; the first two are files'


def draw(study: Study, comparison: dict[str, Any], rows: list[dict[str, Any]], workdir: Path) -> list[Drawn]:
  """Writes figures/* (PNG, SVG, PDF) for every comparison: of learning, tuning, cost and so on, what there is to draw.

  Args:
    study: the one that was run.
    comparison: what comparison.json holds.
    rows: the lines of results.jsonl.
    workdir: the study's, which holds the runs and gets the figures.
  Returns:
    The figures of each comparison, in the order of `comparison`.
  """
  folder = workdir / 'figures'
  folder.mkdir(exist_ok=True)
  drawn: list[Drawn] = []
  for number, c in enumerate(comparison['comparisons']):
    drawn.append({})
    mine = [r for r in rows if r['model'] == c['model'] and r['task'] == c['task'] and r['result'] and not r['diverged']]
    colour = dict(zip(study.arms, COLOURS * len(study.arms)))
    for name, draw_one in (('learning', _learning), ('tuning', _tuning), ('cost', _cost), ('retained', _retained),
                           (RELIABILITY, _reliability), (CONFUSION, _confusion)):
      with plt.rc_context(STYLE):
        text = draw_one(study, c, mine, workdir, colour)
        if text is not None:
          stem = f'{name}-{number + 1}' if len(comparison['comparisons']) > 1 else name
          look.save(folder, stem)
          drawn[-1][name] = {'name': f'{stem}.png', 'svg': f'{stem}.svg', 'title': text[0], 'caption': text[1]}
        plt.close('all')
  return drawn


def _learning(study: Study, c: dict[str, Any], rows: list[dict[str, Any]], workdir: Path,
              colour: dict[str, str]) -> tuple[str, str] | None:
  """Training and validation loss over the steps, one panel an arm; the step that is kept is marked."""
  chosen = {arm: [r for r in rows if r['arm'] == arm and r['selected'] and r['result']['steps']] for arm in study.arms}
  chosen = {arm: found for arm, found in chosen.items() if found}
  if not chosen:
    return None
  across = min(len(chosen), BESIDE)
  down = -(-len(chosen) // across)
  _, axes = plt.subplots(down, across, figsize=(2.9 * across, 3.0 * down), sharey=True, squeeze=False,
                         gridspec_kw={'hspace': 0.5})
  for axis in axes.flat[len(chosen):]:
    axis.set_visible(False)
  turned, seen, steps = [], list[float](), max(r['result']['steps'] for found in chosen.values() for r in found)
  for axis, (arm, found) in zip(axes.flat, chosen.items()):
    ends: list[tuple[float, float]] = []
    for r in found:
      lines = outcomes.curve(workdir, r['key'])
      late = [x for x in lines if x['step'] > BEGINS * steps]
      seen += [x['valid/loss'] for x in late if 'valid/loss' in x]
      seen += np.quantile([x['train/loss'] for x in late], (0.05, 0.95)).tolist() if late else []
      axis.plot([x['step'] for x in lines], [x['train/loss'] for x in lines], color=colour[arm], alpha=0.35, lw=1)
      valid = [(x['step'], x['valid/loss']) for x in lines if 'valid/loss' in x]
      if valid:
        axis.plot(*zip(*valid), color=colour[arm], lw=2, marker='o', ms=4)
        best = min(valid, key=lambda v: v[1])
        kept = [v for v in valid if v[0] == r['result']['best_step']]
        axis.plot(*zip(*kept), marker='o', ms=10, mfc='none', mec=colour[arm], mew=1.5, clip_on=False)
        ends.append(valid[-1])
        if best[0] < valid[-1][0]:
          if arm not in turned:
            axis.annotate('turns up', best, xytext=(0, -9), textcoords='offset points', ha='center', va='top',
                          color=colour[arm])      # above it may be the title
          turned.append(arm)
    if ends:
      last = np.mean(ends, axis=0)
      axis.annotate(f'{last[1]:.3g}', tuple(last), xytext=(9, 0), textcoords='offset points', va='center', fontsize=9,
                    color=colour[arm])
    axis.set(title=plain(arm), xlabel='step', yscale='log', xlim=(0, 1.25 * steps))
    axis.set_xticks([tick for tick in axis.get_xticks() if 0 <= tick <= steps])
    axis.yaxis.set_major_formatter('{x:g}')
    axis.yaxis.set_minor_formatter('{x:g}')
    axis.yaxis.set_minor_locator(matplotlib.ticker.LogLocator(subs=(2, 5)))
  if seen:
    low, high = min(seen), max(seen)
    axes[0][0].set_ylim(low / 1.3 if low > 0 else None, 1.3 * high)
  for axis in axes[:, 0]:
    axis.set_ylabel('loss, nats per target token')
  turn = (f'Validation loss turned up before the end: {", ".join(dict.fromkeys(turned))}.' if turned else
          'No arm\'s validation loss turned up before the end.')
  return 'How the arms learned', (
      'Thin: training loss; thick: validation loss; ring: the step that is kept; number: the mean at the end, which the axes '
      f'show: the first steps and single batches may lie beyond them. {turn}')


def _apart(places: list[float], scale: Callable[[float], float]) -> list[float]:
  """Of the places on an axis, those that have room for a label: no two nearer than a fifteenth of the axis."""
  least = (scale(max(places)) - scale(min(places))) / 15
  found: list[float] = []
  for place in sorted(places):
    if not found or scale(place) - scale(found[-1]) >= least:
      found.append(place)
  return found


def _tuning(study: Study, c: dict[str, Any], rows: list[dict[str, Any]], workdir: Path,
            colour: dict[str, str]) -> tuple[str, str] | None:
  """The selection metric over each arm's grid; the chosen setting is ringed."""
  rows = [r for r in rows if not r['reports']]
  axes_of = {arm: list(spec.get('grid', {})) for arm, spec in study.arms.items()}
  fields = list(dict.fromkeys(f for grid in axes_of.values() for f in grid[:1]))
  if not fields:
    return None
  _, axes = plt.subplots(1, len(fields), figsize=(4.4 * len(fields), 3.2), sharey=True, squeeze=False)
  for axis, field in zip(axes[0], fields):
    places = list(dict.fromkeys(r['setting'][field] for r in rows if field in r['setting']))
    words = not all(isinstance(p, (int, float)) for p in places)      # such as targets: side by side, in their order
    if 'learning_rate' in field:
      axis.set_xscale('log')
      axis.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    mine = [arm for arm, grid in axes_of.items() if grid[:1] == [field]]
    axis.margins(x=0.04 + 0.015 * len(mine))      # for those at the sides
    for number, arm in enumerate(mine):
      points: dict[float, list[float]] = {}
      for r in rows:
        if r['arm'] == arm:
          points.setdefault(r['setting'][field], []).append(r['result']['metrics'][study.select])
      means = [(places.index(x), sum(y) / len(y)) for x, y in points.items()] if words else [
          (x, sum(y) / len(y)) for x, y in points.items()]
      means.sort()
      if not means:                              # no cell of this arm ended
        continue
      every = [(places.index(x) if words else x, y) for x, ys in points.items() for y in ys]
      beside = cost_figure.aside(axis, SIDE * (number - (len(mine) - 1) / 2), every)      # what coincides stays visible
      marker = MARKERS[[*study.arms].index(arm) % len(MARKERS)]
      axis.plot(*zip(*means), color=colour[arm], marker=marker, label=plain(arm), lw=1.8, transform=beside)
      axis.plot(*zip(*every), '.', color=colour[arm], alpha=0.4, transform=beside)
      picked = next((r['setting'][field] for r in rows if r['arm'] == arm and r['chosen']), None)
      ringed = [p for p in means if picked is not None and p[0] == (places.index(picked) if words else picked)]
      axis.plot(*(zip(*ringed) if ringed else ([], [])), marker='o', ms=11, mfc='none', mec=colour[arm], mew=1.5,
                transform=beside)
    labelled = places if words else _apart(places, math.log if 'learning_rate' in field else float)
    axis.set_xticks(range(len(places)) if words else labelled, [shown(p) for p in labelled])
    axis.tick_params(axis='x', rotation=30 if len(labelled) > 5 else 0)
    axis.set_xlabel(field.split('.')[-1].replace('_', ' '))
  labelled_by = {label: handle for axis in axes[0] for handle, label in zip(*axis.get_legend_handles_labels())}
  axes[0][-1].legend(labelled_by.values(), labelled_by.keys(), fontsize=9, loc='center left', bbox_to_anchor=(1.02, 0.5))
  axes[0][0].set_ylabel(plain(study.select))
  again = len(study.report_seeds)
  saw = f'was chosen and trained again with {again} other seeds' if again else 'was chosen and alone saw the test split'
  saw = 'is the best so far' if c['split'] == 'valid' else saw
  return 'How each arm was tuned', f'{study.select} over the grid; the ringed setting {saw}. Arms stand a little side by side.'


def _cost(study: Study, c: dict[str, Any], rows: list[dict[str, Any]], workdir: Path,
          colour: dict[str, str]) -> tuple[str, str] | None:
  return cost_figure.draw(c, colour)


def _confusion(study: Study, c: dict[str, Any], rows: list[dict[str, Any]], workdir: Path,
               colour: dict[str, str]) -> tuple[str, str] | None:
  return confusion_figure.draw(c, rows, workdir, colour)


def _retained(study: Study, c: dict[str, Any], rows: list[dict[str, Any]], workdir: Path,
              colour: dict[str, str]) -> tuple[str, str] | None:
  """A panel for each retained task: what arms learned against what changed there; the front is of those that none beats."""
  if not c.get('retained'):
    return None
  _, axes = plt.subplots(1, len(c['retained']), figsize=(4.4 * len(c['retained']), 3.4), sharey=True, squeeze=False)
  learned = {a['arm']: a for a in c['arms']}
  up = metrics.measured(c['metric']).higher_is_better
  for axis, r in zip(axes[0], c['retained']):
    better = metrics.get(r['metric']).higher_is_better
    for a in r['arms']:
      x, y = a['change'], learned[a['arm']]
      axis.errorbar(x['mean'], y['mean'], xerr=[[x['mean'] - x['low']], [x['high'] - x['mean']]],
                    yerr=[[y['mean'] - y['low']], [y['high'] - y['mean']]], fmt='o', ms=7, capsize=3, color=colour[a['arm']],
                    label=a['arm'])
    points = [(a['change']['mean'], learned[a['arm']]['mean']) for a in r['arms']]
    axis.plot(*zip(*_front(points, better, up)), color='#888888', lw=1, zorder=0)
    axis.axvline(0, color='#888888', ls='--', lw=1)
    axis.annotate('base', (0, axis.get_ylim()[0]), fontsize=8, color='#666666', rotation=90, ha='right', va='bottom')
    axis.set(title=r['name'], xlabel=f'change of {r["metric"]}')
    if not better:
      axis.invert_xaxis()
  axes[0][0].set_ylabel(c['metric'])
  axes[0][-1].legend(fontsize=9)
  return ('Learned against forgotten', f'{c["metric"]} against the change from the base on what no arm trained on, worse to '
          'the left; the line joins the arms that no other beats in both.')


def _front(points: list[tuple[float, float]], right: bool, up: bool) -> list[tuple[float, float]]:
  """The points that no other beats in both directions, of which larger values are the better ones if so."""
  worth = lambda point: (point[0] if right else -point[0], point[1] if up else -point[1])
  beats = lambda a, b: all(p >= q for p, q in zip(worth(a), worth(b))) and worth(a) != worth(b)
  return sorted((a for a in points if not any(beats(b, a) for b in points)), key=worth)


def _reliability(study: Study, c: dict[str, Any], rows: list[dict[str, Any]], workdir: Path,
                 colour: dict[str, str]) -> tuple[str, str] | None:
  """How often answers of a confidence are right, one panel an arm, all its seeds together; where calibration is measured."""
  chosen = {arm: [r for r in rows if r['arm'] == arm and r['selected']] for arm in study.arms}
  chosen = {arm: found for arm, found in chosen.items() if found}
  if not all(f'{c["split"]}/ece' in r['result']['metrics'] for found in chosen.values() for r in found):
    return None
  metric = metrics.get('ece')
  _, axes = plt.subplots(1, len(chosen), figsize=(2.6 * len(chosen) + 0.5, 2.9), sharey=True, squeeze=False)
  for axis, (arm, found) in zip(axes[0], chosen.items()):
    scored = [x for r in found for x in harness.scored_rows(outcomes.predictions(workdir, r['key'], c['split']))]
    totals = metric.sums(scored).sum(0)
    confidence, right, count = totals.reshape(3, metrics.BINS)
    full = count > 0
    axis.plot([0, 1], [0, 1], color='#888888', ls=':', lw=1, zorder=0)
    axis.scatter(confidence[full] / count[full], right[full] / count[full], s=10 + 150 * count[full] / count.max(),
                 color=colour[arm], alpha=0.8)
    axis.set(title=f'{arm}: ECE {float(metric.score(totals)):.3f}', xlabel='confidence', xlim=(-0.02, 1.08), ylim=(-0.04, 1.04))
  axes[0][0].set_ylabel('share of right answers')
  return 'Whether confidence can be believed', (
      'Answers by the probability of the choice that was given, in 15 bins of equal width; larger points hold more of them. '
      'On the line, as many are right as the model believes; below it, it believes too much.')


def shown(value: Any) -> str:
  """A setting's value for people."""
  return f'{value:g}' if isinstance(value, (int, float)) else str(value)
