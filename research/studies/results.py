"""What a study's cells have come to, and which settings are chosen by it."""

import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from research import json_text, run_files
from research.data.sources import read_jsonl
from research.errors import InputError
from research.evaluation import metrics
from research.studies.grid import Cell, Study
from research.studies.outcomes import RUNS
from research.studies.registration import RESULTS

EXPLODED = 1.25             # times the first step's loss: a run that keeps weights of a larger validation loss has diverged
FAILED = 'failed.json'      # in the folder of a cell that ended with an error
# What the files that a study leaves must hold to be read (see `json_text.expect`).
CHOSEN_BY = {'steps': int, 'metrics': {str: json_text.NUMBER}, 'cost': {'cohort_size?': int}}      # of result.json
ROW_FIELDS = {'key': str, 'error?': str, 'result?': CHOSEN_BY, 'diverged': bool}


def collect(s: Study, cells: list[Cell], workdir: Path) -> list[dict[str, Any]]:
  """The lines of results.jsonl for the cells that have ended, whoever trained them; chosen among once all have.

  `chosen` are the runs of each arm's chosen setting, `selected` those that read the test split: with seeds of the report
  theirs, otherwise the chosen. A run that diverged is neither.

  Args:
    s: the study.
    cells: all of its cells, in the order of the lines.
    workdir: the study's, which holds the cells' folders.
  """
  rows = []
  ended = _ended if (workdir / RUNS).exists() else _kept(workdir)
  for cell in cells:
    found = ended(workdir / RUNS / cell.key)
    if found is not None:
      told = {f: getattr(cell, f) for f in ('key', 'model', 'task', 'arm', 'seed', 'setting', 'reports')}
      rows.append({**told, 'chosen': False, 'selected': False, **found})
  choose = [row for row in rows if not row['reports']]
  for row in select(s, choose) if len(choose) == sum(not cell.reports for cell in cells) else ():
    row['chosen'] = True
    row['selected'] = not s.report_seeds
  for row in rows:
    row['selected'] |= row['reports'] and row['result'] is not None and not row['diverged']
  return rows


def _ended(folder: Path) -> dict[str, Any] | None:
  """What a cell came to, by its folder: its result, or why it failed; None where it has not ended."""
  failed: dict[str, Any] = {}
  result = _read_if_there(folder / run_files.RESULT)
  if result is None:
    failed = _read_if_there(folder / FAILED) or {}
  if result is None and not failed:
    return None
  return {'error': failed.get('error'), 'result': result,
          'diverged': failed.get('diverged', False) or _exploded(folder, result)}


def _kept(workdir: Path) -> Callable[[Path], dict[str, Any] | None]:
  """The same by the study's results.jsonl, for a study of which the runs were not kept."""
  path, found = workdir / RESULTS, dict[str, dict[str, Any]]()
  for number, row in enumerate(read_jsonl(path) if path.exists() else [], 1):
    json_text.expect(row, ROW_FIELDS, f'{path}: line {number}')
    found[row['key']] = {'error': row.get('error'), 'result': row.get('result'), 'diverged': row['diverged']}
  return lambda folder: found.get(folder.name)


def interim(s: Study, rows: list[dict[str, Any]]) -> tuple[Study, list[dict[str, Any]]]:
  """A study that has not ended, as one that reports what it chooses by: (that study, its rows).

  The chosen settings are the best so far, and no test split is read.

  Args:
    s: the study.
    rows: the lines of results.jsonl so far.
  """
  best = {row['key'] for row in select(s, [row for row in rows if not row['reports']])}
  rows = [{**row, 'chosen': row['key'] in best, 'selected': row['key'] in best} for row in rows]
  return s._replace(report=s.select, report_seeds=(), diverged='left_out'), rows


def _exploded(folder: Path, result: dict[str, Any] | None) -> bool:
  """Whether what a run kept is clearly worse than what it began with, by its loss.

  Raises:
    InputError: its metrics.jsonl is damaged.
  """
  if not result or not result['steps'] or 'valid/loss' not in result['metrics']:
    return False
  try:
    with (folder / run_files.METRICS).open(encoding='utf-8') as lines:
      first = json.loads(lines.readline())['train/loss']
  except (OSError, ValueError, KeyError, TypeError) as e:
    raise InputError(f'{folder / run_files.METRICS}: is damaged: its first line is not that of step 1 ({e})') from None
  return result['metrics']['valid/loss'] > EXPLODED * first


def _read_if_there(path: Path) -> Any:
  """What a JSON file of a run holds; None without one, also where another machine removes it just now.

  Raises:
    InputError: it is damaged.
  """
  if not path.exists():
    return None
  try:
    return run_files.read_json(path, CHOSEN_BY if path.name == run_files.RESULT else run_files.FAILED_FIELDS)
  except InputError:
    if path.exists():
      raise
    return None


def select(s: Study, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """The rows of each arm's chosen setting: the best mean of `select` over seeds; a tie goes to the lower loss.

  Raises:
    InputError: a run's result lacks what is chosen by.
  """
  groups: dict[tuple[Any, ...], dict[str, list[Any]]] = defaultdict(lambda: defaultdict(list[Any]))
  for row in rows:
    if row['result'] is not None and not row['diverged']:
      groups[row['model'], row['task'], row['arm']][str(row['setting'])].append(row)
  metric = metrics.measured(s.select)

  for row in (row for of_arm in groups.values() for of_setting in of_arm.values() for row in of_setting):
    for name in (s.select, 'valid/loss'):
      if name not in row['result']['metrics']:
        raise InputError(f'the result of {row["key"]}: is damaged: it holds no {name}')

  def worth(of_setting: list[dict[str, Any]]) -> tuple[float, float, float]:
    mean = lambda name: sum(r['result']['metrics'][name] for r in of_setting) / len(of_setting)
    value = mean(s.select) if metric.higher_is_better else -mean(s.select)
    return len(of_setting), value, -mean('valid/loss')    # a setting that failed for some seed yields to whole ones
  return [row for settings in groups.values() for row in max(settings.values(), key=worth)]
