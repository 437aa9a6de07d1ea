"""A study from its file to its report, with the runs that train and test its cells."""

import shlex
from functools import partial
from pathlib import Path
from typing import Any

import jax

from research import config as configs
from research import json_text, run_files
from research.console import say
from research.errors import InputError
from research.evaluation import metrics
from research.experiment import provenance
from research.experiment.assemble import assemble, strategy_of
from research.planning import plans
from research.planning.chips import GIB
from research.runs import evaluate, run, train
from research.runs.train import train_cohort
from research.studies import commands, compare, grid, outcomes, registration, report, results, retained, runner, study_file


def check_study(study: grid.Study, cells: list[grid.Cell]) -> dict[str, dict[str, Any]]:
  """Assembles every arm's settings, so that what is wrong is said before anything is trained or written.

  Returns:
    Key of a cell of each setting -> the fingerprints of what it is made from.
  Raises:
    InputError: a task does not measure what the study selects by or reports, or has fewer test examples than the margin needs;
      or an arm's grid has templates, by which arms are paired.
  """
  for fields in retained.tasks(study, cells[0].config['task']).values():
    for cell in {c.model: c for c in cells}.values():
      assemble({**cell.config, 'task': fields, 'strategy': retained.base_of(cells, cell.model)[1]['strategy']},
               trains=False).task.rows('test')
  made_of = {}
  for cell in {(c.model, c.task, c.arm, str(c.setting)): c for c in cells}.values():
    if 'task.prompts' in cell.setting:
      raise InputError(f'arm {cell.arm}: the grid has task.prompts: arms are compared under the same templates, which '
                       'the study\'s tasks name')
    settings = configs.read(cell.config)
    if settings.check_memory:
      plans.check(settings)
    exp = assemble(settings)
    examples = len(exp.task.rows('test'))
    if study.margin is not None and metrics.measured(study.report).is_share and study.margin * examples < 1:
      raise InputError(f'margin={study.margin:g}: is less than one of the {examples} test examples of task {exp.task.name}; '
                       f'give {1 / examples:.2g} or more')
    for wanted in (study.select, study.report, 'valid/loss'):
      split, name = wanted.split('/', 1)
      exp.task.rows(split)
      if name not in ('loss', *exp.task.metrics):
        raise InputError(f'{wanted}: task {exp.task.name} measures {", ".join(("loss", *exp.task.metrics))}')
    made_of[cell.key] = json_text.flat({name: value for name, value in provenance.made_of(exp).items() if name != 'config'})
  return made_of


def measure_retained(study: grid.Study, cells: list[grid.Cell], workdir: Path, allow_changed: bool = False) -> None:
  """Measures what the chosen runs retain (see `retained.measure`).

  Args:
    study: whose cells have all ended.
    cells: those by which settings are chosen.
    workdir: the study's.
    allow_changed: as for `train.run`.
  """
  def reserve(folder: Path) -> int:
    strategy = strategy_of(configs.read(run_files.read_config(folder)).strategy, None)
    return strategy.slots + strategy.prefix_slots
  rows = results.collect(study, runner.known(study, cells, workdir), workdir)
  retained.measure(study, cells, rows, workdir, retained.Measures(
      evaluate.keep_untrained, partial(evaluate.evaluate_retained, allow_changed=allow_changed), reserve))


