"""What runs retain: tasks that no arm trains on, measured on the base and on each chosen run, which are paired by example."""

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from research import run_files
from research.console import say
from research.data.probes import PROBES
from research.data.tasks import BITS_PER_BYTE
from research.errors import InputError
from research.evaluation import clusters, harness, metrics, templates
from research.evaluation.metrics import Metric
from research.studies import grid, outcomes, statistics
from research.studies.grid import Cell, Study
from research.studies.outcomes import RUNS

NAME = re.compile(r'[\w.+-]+')


class Measures(NamedTuple):
  """What measures runs on other tasks: functions of `runs.evaluate`, and how many tokens of the context a run needs itself."""
  keep_untrained: Callable[[Path, dict[str, Any]], None]
  evaluate: Callable[[Path, str, dict[str, Any], int], None]
  reserve: Callable[[Path], int]


def tasks(s: Study, base: dict[str, Any]) -> dict[str, dict[str, Any]]:
  """Name -> fields of config.task, of each task that is retained.

  Args:
    s: the study.
    base: the group `task` of the base config, whose other fields do not hold for these tasks.
  Raises:
    InputError: two have one name, or a name cannot be that of a file.
  """
  found: dict[str, dict[str, Any]] = {}
  for one in s.retain:
    fields = dict.fromkeys(base) | {'rows': 0} | ({'name': one} if isinstance(one, str) else one)
    name = named(one)
    if not NAME.fullmatch(name) or name in found:
      raise InputError(f'retain: {name!r}: ' + ('two tasks have this name; give each a label of its own' if name in found else
                                                'give the task a label of letters, digits and . + - _'))
    found[name] = fields
  return found


def base_of(cells: Sequence[Cell], model: str) -> tuple[str, dict[str, Any]]:
  """(key, config) of the run that is a study's base model itself, without demonstrations."""
  first = next(cell for cell in cells if cell.model == model)
  config = copy.deepcopy(first.config)
  config['strategy'] = dict.fromkeys(config['strategy']) | {'name': 'few_shot', 'shots': 0}
  config['training'] |= {'steps': 0, 'epochs': 0.0}
  return base_key(model), config


def base_key(model: str) -> str:
  """The name of the folder in `runs/` in which a base model was measured; no cell has such a name."""
  return 'base@' + re.sub(r'[^\w.=+-]', '_', grid.called(model))


def measure(s: Study, cells: Sequence[Cell], rows: Sequence[dict[str, Any]], workdir: Path, by: Measures) -> None:
  """Measures the base and the chosen trained runs on what the study retains; what was measured before is not measured again.

  Args:
    s: the study, whose cells have all ended.
    cells: of it.
    rows: the lines of results.jsonl.
    workdir: the study's.
    by: does it.
  """
  wanted = tasks(s, cells[0].config['task'])
  if not wanted:
    return
  folders = [workdir / RUNS / row['key'] for row in rows if row['selected'] and row['result']['steps']]
  for model in dict.fromkeys(row['model'] for row in rows):
    key, config = base_of(cells, model)
    by.keep_untrained(workdir / RUNS / key, config)
    folders.append(workdir / RUNS / key)
  missing = [(folder, name) for folder in folders for name in wanted if not _measured(folder, name)]
  if not missing:
    return
  reserve = max(map(by.reserve, folders))
  for number, (folder, name) in enumerate(missing, 1):
    say(f'study: {number}/{len(missing)}: what {folder.name} retains of {name}')
    by.evaluate(folder, name, wanted[name], reserve)


def _measured(folder: Path, name: str) -> bool:
  found = run_files.read_json(folder / run_files.RESULT)['metrics']
  return any(metric.startswith(f'retain/{name}/') for metric in found)


def of_task(one: str | dict[str, Any]) -> str:
  """The task's own name of an entry of `retain`."""
  return one if isinstance(one, str) else str(one['name'])


def named(one: str | dict[str, Any]) -> str:
  """What an entry of `retain` is called: its label where it has one."""
  return one if isinstance(one, str) else str(one.get('label') or one['name'])


