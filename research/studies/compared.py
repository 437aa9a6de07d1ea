"""Two studies on one page: the arms that both have, compared example by example."""

from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np

from research import look, run_files
from research.console import say
from research.errors import InputError
from research.evaluation import clusters, harness, metrics, templates
from research.look import COLOURS, MARKERS, STYLE, count, plain
from research.studies import multiplicity, outcomes, registration, results, runner, statistics
from research.studies.compare import LEVEL
from research.studies.figures import shown
from research.studies.findings import interval, listed, p_value
from research.studies.registration import COMPARISON

FOLDER, FILE = 'compared', 'compared.json'      # where it is written unless a workdir is given, and what


class _Side(NamedTuple):
  """One of the two studies."""
  workdir: Path
  name: str
  question: str
  comparisons: list[dict[str, Any]]
  rows: list[dict[str, Any]]


def write(folders: list[str], into: Path | None = None) -> None:
  """Writes compared.json, report.md, report.html and figures/ on two finished studies, and says what they come to.

  Args:
    folders: of the studies; differences are the second minus the first.
    into: where to write; None: the first one's folder, in `compared/` and the second one's name.
  Raises:
    InputError: these are not two finished studies by one metric, or they have no arm, no examples or no seed in common.
  """
  if len(folders) != 2:
    raise InputError(f'--compare: takes two studies, --compare A B, not {len(folders)}')
  first, second = sides = [_read(Path(folder), folders) for folder in folders]
  into = into or first.workdir / FOLDER / second.workdir.resolve().name
  if (into / registration.PLAN).exists():
    raise InputError(f'--workdir={into}: holds a study; give another place for the page')
  pairs = _pairs(first, second)
  found = [_difference(sides, *pair, arm) for pair in pairs for arm in _common(*pair)]
  if not found:
    raise InputError(f'--compare: {first.workdir} and {second.workdir} have no arm of one task in common')
  for one, p in zip(found, multiplicity.adjust([one['p'] for one in found])):
    one['p_adjusted'] = p
  told = {'studies': [{'workdir': str(s.workdir), 'name': s.name, 'question': s.question} for s in sides],
          'metric': found[0]['metric'], 'differences': found}
  into.mkdir(parents=True, exist_ok=True)
  run_files.write_json(into / FILE, told)
  _write_page(told, [s.name for s in sides], into)
  for sentence in _sentences(told):
    say(sentence)
  say(f'report: {into / "report.html"}')


def _read(workdir: Path, folders: list[str]) -> _Side:
  plan = registration.planned(workdir)
  if not (workdir / COMPARISON).exists():
    raise InputError(f'{workdir}: holds no {COMPARISON}; let the study end, or write its report (--report_only)')
  there = run_files.read_json(workdir / COMPARISON)
  if 'interim' in there:
    raise InputError(f'{workdir}: the study has not ended ({there["interim"]["ended"]} of {there["interim"]["planned"]} runs)')
  names = [Path(folder).resolve().name for folder in folders]
  name = workdir.resolve().name if len({*names}) == len(names) else str(workdir)
  rows = results.collect(plan.study, runner.known(plan.study, plan.cells, workdir), workdir)
  return _Side(workdir, name, plan.study.question, there['comparisons'], rows)


def _pairs(first: _Side, second: _Side) -> list[tuple[dict[str, Any], dict[str, Any]]]:
  """The comparisons of one task: with the same model where both studies have it, else where each has one model."""
  out = []
  for one in first.comparisons:
    of_task = [c for c in second.comparisons if c['task'] == one['task']]
    same = [c for c in of_task if c['model'] == one['model']]
    alone = len(of_task) == 1 == sum(c['task'] == one['task'] for c in first.comparisons)
    out += [(one, c) for c in same or (of_task if alone else [])]
  return out


