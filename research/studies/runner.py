"""Runs a study's cells, chooses each arm's setting on validation, and reads the test split once.

What a cell came to stands in its own folder alone, so a study can be stopped anywhere, and several machines can share one.
"""

import hashlib
import json
import math
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from research import config as config_fields
from research import run_files
from research.console import say
from research.data.sources import read_jsonl
from research.errors import Diverged, InputError, InUse
from research.evaluation import metrics
from research.experiment.provenance import FLAG
from research.studies import grid
from research.studies.grid import Cell, Study
from research.studies.outcomes import RUNS

PLAN, RESULTS, COMPARISON, COHORTS = 'plan.json', 'results.jsonl', 'comparison.json', 'cohorts'
TESTS = 'every pair of arms of every model and task, two-sided at 5 %, corrected together (Holm)'
CHOOSER = 'chooser.json'    # which shard trains what the planned cells lead to: wider grids, and the chosen settings again
EXPLODED = 1.25             # times the first step's loss: a run that keeps weights of a larger validation loss has diverged
FAILED = 'failed.json'      # in the folder of a cell that ended with an error
# What the files that a study leaves must hold to be read (see `run_files.expect`).
CHOSEN_BY = {'steps': int, 'metrics': {str: run_files.NUMBER}, 'cost': {'cohort_size?': int}}      # of result.json
ROW_FIELDS = {'key': str, 'error?': str, 'result?': CHOSEN_BY, 'diverged': bool}
PLAN_FIELDS = {'study': dict, 'made_of?': {str: {str: object}}, 'changed?': [dict],
               'earlier?': [{'plan': str, 'changed': [str]}],
               'cells': [{'key': str, 'model': str, 'task': str, 'arm': str, 'seed': int, 'setting': dict, 'config': dict,
                          'reports?': bool}]}


class Shard(NamedTuple):
  """The part of a study that one of several machines runs: number `number` of `count`, from 1."""
  number: int = 1
  count: int = 1      # type: ignore[assignment]  # tuple's method of this name is not used

  def holds(self, unit: int) -> bool:
    return unit % self.count == self.number - 1


WHOLE = Shard()


def shard(text: str) -> Shard:
  """`i/n` as a shard.

  Raises:
    InputError: it is not two numbers, 1 <= i <= n.
  """
  number, _, count = text.partition('/')
  if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
    raise InputError(f'--shard={text}: must be i/n with 1 <= i <= n, such as 1/2 on one machine and 2/2 on another')
  return Shard(int(number), int(count))


class Cohorts(NamedTuple):
  """How cells are trained side by side (see `training.cohort`)."""
  size: int | Callable[[list[dict]], dict[str, Any]]                # as one program; or configs -> {size, …}, found by a trial
  train: Callable[[list[tuple[dict, Path, str]], Path], list]       # (jobs, where what they share is kept) -> results or errors

  def __str__(self) -> str:
    return str(self.size) if isinstance(self.size, int) else 'auto'


class Plan(NamedTuple):
  """What a study's folder says was fixed before its first cell."""
  study: Study
  cells: list[Cell]                  # by which settings are chosen
  earlier: list[dict[str, Any]]      # by which a report was written before this one: {plan: its hash, changed: [field, …]}

  @property
  def looks(self) -> int:
    """How many plans the reports of this study were written by, this one with them."""
    return 1 + sum(bool({*one['changed']} - {'question'}) for one in self.earlier)


def planned(workdir: Path) -> Plan:
  """The plan that a study's folder holds.

  Raises:
    InputError: it holds none.
  """
  if not (workdir / PLAN).exists():
    raise InputError(f'{workdir}: holds no study')
  there = run_files.read_json(workdir / PLAN, PLAN_FIELDS)
  study = grid.study(there['study'], str(workdir / PLAN))
  cells = []
  for cell in there['cells']:
    if extra := cell.keys() - {*Cell._fields}:
      raise InputError(f'{workdir / PLAN}: is damaged: the cell {cell["key"]} has a field {min(extra)!r}')
    config_fields.check(cell['config'])
    cells.append(Cell(**cell))
  if not cells:
    raise InputError(f'{workdir / PLAN}: is damaged: holds no cells')
  if (said := there.get('hash')) and said != plan_hash(study, cells):
    raise InputError(f'{workdir / PLAN}: is damaged: its study and cells are not those that were planned')
  return Plan(study, cells, there.get('earlier', []))