def examples(workdir: Path, name: str, model: str, runs: dict[str, dict[int, str]],
             seeds: Sequence[int]) -> dict[str, list[list[dict[str, Any]]]]:
  """The lines of the base ('') and of every trained arm on a retained task, for each seed; none before the study has ended.

  Args:
    workdir: the study's.
    name: of the task, as `named` has it.
    model: whose runs they are.
    runs: trained arm -> seed -> key of its run.
    seeds: those that all arms share.
  Raises:
    InputError: a run read other examples than the base.
  """
  base, split = base_key(model), f'retain/{name}'
  if not outcomes.are_there(workdir, base, split):
    return {}
  of_base = outcomes.predictions(workdir, base, split)
  found = {'': [of_base] * len(seeds)}
  for arm, of_seeds in runs.items():
    found[arm] = [outcomes.predictions(workdir, of_seeds[seed], split) for seed in seeds]
    if any([x['target'] for x in own] != [x['target'] for x in of_base] for own in found[arm]):
      raise InputError(f'{workdir}: {arm} was measured on other rows of {name} than the base: they changed meanwhile; remove '
                       f'predictions/{split}.jsonl and its metrics from result.json, and go on with the study')
  return found


def scored(metric: Metric, lines: dict[str, list[list[dict[str, Any]]]], trained: Sequence[str]) -> statistics.Scores:
  """The scores of `examples`, over the clusters that these are of, where they are of some.

  Args:
    metric: the score; of several templates the mean over them.
    lines: of `examples`.
    trained: the arms.
  """
  of = [line['cluster'] for line in templates.rows(lines[''][0]) if 'cluster' in line]
  sums = {arm: [clusters.sums(metric.sums(harness.scored_rows(one)), of) for one in of_seeds]
          for arm, of_seeds in lines.items()}
  return statistics.scores(metric, sums, trained, len(of) / len({*of}) if of else 1.0)


def compare(s: Study, workdir: Path, model: str, runs: dict[str, dict[int, str]], seeds: Sequence[int]) -> list[dict[str, Any]]:
  """Of each task that the study retains what every trained arm scores on it, and what that is above the base's score.

  Args:
    s: the study.
    workdir: its folder.
    model: whose runs are compared.
    runs: trained arm -> seed -> key of its run.
    seeds: those that all arms share.
  """
  found = []
  for one in s.retain:
    if of_task(one) in PROBES:
      continue                                     # see `biased`
    name = named(one)
    lines = examples(workdir, name, model, runs, seeds)
    if not lines:
      continue                                     # the study has not ended
    of_base = lines[''][0]
    metric = templates.over(metrics.get(_metric(of_base[0])), templates.count(of_base))
    scores = scored(metric, lines, [*runs])
    told = lambda x: {'mean': x.mean, 'low': x.low, 'high': x.high}
    found.append({'name': name, 'metric': metric.name, 'examples': len(templates.rows(of_base)),
                  'base': told(statistics.mean(scores, '')),
                  'arms': [{'arm': arm, **told(statistics.mean(scores, arm)), 'change': told(statistics.gap(scores, arm, ''))}
                           for arm in runs]})
  return found


def _metric(example: dict[str, Any]) -> str:
  """What a task is judged by here: the share that is right where choices are ranked, else bits per byte where the task measures
  them, else the loss of the answers."""
  return 'accuracy' if example.get('choices') else BITS_PER_BYTE if 'bytes' in example else 'loss'


def of_case(s: Study, workdir: Path, model: str, reported: Mapping[str, Sequence[dict[str, Any]]], arms: Sequence[str],
            seeds: Sequence[int]) -> dict[str, Any]:
  """`retained` of one comparison; nothing where the study retains nothing, or nothing was trained.

  Args:
    s: the study.
    workdir: its folder.
    model: whose runs are compared.
    reported: arm -> the lines of results.jsonl that the answer is about.
    arms: those that are compared.
    seeds: that all arms share.
  """
  runs, shared = trained_runs(reported, arms, seeds)
  return {'retained': compare(s, workdir, model, runs, shared)} if s.retain and runs and shared else {}


def trained_runs(reported: Mapping[str, Sequence[dict[str, Any]]], arms: Sequence[str],
                 seeds: Sequence[int]) -> tuple[dict[str, dict[int, str]], list[int]]:
  """(trained arm -> seed -> key of its run, the seeds that all of them have).

  Args:
    reported: arm -> the lines of results.jsonl that the answer is about.
    arms: those that are compared.
    seeds: that all arms share.
  """
  runs = {arm: {r['seed']: r['key'] for r in reported[arm]} for arm in arms if reported[arm][0]['result']['steps']}
  return runs, [seed for seed in seeds if all(seed in of for of in runs.values())]
