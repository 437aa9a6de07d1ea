"""Runs, or a base model, evaluated on one split."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from research import config as configs
from research import run_files, tree
from research.config import Config, Settings
from research.console import say
from research.data.sources import SPLITS
from research.distributed import mesh, partition, processes
from research.errors import InputError
from research.evaluation import harness, slices
from research.experiment import provenance, restore
from research.experiment.assemble import Experiment, assemble
from research.experiment.retained import on_task
from research.programs import members
from research.runs import run
from research.runs.result import describe, record, spoken
from research.training.ledger import Cost, TrainResult
from research.tree import Tree


def evaluate_one(workdir: Path, split: str, config: Config | None = None, allow_changed: bool = False,
                 columns: Sequence[str] = ()) -> dict[str, Any]:
  """Evaluates the run in `workdir` at its best step; with a config, a model that needs no training.

  Args:
    workdir: the run directory; with a config, the place for the result.
    split: train, valid or test.
    config: as for `config.read`; None: the run's own.
    allow_changed: although the run was made from something else than is there now (see `provenance.check`).
    columns: of the split's rows, by whose values its scores are told too.
  Returns:
    result.json, with the split's scores.
  Raises:
    InputError: there is no such split, no run, it is not finished, the config's strategy has to learn
      first, or the rows have no such column.
  """
  if split not in SPLITS:
    raise InputError(f'--split={split}: must be one of {", ".join(SPLITS)}')
  run_files.check_name(workdir)
  if config is None:
    return evaluate_finished([workdir], split, allow_changed, columns)[0]
  settings = configs.read(config)
  with mesh.use(mesh.make(settings.mesh._asdict())):
    exp = untrained(settings, workdir, {split}, allow_changed)
    slices.check(columns, exp.task.rows(split) if columns else (), split)
    variables = tree.join(*restore.variables(exp))
    examples = exp.examples(split)
    begin_untrained(exp, workdir)
    [evaluation] = run.evaluate_runs([exp], variables, [examples], split, generate=True, label=f'evaluate {split}')
    return _recorded(evaluation, workdir, split, exp, result_untrained(exp, variables), columns)


def untrained(settings: Settings, workdir: Path, splits: set[str], allow_changed: bool) -> Experiment:
  """The experiment of a model that needs no training, whose results `workdir` may hold; nothing is written yet.

  Args:
    settings: of its config.
    workdir: the place for the results.
    splits: those whose rows are used.
    allow_changed: as for `evaluate_one`.
  Raises:
    InputError: the config's strategy has to learn first, or the workdir holds something else.
  """
  exp = assemble(settings, trains=False)
  if exp.strategy.learns and not exp.settings.strategy.init_from:
    raise InputError(f'strategy {exp.strategy.name} has to learn first: run research.train, then evaluate its workdir; '
                     'a base model is evaluated with --config.strategy.name=few_shot')
  exp = exp._replace(settings=exp.settings.replace({'training.steps': 0, 'training.epochs': 0.0}))
  processes.assert_equal_across_processes(lambda: provenance.content(exp))
  run_files.check(workdir, exp.settings.config())
  provenance.check(workdir, exp, splits | {'train'} if exp.strategy.shots else splits, allow_changed)
  return exp


def begin_untrained(exp: Experiment, workdir: Path) -> None:
  """Makes `workdir` the place for the results of `untrained`, unless it holds some, which are looked at (`InputError`)."""
  if (workdir / run_files.RESULT).exists():
    run_files.read_result(workdir)                 # says what is damaged, before anything is computed
  else:
    run_files.claim(workdir, exp.settings.config())
    provenance.begin(workdir, exp)


def result_untrained(exp: Experiment, variables: Tree) -> dict[str, Any]:
  """What result.json says of a model that needs no training, before anything was evaluated."""
  return describe(exp, TrainResult(0, 0, {}, Cost()), 0, tree.size(variables))


def keep_untrained(workdir: Path, config: Config) -> None:
  """Makes the run directory of a model that needs no training, before anything is measured; one that is there stays.

  Args:
    workdir: the run directory.
    config: of the model, with a strategy that does not learn; what cannot be is refused (`InputError`).
  """
  settings = configs.read(config)
  with mesh.use(mesh.make(settings.mesh._asdict())):
    exp = untrained(settings, workdir, set(), allow_changed=False)
    begin_untrained(exp, workdir)
    if not (workdir / run_files.RESULT).exists():
      run_files.write_json(workdir / run_files.RESULT, result_untrained(exp, tree.join(*restore.variables(exp))))


def evaluate_retained(workdir: Path, name: str, fields: dict[str, Any], reserve: int, allow_changed: bool = False) -> None:
  """Measures what a run can still do of another task, on that task's test split: result.json then has `retain/NAME/METRIC`.

  A folder without a finished run is refused (`InputError`), as `evaluate_finished` does.

  Args:
    workdir: the run directory.
    name: of the task, in the result and the predictions.
    fields: of the task, as `config.task` has them.
    reserve: as for `retained.on_task`.
    allow_changed: as for `evaluate_finished`.
  """
  with mesh.use(mesh.make(partition.EVAL_MESH)):
    exp = restore.of_run(workdir, (), allow_changed)
    other = on_task(exp, fields, reserve)
    size, variables = exp.settings.training.eval_batch_size, restore.learned(workdir, exp)
    evaluation = harness.evaluate(other.model, variables, other.tokenizer, other.task, other.examples('test'), size,
                                  label=f'evaluate {name}')
    _recorded(evaluation, workdir, f'retain/{name}', exp)


def evaluate_finished(workdirs: Sequence[Path], split: str, allow_changed: bool = False,
                      columns: Sequence[str] = ()) -> list[dict[str, Any]]:
  """Evaluates runs at their best steps: as one program where they are of one model and read the same rows.

  A folder without a finished run, or whose run was made from something else than is there now, is refused (`InputError`).

  Args:
    workdirs: the runs'.
    split: train, valid or test.
    allow_changed: although they were made from something else (see `provenance.check`).
    columns: as for `evaluate_one`.
  Returns:
    Of each run its result.json, with the split's scores.
  """
  with mesh.use(mesh.make(partition.EVAL_MESH)):
    for workdir in workdirs:
      run_files.read_config(workdir)                 # says what is not the workdir of a run
      run_files.read_result(workdir)
    exps = [restore.of_run(workdir, {split}, allow_changed) for workdir in workdirs]
    if len(workdirs) > 1 and not all(exp.model is exps[0].model and exp.strategy.learns for exp in exps):
      return [result for workdir in workdirs for result in evaluate_finished([workdir], split, allow_changed, columns)]
    slices.check(columns, exps[0].task.rows(split) if columns else (), split)
    learned = [restore.learned_and_frozen(workdir, exp) for workdir, exp in zip(workdirs, exps)]
    variables = members.stack_variables([trainable for trainable, _ in learned], [frozen for _, frozen in learned])
    examples = [exp.examples(split) for exp in exps]
    found = run.evaluate_runs(exps, variables, examples, split, generate=True, label=f'evaluate {split}')
    return [_recorded(of_run, workdir, split, exp, columns=columns) for of_run, workdir, exp in zip(found, workdirs, exps)]


def _recorded(evaluation: harness.Evaluation, workdir: Path, split: str, exp: Experiment,
              new: dict[str, Any] | None = None, columns: Sequence[str] = ()) -> dict[str, Any]:
  """The result with a split's scores, as it then stands in the workdir.

  Args:
    evaluation: of the split.
    workdir: the run directory.
    split: as for `result.record`, as is `exp`.
    exp: the run's own.
    new: what the result is where there is none yet.
    columns: by whose values the scores are told too; what an earlier evaluation told so of the split goes.
  """
  names = [name for name in evaluation.scores if not name.endswith(harness.WITHOUT)]
  sliced = slices.of(columns, names, evaluation.predictions) if columns else {}
  with run_files.held(workdir, wait=True):           # another split can have been evaluated meanwhile
    result = new if new and not (workdir / run_files.RESULT).exists() else run_files.read_result(workdir)
    record(result, evaluation, workdir, split, exp.task)
    if told := {name: one for name, one in {**(result.pop('slices', None) or {}), split: sliced}.items() if one}:
      result['slices'] = told
    run_files.write_json(workdir / run_files.RESULT, result)
  for line in spoken(evaluation, split):
    say(f'evaluate: {line}')
  for line in slices.spoken(sliced, split):
    say(line if line.startswith(' ') else f'evaluate: {line}')
  return result
