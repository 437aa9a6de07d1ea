"""What a study fixes before its first cell: plan.json, compared whenever the folder is used again."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from research import config as configs
from research import run_files
from research.errors import InputError
from research.experiment.provenance import FLAG
from research.studies import grid
from research.studies.grid import Cell, Study

PLAN, RESULTS, COMPARISON, COHORTS = 'plan.json', 'results.jsonl', 'comparison.json', 'cohorts'
TESTS = 'every pair of arms of every model and task, two-sided at 5 %, corrected together (Holm)'
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
  size: int | Callable[[list[dict[str, Any]]], dict[str, Any]]      # as one program; or configs -> {size, …}, by a trial
  train: Callable[[list[tuple[dict[str, Any], Path, str]], Path], list[Any]]      # (jobs, where to keep what they share)

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
    return 1 + sum(bool({*one['changed']} - {'question', 'retain'}) for one in self.earlier)


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
    configs.read(cell['config'])
    cells.append(Cell(**cell))
  if not cells:
    raise InputError(f'{workdir / PLAN}: is damaged: holds no cells')
  if (said := there.get('hash')) and said != plan_hash(study, cells):
    raise InputError(f'{workdir / PLAN}: is damaged: its study and cells are not those that were planned')
  return Plan(study, cells, there.get('earlier', []))


def as_planned(cells: list[Cell], workdir: Path) -> list[Cell]:
  """The cells, each as the folder's plan has it where that names the same run.

  A field that configs have only since then, and that says nothing, makes no other run of it and no other name, and nor does
  one of how a run is computed (see `config.decisive`), whose default may have changed.
  """
  if not (workdir / PLAN).exists():
    return cells
  before = planned(workdir).cells
  names, there = {cell.key for cell in before}, {(grid.content(cell), cell.task): cell for cell in before}
  return [cell if cell.key in names else there.get((grid.content(cell), cell.task), cell) for cell in cells]


def check(s: Study, cells: list[Cell], workdir: Path) -> Plan:
  """The plan with which a folder's study is resumed, where it is this one or this one with fewer seeds; refuses any other.

  Args:
    s: the study that is meant.
    cells: its cells.
    workdir: the folder.
  Raises:
    InputError: the folder holds another study, or none.
  """
  there = planned(workdir)
  cells = as_planned(cells, workdir)
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
  """Makes `workdir` this study's, or resumes in it; raises as `check` does, and where shards would share cells differently.

  Args:
    s: the study.
    cells: its cells.
    workdir: the folder.
    part: of the cells, those that are trained here.
    cohorts: as for `runner.run`.
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
  said = {field: value for field, value in s._asdict().items() if field != 'retain' or value}      # older plans have none
  return hashlib.sha256(json.dumps([said, TESTS, [c.key for c in cells]], sort_keys=True).encode()).hexdigest()[:16]
