"""Trains one strategy on one task from a config.

    python -m research.train --config=configs/default.py --workdir=runs/lora --config.training.learning_rate=1e-3

The same command goes on with a run that was stopped. See README for what stands in the workdir afterwards.
"""

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
from absl import flags

from research import cli, run_files, tree
from research.console import say
from research.data.prompts import Example
from research.distributed import device, mesh, placement, processes
from research.errors import InputError, InUse
from research.evaluation import harness, metrics
from research.experiment import provenance, restore, settings
from research.experiment.assemble import Experiment, assemble
from research.planning import plans
from research.programs import flops, members
from research.strategies import bind
from research.training import cohort, loop, optim, trial
from research.training.checkpoint import Checkpoints
from research.training.metrics_log import MetricsLog
from research.training.steps import TrainState
from research.tree import Tree

LEARNED_FROM = ('train', 'valid')      # splits that make a run what it is
Told = set[tuple[str, ...]]      # tables of what was added where that a person has seen


def run(config: dict[str, Any], workdir: Path, label: str = 'train', profile: bool = False, allow_changed: bool = False,
        told: Told | None = None) -> dict[str, Any]:
  """Trains, validates at the best step, and leaves a run in `workdir`; gives its result.json.

  Args:
    config: as nested dicts.
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
  finished = processes.all_gather_object((workdir / run_files.RESULT).exists())[0]
  if config['check_memory'] and not finished:
    plans.check(config)
  with mesh.use(mesh.make(config['mesh'])):
    exp = assemble(config)
    processes.assert_equal_across_processes(lambda: provenance.content(exp))
    run_files.check(workdir, exp.config)
    provenance.check(workdir, exp, LEARNED_FROM, allow_changed)
    if finished:
      say(f'{label}: {workdir} is finished already')
      return run_files.read_result(workdir)
    if profile and exp.config['training']['steps'] < 2:
      raise InputError(f'--profile: training.steps={exp.config["training"]["steps"]}: the first step compiles, and the second '
                       'is the first to be traced')
    [result] = _trained([Run(exp, workdir, label, _planned(config), told)], workdir / run_files.CHECKPOINTS, label, profile)
    if isinstance(result, InputError):
      raise result
    return result


def train_cohort(jobs: Sequence[tuple[dict[str, Any], Path, str]], latest: Path,
                 told: Told | None = None, allow_changed: bool = False) -> list[dict[str, Any] | InputError]:
  """Trains runs that differ in nothing but arrays (see `cohort`) as one program; each leaves what it would leave alone.

  Runs that cannot be one program, or cannot begin, are refused (`InputError`).

  Args:
    jobs: (config, workdir, label) of each, as for `run`; none of them finished.
    latest: the folder of the state of all, to go on from.
    told: as for `run`.
    allow_changed: as for `run`.
  Returns:
    Of each its result, or what is wrong with it.
  """
  if jobs[0][0]['check_memory']:
    plans.check(jobs[0][0], len(jobs))
  with mesh.use(mesh.make(jobs[0][0]['mesh'], members=len(jobs))):
    runs = [_run_or_error(*job, told, allow_changed) for job in jobs]
    whole = [run for run in runs if isinstance(run, Run)]
    if len(whole) == len(jobs):
      return _trained(whole, latest, f'{whole[0].label} and {len(whole) - 1} more' if len(whole) > 1 else whole[0].label)
  again = [job for job, run in zip(jobs, runs) if isinstance(run, Run)]
  results = iter(train_cohort(again, latest, told, allow_changed) if again else ())        # on the mesh of so many
  return [next(results) if isinstance(run, Run) else run for run in runs]


def _planned(config: dict[str, Any]) -> plans.LocalPlan | None:
  """What the config was planned to take, where that was looked at."""
  return plans.here(config) if config['check_memory'] else None


def _run_or_error(config: dict[str, Any], workdir: Path, label: str, told: Told | None,
                  allow_changed: bool) -> 'Run | InputError':
  try:
    exp = assemble(config)
    run_files.check(workdir, exp.config)
    provenance.check(workdir, exp, LEARNED_FROM, allow_changed)
    return Run(exp, workdir, label, _planned(config), told)
  except InputError as e:
    return e


def cohort_size(configs: Sequence[dict[str, Any]]) -> dict[str, Any]:
  """How many of these runs, which differ in nothing but arrays, to train as one program: `size`, and what was found."""
  def side(count: int) -> trial.TimedStep:
    with mesh.use(mesh.make(configs[0]['mesh'], members=count)):
      exps = [assemble(config) for config in configs[:count]]
      return trial.timed_step([_initial_state(exp) for exp in exps], [exp.training_batches()(0) for exp in exps],
                                model=exps[0].model, tx=restore.optimizer(exps[0]),
                                label_smoothing=exps[0].config['training']['label_smoothing'])

  with mesh.use(mesh.make(configs[0]['mesh'])):
    exps = [assemble(config) for config in configs]
  _check_same_program(exps)
  steps = exps[0].config['training']['steps']
  if not steps:
    return {'size': 1, 'because': 'nothing learns'}
  if not trial.trial_pays(len(exps), steps):
    return {'size': 1, 'because': f'{steps} steps are too few for a trial to be worth its time'}
  return trial.tune_cohort_size(side, len(exps), device.memory())._asdict()


def _check_same_program(exps: Sequence[Experiment]) -> None:
  """Refuses experiments of which one step cannot be made: the seed can draw rows, and they can decide more than arrays.

  Raises:
    InputError: they differ in their model, or in their number of steps.
  """
  first = exps[0].config['training']['steps']
  for exp in exps[1:]:
    if exp.model is not exps[0].model or exp.config['training']['steps'] != first:
      raise InputError('the rows that the seeds draw give other vocabularies or numbers of steps')


def _initial_state(exp: Experiment) -> tuple[TrainState, Tree]:
  """(state, frozen) at step 0, where they shall lie."""
  return placement.shard(restore.begin(exp))


class Run:
  """One run on its way: what its config names, where it is kept, and what validation found on the way."""

  def __init__(self, exp: Experiment, workdir: Path, label: str, planned: plans.LocalPlan | None = None,
               told: Told | None = None):
    """Rows that do not fit the model are refused (`InputError`).

    Args:
      exp: what its config names.
      workdir: the run directory.
      label: what the run is called where something is said of it.
      planned: what it is to take, to be told beside what it took.
      told: as for `run`.
    """
    t = exp.config['training']
    self.exp, self.workdir, self.label, self.planned = exp, workdir, label, planned
    self.told: Told = set() if told is None else told
    self.by = metrics.get(t['best_metric'])
    self.batch_of = exp.training_batches() if t['steps'] else None
    self.held_out = exp.examples('valid') if 'valid' in exp.task.splits else []
    self.seen: dict[int, harness.Evaluation] = {}      # this process's best step -> what validation found, where that is all

  def begin(self, tells: bool = True) -> tuple[TrainState, Tree]:
    """(state, frozen) at step 0; from here on the workdir is this run's.

    An earlier run or adapter to start from that does not fit, and a workdir that holds another run, are refused (`InputError`).

    Args:
      tells: whether it says what was added where.
    """
    exp = self.exp
    state, frozen = _initial_state(exp)
    run_files.claim(self.workdir, exp.config)
    frozen = restore.keep_fixed(self.workdir, state.trainable, frozen)
    lines = bind.table(state.trainable, frozen)
    run_files.write_json(self.workdir / run_files.SITES, [line._asdict() for line in lines])
    if not self.held_out:
      say(f'{self.label}: no validation split: the last step is kept')
    provenance.begin(self.workdir, exp)
    self.trainable_params = tree.size(state.trainable)
    self.total_params = self.trainable_params + tree.size(frozen)
    say(f'{self.label}: {exp.strategy.name} on {exp.called}, {self.trainable_params:,} of {self.total_params:,} '
        'parameters learn')
    table = tuple(map(str, lines))
    for line in table if tells and table not in self.told else ():
      say(f'  {line}')
    self.told.add(table)
    return state, frozen

  def member(self) -> loop.Member:
    """This run as the loop knows it."""
    t, warmup = self.exp.config['training'], restore.warmup(self.exp)
    share = lambda step: float(optim.shape(t['schedule'], t['steps'], step, warmup))
    return loop.Member(self.label, self.batch_of, t['learning_rate'], share,
                       Checkpoints(self.workdir / run_files.CHECKPOINTS, self.exp.fingerprint), MetricsLog(self.workdir))

  @property
  def generates(self) -> bool:
    """Whether free text is written at every validation: where its metric chooses the best step."""
    return self.by.name != 'loss'

  def validated(self, step: int, evaluation: harness.Evaluation) -> dict[str, float]:
    """The metrics of validation after `step`; what its best step found is kept for the end."""
    cost = lambda e: -e.scores[self.by.name] if self.by.higher_is_better else e.scores[self.by.name]
    if (self.exp.task.choices or self.generates) and all(cost(evaluation) < cost(e) for e in self.seen.values()):
      self.seen.clear()
      self.seen[step] = evaluation
    return {f'valid/{name}': value for name, value in evaluation.scores.items()}

  def end(self, outcome: loop.TrainResult, evaluation: harness.Evaluation | None) -> dict[str, Any]:
    """Writes what came out but for result.json, which it gives; evaluation: of the best step, where there is validation."""
    result = describe(self.exp, outcome, self.trainable_params, self.total_params, self.planned)
    if evaluation:
      record(result, evaluation, self.workdir, 'valid')
    if self.held_out:
      said = ', '.join(f'{k} {v:.4f}' for k, v in result['metrics'].items())
      say(f'{self.label}: best step {outcome.best_step} of {outcome.steps}; {said}')
    else:
      say(f'{self.label}: no validation split, so the last step was kept: {outcome.steps} of {outcome.steps}')
    return result


def evaluate_runs(exps: Sequence[Experiment], variables: Tree | members.CohortVariables,
                  examples: Sequence[Sequence[Example]], generate: bool, label: str | None = None) -> list[harness.Evaluation]:
  """The evaluation of every run: of all as one program where they read the same rows.

  Args:
    exps: of one model and one task.
    variables: of one run, or of all side by side.
    examples: of each run.
    generate: free text too, where that is the task.
    label: of the progress line; None for silence.
  """
  exp, size = exps[0], exps[0].config['training']['eval_batch_size']
  if all(one == examples[0] for one in examples[1:]):
    return harness.evaluate_all(exp.model, variables, exp.tokenizer, exp.task, examples[0], size, generate, label)
  return [harness.evaluate(exp.model, members.select_member(number, variables), exp.tokenizer, exp.task, its, size, generate,
                           label) for number, its in enumerate(examples)]


def _validation(runs: Sequence[Run], label: str) -> loop.Evaluate:
  """What the loop asks after some of its steps."""
  def evaluate(step, going, variables):
    if not sys.stderr.isatty():
      say(f'{label}  {step}/{runs[0].exp.config["training"]["steps"]}  validating')
    found = evaluate_runs([run.exp for run in runs], variables, [run.held_out for run in runs], runs[0].generates,
                          f'{label}: valid')
    return [runs[number].validated(step, found[number]) for number in going]
  return evaluate


def _at_best(runs: Sequence[Run], outcomes: Sequence[loop.TrainResult], frozen: Sequence[Tree],
             label: str) -> list[harness.Evaluation | None]:
  """What validation finds at each run's best step, free text with it; None without a validation split."""
  found = [run.seen.get(outcome.best_step) for run, outcome in zip(runs, outcomes)]
  missing = [number for number, run in enumerate(runs) if run.held_out and not found[number]]
  if missing:
    variables = members.stack_variables([outcomes[number].trainable for number in missing],
                                       [frozen[number] for number in missing])
    looked = evaluate_runs([runs[number].exp for number in missing], variables,
                           [runs[number].held_out for number in missing], True, f'{label}: valid')
    for number, evaluation in zip(missing, looked):
      found[number] = evaluation
  return found


