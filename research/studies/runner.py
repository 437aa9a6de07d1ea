"""Runs a study's cells, chooses each arm's setting on validation, and reads the test split once.

What a cell came to stands in its own folder alone, so a study can be stopped anywhere, and several machines can share one.
"""

import hashlib
import json
import math
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax

from research import run_files
from research.console import say
from research.errors import Diverged, InputError, InUse
from research.studies import grid
from research.studies.grid import Cell, Study
from research.studies.outcomes import RUNS
from research.studies.pace import Pace
from research.studies.registration import COHORTS, RESULTS, WHOLE, Cohorts, Shard
from research.studies.results import FAILED, collect

CHOOSER = 'chooser.json'    # which shard trains what the planned cells lead to: wider grids, and the chosen settings again


def run(s: Study, cells: list[Cell], workdir: Path, train: Callable[[dict[str, Any], Path, str], dict[str, Any]],
        test: Callable[[list[Path]], list[dict[str, Any]]], part: Shard = WHOLE, cohorts: Cohorts | None = None,
        operations: Callable[[dict[str, Any]], float] | None = None) -> list[dict[str, Any]] | None:
  """Every cell trained, the chosen ones tested; finished work is not done again, and a broken cell stops no other.

  Args:
    s: the study.
    cells: all of its cells, in one order on every machine.
    workdir: the study's, claimed; machines that share the study share it.
    train: (config, workdir, label) -> result.
    test: workdirs of runs that differ in nothing but arrays -> their results, with test metrics.
    part: of the cells (or cohorts of them), those that are trained here; whoever ends last chooses and tests.
    cohorts: None: every cell is trained alone.
    operations: config -> the FLOPs that its training is planned to take, by which the time left is told; None: it is not.
  Returns:
    The lines of results.jsonl; None where cells of other shards are still to be trained.
  """
  began = time.monotonic()
  pace = None if operations is None else Pace(operations)
  rows = _trained(s, cells, cells, workdir, train, part, cohorts, pace)
  if len(rows) < len(cells):
    say(f'study: shard {part.number} of {part.count} done, {time.monotonic() - began:.0f} s; {len(cells) - len(rows)} cells of '
        'other shards are still to be trained')
    return None
  planned = cells
  while more := known(s, planned, workdir)[len(cells):]:
    run_files.write_once(workdir / CHOOSER, json.dumps({'shard': part.number}) + '\n')
    if part.count > 1 and (chooser := run_files.read_json(workdir / CHOOSER, {'shard': int})['shard']) != part.number:
      say(f'study: shard {part.number} of {part.count} done, {time.monotonic() - began:.0f} s; shard {chooser} trains what is '
          'left, from what all found')
      return None
    say(f'study: {len(more)} cells more: ' + (f'the chosen settings again, with {len(s.report_seeds)} other seeds'
                                              if more[0].reports else 'a chosen value is the last of its grid'))
    cells = [*cells, *more]
    rows = _trained(s, cells, more, workdir, train, WHOLE, cohorts, pace)
  for latest in (workdir / COHORTS).glob('*/'):                  # of a cohort that was killed once it had ended
    shutil.rmtree(latest)
  for some in _to_test(s, rows):
    for row, result in zip(some, test([workdir / RUNS / row['key'] for row in some])):
      row['result'] = result
  run_files.write_jsonl(workdir / RESULTS, rows)
  say(f'study: all {len(cells)} cells done, {time.monotonic() - began:.0f} s')
  return rows


def _trained(s: Study, cells: list[Cell], wanted: list[Cell], workdir: Path,
             train: Callable[[dict[str, Any], Path, str], dict[str, Any]], part: Shard, cohorts: Cohorts | None,
             pace: Pace | None = None) -> list[dict[str, Any]]:
  """Trains those of the wanted cells that have not ended and are this shard's; the lines of results.jsonl for all that have."""
  labels = {cell.key: label for cell, label in zip(cells, grid.labels(cells, bool(s.report_seeds)))}
  ended = lambda cell: any((workdir / RUNS / cell.key / file).exists() for file in (run_files.RESULT, FAILED))
  for number, unit in enumerate(_units(wanted, workdir, cohorts)):
    if not part.holds(number):
      continue
    began, jobs = time.monotonic(), []
    for cell in unit:
      folder = workdir / RUNS / cell.key
      if (folder / run_files.RESULT).exists():
        say(f'{labels[cell.key]} is finished already')
      else:
        (folder / FAILED).unlink(missing_ok=True)                # it is tried again
        jobs.append((cell.config, folder, labels[cell.key]))
    _train(jobs, workdir, train, cohorts)
    for cell in unit:
      # A cell that has ended is not resumed; the optimiser's state is most of a checkpoint's bytes. One that failed may be.
      if (workdir / RUNS / cell.key / run_files.RESULT).exists():
        shutil.rmtree(workdir / RUNS / cell.key / run_files.CHECKPOINTS / 'latest', ignore_errors=True)
    if jobs:
      run_files.write_jsonl(workdir / RESULTS, collect(s, cells, workdir))
      if pace:
        pace.note([config for config, _, _ in jobs], time.monotonic() - began)
        pace.tell([cell.config for cell in wanted if not ended(cell)], len(wanted), part)
  return collect(s, cells, workdir)