def check(s: Study, cells: list[Cell], workdir: Path) -> Plan:
  """The plan with which a folder's study goes on, where it is this one or this one with fewer seeds; refuses any other.

  Args:
    s: the study that is meant.
    cells: its cells.
    workdir: the folder.
  Raises:
    InputError: the folder holds another study, or none.
  """
  there = planned(workdir)
  for field in ('select', 'report'):
    if (before := getattr(there.study, field)) != getattr(s, field):
      raise InputError(f'{workdir}: the study there has {field}={before!r}; with another the test split would be read twice; '
                       'give another --workdir')
  keys, here = {c.key for c in there.cells}, {c.key for c in cells}
  new_seeds = {c.seed for c in cells} - {c.seed for c in there.cells}
  if keys - here or any(c.seed not in new_seeds for c in cells if c.key not in keys):
    raise InputError(f'{workdir} holds another study ({len(keys)} cells, {len(keys & here)} of them also in this one); give '
                     'another --workdir')
  if gone := {*there.study.report_seeds} - {*s.report_seeds}:
    raise InputError(f'{workdir}: the study there has the report_seeds {sorted(gone)} too; seeds can be added, not taken away')
  changed = [field for field, value in _plain(s).items() if value != _plain(there.study)[field]]
  earlier = [{'plan': plan_hash(there.study, there.cells), 'changed': changed}] if changed and _reported(workdir) else []
  return Plan(s, cells, [*there.earlier, *earlier])


def _plain(s: Study) -> dict[str, Any]:
  """A study as JSON would hold it."""
  return json.loads(json.dumps(s._asdict()))


def _reported(workdir: Path) -> bool:
  """Whether a report was written whose tests somebody can have read."""
  return (workdir / COMPARISON).exists() and run_files.read_json(workdir / COMPARISON).get('looks', 1) > 0


def refuse(workdir: Path) -> None:
  """Refuses a place that holds something else than a study.

  Raises:
    InputError: it does.
  """
  run_files.check_name(workdir)
  if run_files.is_taken(workdir) and not (workdir / PLAN).exists():
    raise InputError(f'{workdir} exists and holds no study; give another --workdir')


def claim(s: Study, cells: list[Cell], workdir: Path, part: Shard = WHOLE, cohorts: Cohorts | None = None,
          made_of: dict[str, dict[str, Any]] | None = None, allow_changed: bool = False) -> None:
  """Makes `workdir` this study's, or goes on in it; raises as `check` does, and where shards would share cells differently.

  Args:
    s: the study.
    cells: its cells.
    workdir: the folder.
    part: of the cells, those that are trained here.
    cohorts: as for `run`.
    made_of: key of a cell -> the fingerprints of the rows, weights and tokenizer that it is made from now.
    allow_changed: go on although they are not those with which the study began; what changed is recorded.
  Raises:
    InputError: the folder holds something else, or a study that shares cells otherwise or was made from something else.
  """
  path, earlier, before, changed = workdir / PLAN, [], {}, []
  refuse(workdir)
  if path.exists():                                        # another machine may have begun it
    earlier = check(s, cells, workdir).earlier
    before = run_files.read_json(path, PLAN_FIELDS)
    changed = _changed(before, made_of or {}, workdir, allow_changed)
    there = before.get('cohorts')
    if part.count > 1 and there != (here := str(cohorts or 'off')):
      raise InputError(f'{workdir}: the study there was begun with --cohorts={there}, not {here}: shards would not share its '
                       'cells')
  run_files.write_json(path, {'hash': plan_hash(s, cells), 'study': s._asdict(), 'tests': TESTS,
                              'cohorts': str(cohorts or 'off'), 'earlier': earlier,
                              'made_of': made_of or before.get('made_of', {}), 'changed': changed,
                              'cells': [c._asdict() for c in cells]})


def _changed(before: dict[str, Any], made_of: dict[str, dict[str, Any]], workdir: Path, allow: bool) -> list[dict[str, Any]]:
  """What a study was made from and is no longer, each time that this was allowed.

  Raises:
    InputError: something has changed, and that is not allowed.
  """
  what = {name: {'before': there[name], 'after': here[name]} for key, here in made_of.items()
          if (there := before.get('made_of', {}).get(key)) for name in here if name in there and there[name] != here[name]}
  if what and not allow:
    raise InputError(f'{workdir}: changed since the study began: {", ".join(what)}; put back what it was made from, give '
                     f'another --workdir, or go on all the same with --{FLAG}, which is recorded')
  return [*before.get('changed', ()), *([what] if what else [])]


def plan_hash(s: Study, cells: list[Cell]) -> str:
  """Of what a plan fixes before the first cell: question, arms, seeds, margin, tests and cells."""
  return hashlib.sha256(json.dumps([s._asdict(), TESTS, [c.key for c in cells]], sort_keys=True).encode()).hexdigest()[:16]


def run(s: Study, cells: list[Cell], workdir: Path, train: Callable[[dict, Path, str], dict],
        test: Callable[[list[Path]], list[dict]], part: Shard = WHOLE, cohorts: Cohorts | None = None,
        operations: Callable[[dict], float] | None = None) -> list[dict[str, Any]] | None:
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