def _common(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
  there = {a['arm'] for a in other['arms']}
  return [a['arm'] for a in one['arms'] if a['arm'] in there]


def _difference(sides: list[_Side], one: dict[str, Any], other: dict[str, Any], arm: str) -> dict[str, Any]:
  """What compared.json says of an arm: the second study's score minus the first's, paired by example and seed.

  Args:
    sides: the studies.
    one: the first one's comparison.
    other: the second one's.
    arm: that both have.
  Raises:
    InputError: nothing can be paired.
  """
  where = f'--compare: {arm} on {one["task"]}'
  if one['metric'] != other['metric']:
    raise InputError(f'{where}: {sides[0].name} reports {one["metric"]} and {sides[1].name} {other["metric"]}')
  runs = [{r['seed']: r['key'] for r in side.rows if r['selected'] and (r['model'], r['task'], r['arm']) ==
           (c['model'], c['task'], arm)} for side, c in zip(sides, (one, other))]
  seeds = sorted({*runs[0]} & {*runs[1]})
  if not seeds:
    raise InputError(f'{where}: the studies have no seed in common ({[*runs[0]]} and {[*runs[1]]}), so nothing can be paired')
  lines = [{seed: outcomes.predictions(side.workdir, of[seed], c['split']) for seed in seeds}
           for side, of, c in zip(sides, runs, (one, other))]
  for seed in seeds:
    _check(where, *(of[seed] for of in lines))
  asked = [templates.count(of[seeds[0]]) for of in lines]
  if asked[0] != asked[1]:
    raise InputError(f'{where}: the studies ask under {asked[0]} and {asked[1]} templates, so nothing can be paired')
  metric, some = templates.over(metrics.measured(one['metric']), asked[0]), templates.rows(lines[0][seeds[0]])
  of = [str(line['cluster']) for line in some] if 'cluster' in some[0] else []
  sums = {str(n): [clusters.sums(metric.sums(harness.scored_rows(x)), of) for x in by_seed.values()]
          for n, by_seed in enumerate(lines)}
  arms = [next(a for a in c['arms'] if a['arm'] == arm) for c in (one, other)]
  trained = [str(n) for n, a in enumerate(arms) if a['cost']['train_flops']]
  gap = statistics.gap(statistics.scores(metric, sums, trained, len(of) / len({*of}) if of else 1.0), '1', '0')
  return {'task': one['task'], 'models': [one['model'], other['model']], 'arm': arm, 'metric': one['metric'], 'seeds': seeds,
          'examples': len(some), 'scores': [{name: a[name] for name in ('selected', 'seeds', 'mean', 'low', 'high', 'cost')}
                                            for a in arms],
          'mean': gap.mean, 'low': gap.low, 'high': gap.high, 'p': gap.p}


def _check(where: str, one: list[dict[str, Any]], other: list[dict[str, Any]]) -> None:
  """Refuses other examples: of another number, of other targets, or of other rows where both studies kept these.

  Args:
    where: for the error.
    one: the lines of a run.
    other: those of the other study's.
  Raises:
    InputError: they are.
  """
  if len(one) != len(other):
    raise InputError(f'{where}: the studies were tested on different numbers of examples ({len(one)} and {len(other)}), so '
                     'nothing can be paired')
  row = lambda line: line.get('shown') or (outcomes.shown(line['row']) if line.get('row') else None)
  for number, (a, b) in enumerate(zip(one, other)):
    both = row(a), row(b)
    if a['target'] != b['target'] or (None not in both and both[0] != both[1]):
      raise InputError(f'{where}: the studies were tested on different examples (row {number} is another), so nothing can be '
                       'paired')


def _sentences(told: dict[str, Any]) -> list[str]:
  """What the differences come to, in words."""
  names, found = [s['name'] for s in told['studies']], told['differences']
  apart = [x for x in found if x['p_adjusted'] is not None and x['p_adjusted'] < LEVEL]
  side = lambda x: 'above' if x['mean'] > 0 else 'below'
  called = lambda x: f'{x["arm"]} on {x["task"]}'
  out = [f'{names[1]} is {side(x)} {names[0]} with {called(x)}: {interval(x, "+")}, {p_value(x["p_adjusted"])} after Holm.'
         for x in apart]
  if same := [called(x) for x in found if x not in apart]:
    out.append(f'{names[1]} cannot be told from {names[0]} with {listed(same)}.')
  if any(len(x['seeds']) == 1 for x in found):
    out.append('Where there is one seed this is about the trained models alone, and another seed may turn it round.')
  return out


def _write_page(told: dict[str, Any], names: list[str], into: Path) -> None:
  """The page, its Markdown and its figure."""
  (into / 'figures').mkdir(exist_ok=True)
  with plt.rc_context(STYLE):
    _draw(told['differences'], names, told['metric'])
    look.save(into / 'figures', 'compared')
    plt.close('all')
  table = [('task', 'arm', *names, 'difference [95 %]', 'test', 'seeds', 'FLOPs', 'memory', 'setting')]
  for x in told['differences']:
    a, b = x['scores']
    memory = [f'{s["cost"]["peak_bytes"] / 2 ** 30:.2f} GiB' for s in (a, b)]
    table.append((x['task'], x['arm'], interval(a), interval(b), interval(x, '+'),
                  'none' if x['p_adjusted'] is None else p_value(x['p_adjusted']), ', '.join(map(str, x['seeds'])),
                  _both(*(count(s['cost']['train_flops']) for s in (a, b))), _both(*memory), _both(_setting(a), _setting(b))))
  facts = {**told, 'css': look.css(), 'sentences': _sentences(told), 'table': table,
           'image': look.embedded(into / 'figures' / 'compared.svg')}
  for name in ('report.md', 'report.html'):
    run_files.write_text(into / name, look.template('research.studies', f'compared{Path(name).suffix}').render(facts))


def _both(one: str, other: str) -> str:
  return one if one == other else f'{one} → {other}'


def _setting(a: dict[str, Any]) -> str:
  return ', '.join(f'{name} {shown(value)}' for name, value in a['selected'].items()) or '–'


def _draw(found: list[dict[str, Any]], names: list[str], metric: str) -> None:
  """A row for each arm, on which both studies' scores stand with their intervals."""
  _, axis = plt.subplots(figsize=(7, 0.5 * len(found) + 1.2))
  for n, name in enumerate(names):
    scores = [x['scores'][n] for x in found]
    means = np.array([s['mean'] for s in scores])
    sides = [means - [s['low'] for s in scores], [s['high'] for s in scores] - means]
    axis.errorbar(means, np.arange(len(found)) + (n - 0.5) * 0.24, xerr=np.maximum(sides, 0), fmt=MARKERS[n], ms=6, capsize=3,
                  color=COLOURS[n], label=plain(name))
  tasks = len({x['task'] for x in found}) > 1
  axis.set(yticks=range(len(found)), yticklabels=[plain(f'{x["arm"]}, {x["task"]}' if tasks else x['arm']) for x in found],
           xlabel=plain(metric), ylim=(len(found) - 0.4, -0.6))
  axis.legend(fontsize=9, loc='center left', bbox_to_anchor=(1.01, 0.5))
