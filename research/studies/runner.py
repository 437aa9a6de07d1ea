"""Runs a study's cells, chooses each arm's setting on validation, and reads the test split once."""

import shutil
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from research import workdir as files
from research.errors import InputError
from research.evaluation import metrics
from research.studies.grid import Cell, Study
from research.training.monitor import say

PLAN, RESULTS, RUNS = 'plan.json', 'results.jsonl', 'runs'


def claim(s: Study, cells: list[Cell], workdir: Path) -> None:
  """Makes `workdir` this study's, or goes on in it.

  Raises:
    InputError: it holds another study.
  """
  plan = {'study': s._asdict(), 'cells': [c._asdict() for c in cells]}
  path = workdir / PLAN
  if path.exists():
    earlier = files.read_json(path)
    for field in ('select', 'report'):
      if earlier['study'][field] != getattr(s, field):
        raise InputError(f'{workdir}: the study there has {field}={earlier["study"][field]!r}; with another the test split '
                         'would be read twice; give another --workdir')
    there = {c['key'] for c in earlier['cells']}
    if there != {c.key for c in cells}:
      raise InputError(f'{workdir} holds another study ({len(there)} cells, {len(there & {c.key for c in cells})} of them '
                       'also in this one); give another --workdir')
  elif workdir.exists() and (not workdir.is_dir() or any(workdir.iterdir())):
    raise InputError(f'{workdir} exists and holds no study; give another --workdir')
  files.write_json(path, plan)


def run(s: Study, cells: list[Cell], workdir: Path, train: Callable[[dict, Path, str], dict],
        test: Callable[[Path], dict]) -> list[dict[str, Any]]:
  """Every cell trained, the chosen ones tested; finished work is not done again, and a broken cell stops no other.

  Args:
    train: (config, workdir, label) -> result; test: workdir -> result, with test metrics.
  Returns:
    The lines of results.jsonl.
  """
  began, rows = time.monotonic(), []
  for number, cell in enumerate(cells, 1):
    folder = workdir / RUNS / cell.key
    row = {**{f: getattr(cell, f) for f in ('key', 'model', 'task', 'arm', 'seed', 'setting')}, 'selected': False,
           'error': None}
    try:
      row |= {'result': train(cell.config, folder, f'[{number}/{len(cells)}] {cell.key.rsplit("-", 1)[0]}')}
    except (InputError, jax.errors.JaxRuntimeError) as e:      # the latter: out of memory, as a rule
      row |= {'error': str(e), 'result': None}
      say(f'[{number}/{len(cells)}] {cell.key} failed: {e}')
    # A cell that has ended is not gone on with; the optimiser's state is most of a checkpoint's bytes.
    shutil.rmtree(folder / files.CHECKPOINTS / 'latest', ignore_errors=True)
    rows.append(row)
    files.write_jsonl(workdir / RESULTS, rows)
  for row in select(s, rows):
    row['selected'] = True
    folder = workdir / RUNS / row['key']
    if s.report not in row['result']['metrics']:
      row['result'] = test(folder)
    files.write_jsonl(workdir / RESULTS, rows)
  say(f'study: all {len(cells)} cells done, {time.monotonic() - began:.0f} s')
  return rows


def select(s: Study, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """The rows of each arm's chosen setting: the best mean of `select` over seeds; a tie goes to the lower loss."""
  groups: dict[tuple, dict[str, list]] = defaultdict(lambda: defaultdict(list))
  for row in rows:
    if row['result'] is not None:
      groups[row['model'], row['task'], row['arm']][str(row['setting'])].append(row)
  metric = metrics.get(s.select.split('/')[1])

  def worth(of_setting: list[dict]) -> tuple[float, float, float]:
    mean = lambda name: sum(r['result']['metrics'][name] for r in of_setting) / len(of_setting)
    value = mean(s.select) if metric.higher_is_better else -mean(s.select)
    return len(of_setting), value, -mean('valid/loss')    # a setting that failed for some seed yields to whole ones
  return [row for settings in groups.values() for row in max(settings.values(), key=worth)]
