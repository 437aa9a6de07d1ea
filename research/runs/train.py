"""Runs trained to their end: one alone, or several as one program."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from research import config as configs
from research import run_files
from research.config import Config, Settings
from research.console import say
from research.distributed import device, mesh, processes
from research.errors import InputError, InUse
from research.experiment import provenance, restore
from research.experiment.assemble import assemble
from research.planning import plans
from research.runs.run import LEARNED_FROM, Run, Told, at_best, check_same_program, initial_state, validate
from research.training import cohort, loop, trial
from research.training.checkpoint import Checkpoints


def train_one(config: Config, workdir: Path, label: str = 'train', profile: bool = False, allow_changed: bool = False,
              told: Told | None = None) -> dict[str, Any]:
  """Trains, validates at the best step, and leaves a run in `workdir`; gives its result.json.

  Args:
    config: as for `config.read`.
    workdir: the run directory: a run that is there and was stopped is resumed, and a finished one is not trained again.
    label: what the run is called where something is said of it.
    profile: also writes a trace of five steps beside TensorBoard's metrics, which shows where a step's time goes.
    allow_changed: goes on although the run was made from something else than is there now (see `provenance.check`).
    told: what was said of other runs, and is not said again: of a study's, what each kind of arm adds where.
  Raises:
    InputError: the config cannot be right, the workdir holds another run, there are too few steps to profile, or training
      diverged.
  """
  run_files.check_name(workdir)
  settings = configs.read(config)
  finished = processes.all_gather_object((workdir / run_files.RESULT).exists())[0]
  if settings.check_memory and not finished:
    plans.check(settings)
  with mesh.use(mesh.make(settings.mesh._asdict())):
    exp = assemble(settings)
    processes.assert_equal_across_processes(lambda: provenance.content(exp))
    run_files.check(workdir, exp.settings.config())
    provenance.check(workdir, exp, LEARNED_FROM, allow_changed)
    if finished:
      say(f'{label}: {workdir} is finished already')
      return run_files.read_result(workdir)
    if profile and exp.settings.training.steps < 2:
      raise InputError(f'--profile: training.steps={exp.settings.training.steps}: the first step compiles, and the second '
                       'is the first to be traced')
    [result] = _trained([Run(exp, workdir, label, _planned(settings), told)], workdir / run_files.CHECKPOINTS, label, profile)
    if isinstance(result, InputError):
      raise result
    return result


def train_cohort(jobs: Sequence[tuple[Config, Path, str]], latest: Path,
                 told: Told | None = None, allow_changed: bool = False) -> list[dict[str, Any] | InputError]:
  """Trains runs that differ in nothing but arrays (see `cohort`) as one program; each leaves what it would leave alone.

  Runs that cannot be one program, or cannot begin, are refused (`InputError`).

  Args:
    jobs: (config, workdir, label) of each, as for `train_one`; none of them finished.
    latest: the folder of the state of all, to resume from.
    told: as for `train_one`.
    allow_changed: as for `train_one`.
  Returns:
    Of each its result, or what is wrong with it.
  """
  first = configs.read(jobs[0][0])
  if first.check_memory:
    plans.check(first, len(jobs))
  with mesh.use(mesh.make(first.mesh._asdict(), members=len(jobs))):
    runs = [_run_or_error(*job, told, allow_changed) for job in jobs]
    whole = [run for run in runs if isinstance(run, Run)]
    if len(whole) == len(jobs):
      return _trained(whole, latest, f'{whole[0].label} and {len(whole) - 1} more' if len(whole) > 1 else whole[0].label)
  again = [job for job, run in zip(jobs, runs) if isinstance(run, Run)]
  results = iter(train_cohort(again, latest, told, allow_changed) if again else ())        # on the mesh of so many
  return [next(results) if isinstance(run, Run) else run for run in runs]


def _planned(settings: Settings) -> plans.LocalPlan | None:
  """What the config was planned to take, where that was looked at."""
  return plans.here(settings) if settings.check_memory else None


def _run_or_error(config: Config, workdir: Path, label: str, told: Told | None,
                  allow_changed: bool) -> 'Run | InputError':
  try:
    settings = configs.read(config)
    exp = assemble(settings)
    run_files.check(workdir, exp.settings.config())
    provenance.check(workdir, exp, LEARNED_FROM, allow_changed)
    return Run(exp, workdir, label, _planned(settings), told)
  except InputError as e:
    return e


def cohort_size(jobs: Sequence[Config]) -> dict[str, Any]:
  """How many of these runs, which differ in nothing but arrays, to train as one program: `size`, and what was found."""
  alike = [configs.read(one) for one in jobs]
  sizes = alike[0].mesh._asdict()

  def side(count: int) -> trial.TimedStep:
    with mesh.use(mesh.make(sizes, members=count)):
      exps = [assemble(one) for one in alike[:count]]
      return trial.timed_step([initial_state(exp) for exp in exps], [exp.training_batches()(0) for exp in exps],
                              model=exps[0].model, tx=restore.optimizer(exps[0]),
                              objective=exps[0].objective)

  with mesh.use(mesh.make(sizes)):
    exps = [assemble(one) for one in alike]
  check_same_program(exps)
  steps = exps[0].settings.training.steps
  if not steps:
    return {'size': 1, 'because': 'nothing learns'}
  if not trial.trial_pays(len(exps), steps):
    return {'size': 1, 'because': f'{steps} steps are too few for a trial to be worth its time'}
  return trial.tune_cohort_size(side, len(exps), device.memory())._asdict()


def _trained(runs: Sequence[Run], latest: Path, label: str, profile: bool = False) -> list[dict[str, Any] | InputError]:
  """What each run came to, trained side by side; their configs agree in all that a step is made of.

  Raises:
    InputError: they cannot be one program, or another process is at work in a run directory.
  """
  exp = runs[0].exp
  check_same_program([run.exp for run in runs])
  lengths = {run.batch_of(0).tokens.shape[-1] for run in runs if run.batch_of}
  if len(lengths) > 1 and exp.settings.strategy.dropout:
    raise InputError('the rows that the seeds draw give lines of other lengths, on which dropout would draw otherwise')
  with ExitStack() as stack:
    for run in runs:
      stack.enter_context(run_files.held(run.workdir))
    return _trained_here(runs, latest, label, profile)


def _trained_here(runs: Sequence['Run'], latest: Path, label: str, profile: bool) -> list[dict[str, Any] | InputError]:
  """The same in run directories that no other process is at work in.

  Raises:
    InUse: one has ended a run there meanwhile.
  """
  exp = runs[0].exp
  for run in runs:
    if (run.workdir / run_files.RESULT).exists():
      raise InUse(f'{run.workdir}: another process has just finished the run; the same command shows its result')
  begun = [run.begin(tells=run is runs[0]) for run in runs]
  frozen = [one for _, one in begun]
  state, frozen_of_all = cohort.stack_states([state for state, _ in begun], frozen)
  del begun                                    # each member's own copy of what is stacked now
  say(f'{label}: on ' + ', '.join(f'{what} {value}' for what, value in device.settings().items()))
  tx = restore.optimizer(exp)
  members = [run.member() for run in runs]
  kept = members[0].checkpoints if len(runs) == 1 else Checkpoints(latest, exp.fingerprint)
  trace = runs[0].workdir / run_files.TENSORBOARD if profile else None
  try:
    validation = validate(runs, label) if runs[0].held_out else None
    outcomes = loop.train(exp.model, state, frozen_of_all, tx, exp.objective, members, kept, validation, runs[0].schedule,
                          label, trace)
  finally:
    for member in members:
      member.log.close()
      member.checkpoints.close()
    kept.close()
  if trace and not (trace / 'plugins').exists():
    say(f'{label}: nothing was traced: only the step that compiles was left')
  whole = {number: outcome for number, outcome in enumerate(outcomes) if not isinstance(outcome, InputError)}
  best = at_best([runs[number] for number in whole], [*whole.values()], [frozen[number] for number in whole], label)
  ended = {number: runs[number].end(outcome, evaluation) for (number, outcome), evaluation in zip(whole.items(), best)}
  results = [outcome if isinstance(outcome, InputError) else ended[number] for number, outcome in enumerate(outcomes)]
  for run, result in zip(runs, results):       # at one time, so that a cohort that is killed has ended in all or in none
    if not isinstance(result, InputError):
      run_files.write_json(run.workdir / run_files.RESULT, result)
  return results