def dry_run(study: grid.Study, cells: list[grid.Cell]) -> None:
  """Prints every cell with its FLOPs, its time at this machine's rates and its memory; nothing is compiled or trained.

  Args:
    study: says how often the chosen settings are trained again.
    cells: those by which they are chosen.
  """
  print(f'{len(cells)} cells')
  in_all = seconds = 0.0
  costliest: dict[tuple[Any, ...], tuple[float, float]] = {}   # of each arm's settings, one of which is chosen: FLOPs, seconds
  for cell in cells:
    found = plans.here(cell.config)
    if found is None:
      print(f'{cell.key}  nothing learns')
      continue
    steps = found.exp.settings.training.steps
    of_cell = operations(cell.config)
    in_all += of_cell
    seconds += steps * found.step_seconds
    arm = cell.model, cell.task, cell.arm
    costliest[arm] = max(costliest.get(arm, (0.0, 0.0)), (of_cell, steps * found.step_seconds))
    print(f'{cell.key}  {found.trainable:,} learn  {of_cell / 1e12:.2f} TFLOP  '
          f'{steps * found.step_seconds:.0f} s or more  {found.bytes() / GIB:.2f} GiB in a step')
  if study.extend:
    print(f'where the lowest or highest value of a grid is chosen, it is widened, up to {study.extend} times: more cells')
  if study.report_seeds:
    times = len(study.report_seeds)
    more = [times * sum(of_arm[i] for of_arm in costliest.values()) for i in range(2)]
    print(f'the chosen settings again, with {times} seeds of the report: at most {more[0] / 1e12:.1f} TFLOP, '
          f'{more[1] / 60:.1f} minutes')
    in_all, seconds = in_all + more[0], seconds + more[1]
  print(f'training in all: {in_all / 1e12:.1f} TFLOP, {seconds / 60:.1f} minutes or more, evaluation not counted')


def operations(config: dict[str, Any]) -> float:
  """FLOPs that a cell's training is planned to take, on all devices; 0 where nothing learns."""
  found = plans.here(config)
  return found.exp.settings.training.steps * found.of_step.flops * jax.device_count() if found else 0.0


def cohorts(text: str, told: run.Told | None = None, allow_changed: bool = False) -> registration.Cohorts | None:
  """What `--cohorts` says.

  Args:
    text: of the flag.
    told: as for `train.run`.
    allow_changed: as for `train.run`.
  Raises:
    InputError: it is neither auto, off nor a number above 0.
  """
  together = partial(train_cohort, told=told, allow_changed=allow_changed)
  if text == 'off':
    return None
  if text == 'auto':
    return registration.Cohorts(train.cohort_size, together)
  if not (text.isdecimal() and int(text)):
    raise InputError(f'--cohorts={text}: must be auto, off, or how many runs to train as one program')
  return registration.Cohorts(int(text), together)


def write_report(plan: registration.Plan, workdir: Path, name: str | None) -> None:
  """Writes comparison and report from what is there: of a study that has not ended an interim one, which tests nothing.

  Args:
    plan: of the study.
    workdir: where it is kept, with its runs or with what was kept of them.
    name: of the study file, for the commands that make it again; None: it is not known, and neither are they.
  Raises:
    InputError: no run has ended.
  """
  study, looks = plan.study, plan.looks
  cells = runner.known(study, plan.cells, workdir)
  rows = results.collect(study, cells, workdir)
  interim = None
  if len(rows) < len(cells) or any(r['selected'] and study.report not in r['result']['metrics'] for r in rows):
    if not any(r['result'] for r in rows):
      raise InputError(f'{workdir}: no run of the study has ended, so there is nothing to report')
    interim, looks = {'ended': len(rows), 'planned': len(cells)}, 0
    study, rows = results.interim(study, rows)
  comparison = {'plan': registration.plan_hash(plan.study, plan.cells), **({'interim': interim} if interim else {}),
                **compare.compare(study, rows, workdir, looks)}
  run_files.write_json(workdir / registration.COMPARISON, comparison)
  base = study_file.read(name).base if name else None
  command = f'python -m research.study --study={shlex.quote(name or _study_of(workdir))} --workdir={shlex.quote(str(workdir))}'
  report.write(plan._replace(study=study), comparison, rows, workdir, command,
               {cell.key: commands.command(cell, study.base, base) if base else None for cell in cells})
  if not interim:
    outcomes.write(rows, workdir)
  else:
    say(f'an interim report: {interim["ended"]} of {interim["planned"]} runs have ended')
  print(report.verdict_text(study, comparison, rows))
  print(report.table_text(comparison))
  say(f'report: {workdir / "report.html"}')


def _study_of(workdir: Path) -> str:
  """The study file that a study's record names; FILE where none does."""
  path = workdir / run_files.PROVENANCE
  command = run_files.read_json(path).get('command', []) if path.exists() else []
  return next((one.removeprefix('--study=') for one in command if one.startswith('--study=')), 'FILE')