def _trained(runs: Sequence[Run], latest: Path, label: str, profile: bool = False) -> list[dict[str, Any] | InputError]:
  """What each run came to, trained side by side; their configs agree in all that a step is made of.

  Raises:
    InputError: they cannot be one program, or another process is at work in a run directory.
  """
  exp = runs[0].exp
  _check_same_program([run.exp for run in runs])
  lengths = {run.batch_of(0)['tokens'].shape[-1] for run in runs if run.batch_of}
  if len(lengths) > 1 and exp.config['strategy'].get('dropout'):
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
  exp, t = runs[0].exp, runs[0].exp.config['training']
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
    outcomes = loop.train(
        exp.model, state, frozen_of_all, tx, members, kept, _validation(runs, label) if runs[0].held_out else None,
        label=label, steps=t['steps'], eval_every=t['eval_every'], checkpoint_every=t['checkpoint_every'],
        log_every=t['log_every'], best_metric=f'valid/{runs[0].by.name}', higher_is_better=runs[0].by.higher_is_better,
        patience=t['patience'], label_smoothing=t['label_smoothing'], profile=trace)
  finally:
    for member in members:
      member.log.close()
      member.checkpoints.close()
    kept.close()
  if trace and not (trace / 'plugins').exists():
    say(f'{label}: nothing was traced: only the step that compiles was left')
  whole = {number: outcome for number, outcome in enumerate(outcomes) if not isinstance(outcome, InputError)}
  best = _at_best([runs[number] for number in whole], [*whole.values()], [frozen[number] for number in whole], label)
  ended = {number: runs[number].end(outcome, evaluation) for (number, outcome), evaluation in zip(whole.items(), best)}
  results = [outcome if isinstance(outcome, InputError) else ended[number] for number, outcome in enumerate(outcomes)]
  for run, result in zip(runs, results):       # at one time, so that a cohort that is killed has ended in all or in none
    if not isinstance(result, InputError):
      run_files.write_json(run.workdir / run_files.RESULT, result)
  return results


