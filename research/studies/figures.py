"""A study's figures: how the arms learned, how they were tuned, and what quality costs."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import matplotlib.ticker

from research.evaluation import harness, metrics
from research.look import COLOURS, STYLE, count
from research.studies import outcomes
from research.studies.grid import Study

RELIABILITY = 'reliability'
Drawn = dict[str, dict[str, str]]      # figure -> {name, title, caption}; `name` is the file's


def draw(study: Study, comparison: dict[str, Any], rows: list[dict[str, Any]], workdir: Path) -> list[Drawn]:
  """Writes figures/*.png for every comparison: of learning, tuning, cost, forgetting and reliability, what there is to draw.

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
                           (RELIABILITY, _reliability)):
      with plt.rc_context(STYLE):
        text = draw_one(study, c, mine, workdir, colour)
        if text is not None:
          file = f'{name}-{number + 1}.png' if len(comparison['comparisons']) > 1 else f'{name}.png'
          plt.savefig(folder / file)
          drawn[-1][name] = {'name': file, 'title': text[0], 'caption': text[1]}
        plt.close('all')
  return drawn


def _learning(study: Study, c: dict[str, Any], rows: list[dict[str, Any]], workdir: Path,
              colour: dict[str, str]) -> tuple[str, str] | None:
  """Training and validation loss over the steps, one panel an arm; the step that is kept is marked."""
  chosen = {arm: [r for r in rows if r['arm'] == arm and r['selected'] and r['result']['steps']] for arm in study.arms}
  chosen = {arm: found for arm, found in chosen.items() if found}
  if not chosen:
    return None
  figure, axes = plt.subplots(1, len(chosen), figsize=(3.3 * len(chosen), 3.0), sharey=True, squeeze=False)
  turned = []
  for axis, (arm, found) in zip(axes[0], chosen.items()):
    for r in found:
      lines = outcomes.curve(workdir, r['key'])
      axis.plot([x['step'] for x in lines], [x['train/loss'] for x in lines], color=colour[arm], alpha=0.35, lw=1)
      valid = [(x['step'], x['valid/loss']) for x in lines if 'valid/loss' in x]
      if valid:
        axis.plot(*zip(*valid), color=colour[arm], lw=2, marker='o', ms=4)
        best = min(valid, key=lambda v: v[1])
        kept = [v for v in valid if v[0] == r['result']['best_step']]
        axis.plot(*zip(*kept), marker='o', ms=10, mfc='none', mec=colour[arm], mew=1.5)
        if best[0] < valid[-1][0]:
          turned.append(arm)
          axis.annotate('turns up', best, xytext=(0, -9), textcoords='offset points', ha='center', va='top',
                        color=colour[arm])      # above it may be the title
    axis.set(title=arm, xlabel='step', yscale='log')
    axis.yaxis.set_major_formatter('{x:g}')
    axis.yaxis.set_minor_formatter('{x:g}')
    axis.yaxis.set_minor_locator(matplotlib.ticker.LogLocator(subs=(2, 5)))
  axes[0][0].set_ylabel('loss, nats per target token')
  turn = (f'Validation loss turned up before the end: {", ".join(dict.fromkeys(turned))}.' if turned else
          'No arm\'s validation loss turned up before the end.')
  return 'How the arms learned', f'Thin: training loss; thick: validation loss; ring: the step that is kept. {turn}'


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
    for arm, grid in axes_of.items():
      if grid[:1] != [field]:
        continue
      points: dict[float, list[float]] = {}
      for r in rows:
        if r['arm'] == arm:
          points.setdefault(r['setting'][field], []).append(r['result']['metrics'][study.select])
      means = [(places.index(x), sum(y) / len(y)) for x, y in points.items()] if words else [
          (x, sum(y) / len(y)) for x, y in points.items()]
      means.sort()
      if not means:                              # no cell of this arm ended
        continue
      axis.plot(*zip(*means), color=colour[arm], marker='o', label=arm, lw=2)
      for x, ys in points.items():
        axis.plot([places.index(x) if words else x] * len(ys), ys, '.', color=colour[arm], alpha=0.4)
      picked = next((r['setting'][field] for r in rows if r['arm'] == arm and r['chosen']), None)
      ringed = [p for p in means if picked is not None and p[0] == (places.index(picked) if words else picked)]
      axis.plot(*(zip(*ringed) if ringed else ([], [])), marker='o', ms=11, mfc='none', mec=colour[arm], mew=1.5)
    if 'learning_rate' in field:
      axis.set_xscale('log')
      axis.set_xticks([], minor=True)
    labelled = places if words else _apart(places, math.log if 'learning_rate' in field else float)
    axis.set_xticks(range(len(places)) if words else labelled, [shown(p) for p in labelled])
    axis.tick_params(axis='x', rotation=30 if len(labelled) > 5 else 0)
    axis.set_xlabel(field.split('.')[-1].replace('_', ' '))
    axis.legend(fontsize=9)
  axes[0][0].set_ylabel(study.select.replace('$', r'\$'))
  again = len(study.report_seeds)
  saw = f'was chosen and trained again with {again} other seeds' if again else 'was chosen and alone saw the test split'
  saw = 'is the best so far' if c['split'] == 'valid' else saw
  return 'How each arm was tuned', f'{study.select} over the grid; the ringed setting {saw}.'


def _cost(study: Study, c: dict[str, Any], rows: list[dict[str, Any]], workdir: Path,
          colour: dict[str, str]) -> tuple[str, str] | None:
  """One row an arm: its score with the interval, and beside it what the chosen run took."""
  arms = sorted(c['arms'], key=lambda a: a['mean'], reverse=not metrics.measured(c['metric']).higher_is_better)
  panels = (('train_flops', 'training FLOPs'), ('trainable_params', 'parameters that learn'), ('train_seconds', 'seconds'))
  _, (score, *costs) = plt.subplots(1, 4, figsize=(10, 0.62 * len(arms) + 1.1), sharey=True,
                                    gridspec_kw={'width_ratios': (2.2, 1, 1, 1), 'wspace': 0.12})
  for y, a in enumerate(arms):
    score.errorbar(a['mean'], y, xerr=[[a['mean'] - a['low']], [a['high'] - a['mean']]], fmt='o', ms=8,
                   color=colour[a['arm']], capsize=4, lw=1.8)
    score.annotate(f'{a["mean"]:.3f}', (a['mean'], y), xytext=(0, 9), textcoords='offset points', ha='center', fontsize=9,
                   color=colour[a['arm']])
    for axis, (name, _) in zip(costs, panels):
      value = a['cost'][name]
      axis.barh(y, value, color=colour[a['arm']], height=0.5)
      axis.annotate(count(value), (value, y), xytext=(4, 0), textcoords='offset points', va='center', fontsize=9)
  for name, label, style, side in (('chance', 'chance', ':', 'right'), ('majority', 'most frequent', '--', 'left')):
    if c[name] is not None:
      score.axvline(c[name], color='#888888', ls=style, lw=1, zorder=0)
      score.annotate(label, (c[name], len(arms) - 0.32), rotation=90, fontsize=7, color='#666666', ha=side, va='top')
  score.set(yticks=range(len(arms)), yticklabels=[a['arm'] for a in arms], xlabel=study.report.replace('$', r'\$'),
            ylim=(-0.6, len(arms) - 0.3))
  for axis, (name, label) in zip(costs, panels):
    axis.set(xlabel=label, xticks=[], xlim=(0, 1.45 * max(1.0, *(a['cost'][name] for a in arms))))
    axis.grid(False)
  return ('Quality against cost',
          f'Score on the {c["split"]} split with its 95 % interval, beside what the chosen run took to train.')


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