def known(s: Study, cells: list[Cell], workdir: Path) -> list[Cell]:
  """The planned cells, and what they lead to once all of them have ended: wider grids, and then the seeds of the report.

  Args:
    s: the study.
    cells: its planned cells.
    workdir: the study's.
  """
  for widened in range(s.extend + 1):
    keys = {row['key'] for row in collect(s, cells, workdir) if row['chosen']}
    chosen = [cell for cell in cells if cell.key in keys]
    more = grid.beyond(cells, chosen) if widened < s.extend else []
    if not more:
      break
    cells = [*cells, *more]
  return [*cells, *grid.again(s, chosen)]


def _to_test(s: Study, rows: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
  """The chosen rows that are not tested yet: seeds of one setting by as many at a time as were trained side by side."""
  groups = defaultdict(list)
  for row in rows:
    if row['selected'] and s.report not in row['result']['metrics']:
      size = row['result']['cost'].get('cohort_size', 1)
      groups[row['model'], row['task'], row['arm'], str(row['setting']), size].append(row)
  for (*_, size), group in groups.items():
    yield from (group[i:i + size] for i in range(0, len(group), size))


def _units(cells: list[Cell], workdir: Path, cohorts: Cohorts | None) -> Iterator[list[Cell]]:
  """The cells in parts that are trained one after the other; the same parts for every shard."""
  if cohorts is None:
    yield from ([cell] for cell in cells)
    return
  for group in grid.group_by_program(cells):
    size = _size(group, workdir, cohorts) if len(group) > 1 else 1
    each = math.ceil(len(group) / math.ceil(len(group) / size))
    yield from (group[i:i + each] for i in range(0, len(group), each))


def _size(group: list[Cell], workdir: Path, cohorts: Cohorts) -> int:
  """How many cells of a group make one program; what a trial found stands for all machines that share the folder.

  Raises:
    InputError: what stands there is no number of cells.
  """
  if isinstance(cohorts.size, int):
    return cohorts.size
  decided = workdir / COHORTS / f'{_digest(c.key for c in group)}.json'
  if not decided.exists():
    if sum(not (workdir / RUNS / c.key / run_files.RESULT).exists() for c in group) < 2:
      return 1
    say(f'study: are {len(group)} runs like {group[0].key} faster as one program?')
    try:
      found = cohorts.size([c.config for c in group])
    except (InputError, jax.errors.JaxRuntimeError) as e:      # the former is told where a cell is trained
      say(f'study: they are trained one after the other ({e})')
      return 1
    run_files.write_once(decided, json.dumps({**found, 'cells': [c.key for c in group]}, indent=2) + '\n')
  found = run_files.read_json(decided, {'size': int})
  if found['size'] < 1:
    raise InputError(f'{decided}: is damaged: size holds {found["size"]}')
  say(f'study: {found["size"]} at a time' + (f' ({found["because"]})' if 'because' in found else ''))
  return found['size']


def _train(jobs: list[tuple[dict[str, Any], Path, str]], workdir: Path, train: Callable[..., Any],
           cohorts: Cohorts | None) -> None:
  """Trains cells, side by side where there are several; why one failed is left in its folder.

  Raises:
    InUse: another process is at work on one, which therefore has not failed.
  """
  found: list[Any] = [None] * len(jobs)
  if len(jobs) > 1:
    assert cohorts is not None      # without cohorts every cell is trained alone
    latest = workdir / COHORTS / _digest(folder.name for _, folder, _ in jobs)
    try:
      found = cohorts.train(jobs, latest)
    except InUse:
      raise
    except (InputError, jax.errors.JaxRuntimeError) as e:          # the latter: out of memory, as a rule
      say(f'{jobs[0][2]} and {len(jobs) - 1} more cannot be trained together ({e}); now one after the other')
    shutil.rmtree(latest, ignore_errors=True)
  for (config, folder, label), result in zip(jobs, found):
    error = result if isinstance(result, InputError) else None
    if result is None:
      try:
        train(config, folder, label)
      except InUse:
        raise                        # the run is none that failed
      except (InputError, jax.errors.JaxRuntimeError) as e:
        error = e
    if error:
      run_files.write_json(folder / FAILED, {'error': str(error), 'diverged': isinstance(error, Diverged)})
      say(f'{label} failed: {error}')


def _digest(keys: Iterable[str]) -> str:
  return hashlib.sha256('\n'.join(keys).encode()).hexdigest()[:8]