def describe(exp: Experiment, outcome: loop.TrainResult, trainable: int, total: int,
             planned: plans.LocalPlan | None = None) -> dict[str, Any]:
  """A run's result before anything was evaluated, as result.json holds it.

  Args:
    exp: what the run's config names.
    outcome: what its training came to.
    trainable: number of trainable parameters.
    total: number of all parameters.
    planned: what it was to take, alone; None where that was not looked at.
  """
  c = outcome.cost
  per_second = lambda x: x / c.train_seconds if c.train_seconds else 0.0
  memory = _memory(c.peak_bytes, c.cohort_size)      # before the product below, which takes some too
  peak = jax.device_count() * flops.matrix_peak(exp.model.config.dtype) if c.train_flops else 0.0
  return {
      'model': exp.config['model']['source'], 'task': exp.called,
      'strategy': exp.strategy.name,
      'seed': exp.config['training']['seed'], 'best_step': outcome.best_step, 'steps': outcome.steps,
      'metrics': {}, 'intervals': {},
      'cost': {'total_params': total, 'trainable_params': trainable, **c._asdict(),
               'tokens_per_second': per_second(c.train_tokens), 'matrix_peak': peak,
               'utilisation': per_second(c.train_flops) / peak if peak else 0.0, **memory,
               'planned_peak_bytes': planned.bytes() if planned else None,
               'planned_train_seconds': planned.step_seconds * outcome.steps if planned else None},
  }