def _trained(s: Study, cells: list[Cell], wanted: list[Cell], workdir: Path, train: Callable[[dict, Path, str], dict],
             part: Shard, cohorts: Cohorts | None, pace: 'Pace | None' = None) -> list[dict[str, Any]]:
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
      # A cell that has ended is not gone on with; the optimiser's state is most of a checkpoint's bytes.
      shutil.rmtree(workdir / RUNS / cell.key / run_files.CHECKPOINTS / 'latest', ignore_errors=True)
    if jobs:
      run_files.write_jsonl(workdir / RESULTS, results(s, cells, workdir))
      if pace:
        pace.note([config for config, _, _ in jobs], time.monotonic() - began)
        pace.tell([cell.config for cell in wanted if not ended(cell)], len(wanted), part)
  return results(s, cells, workdir)


class Pace:
  """How long cells took for what they were planned to compute, and so how long those will take that are left."""

  def __init__(self, operations: Callable[[dict], float]):
    self._operations = operations
    self._trained = [0.0, 0.0]          # FLOPs and seconds of the cells in which something learned
    self._others: list[float] = []      # seconds of each other one: few-shot prompting is evaluation alone

  def _planned(self, config: dict[str, Any]) -> float:
    try:
      return self._operations(config)
    except InputError:                  # told where the cell is trained
      return 0.0

  def note(self, configs: Sequence[dict[str, Any]], seconds: float) -> None:
    """Cells that have ended, side by side or one after the other, in so many seconds."""
    operations = sum(map(self._planned, configs))
    if operations:
      self._trained = [self._trained[0] + operations, self._trained[1] + seconds]
    else:
      self._others += [seconds / len(configs)] * len(configs)

  def left(self, configs: Sequence[dict[str, Any]]) -> float | None:
    """Seconds for these cells; None where no cell like one of them has ended."""
    planned = [*map(self._planned, configs)]
    operations, others = sum(planned), planned.count(0.0)
    if (operations and not self._trained[0]) or (others and not self._others):
      return None
    seconds = operations * self._trained[1] / self._trained[0] if operations else 0.0
    return seconds + (others * sum(self._others) / len(self._others) if others else 0.0)

  def tell(self, configs: Sequence[dict[str, Any]], count: int, part: Shard) -> None:
    """Says how far the study is.

    Args:
      configs: of the cells that are left.
      count: of all cells.
      part: of the study, that is trained here; the time is that of all parts side by side.
    """
    seconds = self.left(configs)
    if not configs or seconds is None:
      return
    share = '' if part.count == 1 else f' by {part.count} shards together'
    say(f'study: {count - len(configs)} of {count} cells done; about {spoken(seconds / part.count)} left{share}, without the '
        'test split')


def spoken(seconds: float) -> str:
  """A time as a person says it: '45 seconds', '12 minutes', '3.5 hours'."""
  if seconds < 90:
    return f'{seconds:.0f} seconds'
  return f'{seconds / 60:.0f} minutes' if seconds < 90 * 60 else f'{seconds / 3600:.1f} hours'


def known(s: Study, cells: list[Cell], workdir: Path) -> list[Cell]:
  """The planned cells, and what they lead to once all of them have ended: wider grids, and then the seeds of the report.

  Args:
    s: the study.
    cells: its planned cells.
    workdir: the study's.
  """
  for widened in range(s.extend + 1):
    keys = {row['key'] for row in results(s, cells, workdir) if row['chosen']}
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


def _train(jobs: list[tuple[dict, Path, str]], workdir: Path, train: Callable, cohorts: Cohorts | None) -> None:
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


def results(s: Study, cells: list[Cell], workdir: Path) -> list[dict[str, Any]]:
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
    run_files.expect(row, ROW_FIELDS, f'{path}: line {number}')
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
  groups: dict[tuple, dict[str, list]] = defaultdict(lambda: defaultdict(list))
  for row in rows:
    if row['result'] is not None and not row['diverged']:
      groups[row['model'], row['task'], row['arm']][str(row['setting'])].append(row)
  metric = metrics.measured(s.select)

  for row in (row for of_arm in groups.values() for of_setting in of_arm.values() for row in of_setting):
    for name in (s.select, 'valid/loss'):
      if name not in row['result']['metrics']:
        raise InputError(f'the result of {row["key"]}: is damaged: it holds no {name}')

  def worth(of_setting: list[dict]) -> tuple[float, float, float]:
    mean = lambda name: sum(r['result']['metrics'][name] for r in of_setting) / len(of_setting)
    value = mean(s.select) if metric.higher_is_better else -mean(s.select)
    return len(of_setting), value, -mean('valid/loss')    # a setting that failed for some seed yields to whole ones
  return [row for settings in groups.values() for row in max(settings.values(), key=worth)]