def _memory(compiled_bytes: int, members: int) -> dict[str, Any]:
  """The most memory that was in use: of a run alone the device's own count where it keeps one, else the compiler's."""
  if members > 1:
    return {'peak_bytes': compiled_bytes, 'memory_source': 'compiled: what the cohort shares, and its share of the rest of the '
                                                           'training step\'s arguments, results and temporaries'}
  counted = jax.local_devices()[0].memory_stats()
  if counted and 'peak_bytes_in_use' in counted:
    return {'peak_bytes': counted['peak_bytes_in_use'], 'memory_source': 'device: peak of this process'}
  return {'peak_bytes': compiled_bytes,
          'memory_source': 'compiled: arguments, results and temporaries of the training step'}


def record(result: dict[str, Any], evaluation: harness.Evaluation, workdir: Path, split: str) -> None:
  """Writes a split's predictions and adds its scores to a result; numbers that are not finite are refused (`InputError`).

  Args:
    result: gets the scores, in place.
    evaluation: of the split.
    workdir: the run directory, which gets the predictions.
    split: train, valid or test.
  """
  harness.check_finite(evaluation, str(workdir))
  run_files.write_jsonl(workdir / run_files.PREDICTIONS / f'{split}.jsonl', evaluation.predictions)
  result['metrics'] |= {f'{split}/{name}': value for name, value in evaluation.scores.items()}
  result['intervals'] |= {f'{split}/{name}': ends for name, ends in evaluation.intervals.items()}


def main() -> None:
  cli.required('config', 'workdir')
  run(settings.plain(flags.FLAGS.config), Path(flags.FLAGS.workdir), profile=flags.FLAGS.profile,
      allow_changed=flags.FLAGS.allow_changed)


if __name__ == '__main__':
  cli.config_flag()
  cli.process_flags()
  flags.DEFINE_string('workdir', None, 'where the run is kept')
  flags.DEFINE_bool('profile', False, 'write a trace of five steps, which TensorBoard opens')
  cli.changed_flag()
  cli.run(main, __doc__, saves=True)
