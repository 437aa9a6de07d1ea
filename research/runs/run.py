"""One run on its way, alone or in a cohort: what its config names, where it is kept, and what validation finds."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from research import run_files
from research.console import say
from research.data.prompts import Example
from research.data.tasks import OF_LOSS
from research.distributed import placement
from research.errors import InputError
from research.evaluation import harness, weighed
from research.experiment import provenance, restore, retained
from research.experiment.assemble import Experiment
from research.experiment.watched import SPLIT
from research.planning import plans
from research.programs import members
from research.runs.result import describe, record, spoken
from research.strategies import bind
from research.training import ledger, loop, memorised, optim
from research.training.checkpoint import Checkpoints
from research.training.ledger import Schedule
from research.training.metrics_log import MetricsLog
from research.training.steps import TrainState
from research.tree import Tree

LEARNED_FROM = ('train', SPLIT, provenance.WATCHED)      # splits that make a run what it is
Told = set[tuple[str, ...]]      # tables of what was added where that a person has seen


def check_same_program(exps: Sequence[Experiment]) -> None:
  """Refuses experiments of which one step cannot be made: the seed can draw rows, and they can decide more than arrays.

  Raises:
    InputError: they differ in their model, or in their number of steps.
  """
  first = exps[0].settings.training.steps
  for exp in exps[1:]:
    if exp.model is not exps[0].model or exp.settings.training.steps != first:
      raise InputError('the rows that the seeds draw give other vocabularies or numbers of steps')


def initial_state(exp: Experiment) -> tuple[TrainState, Tree]:
  """(state, frozen) at step 0, sharded over the mesh in use."""
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
      told: as for `train.train_one`.
    """
    t = exp.settings.training
    self.exp, self.workdir, self.label, self.planned = exp, workdir, label, planned
    self.told: Told = set() if told is None else told
    self.by = weighed.read(t.best_metric)
    self.batch_of = exp.training_batches() if t.steps else None
    self.held_out = exp.examples(SPLIT) if SPLIT in exp.task.splits else []
    self.watching = retained.watching(exp)
    self.watched = self.watching.examples(SPLIT) if self.watching else []
    self.seen: dict[int, tuple[float, harness.Evaluation]] = {}      # this process's best step -> what validation found there

  def begin(self, tells: bool = True) -> tuple[TrainState, Tree]:
    """(state, frozen) at step 0; from here on the workdir is this run's.

    An earlier run or adapter to start from that does not fit, and a workdir that holds another run, are refused (`InputError`).

    Args:
      tells: whether it says what was added where.
    """
    exp = self.exp
    state, frozen = initial_state(exp)
    run_files.claim(self.workdir, exp.settings.config())
    frozen = restore.keep_fixed(self.workdir, state.trainable, frozen)
    lines = bind.table(state.trainable, frozen)
    run_files.write_json(self.workdir / run_files.SITES, [line._asdict() for line in lines])
    if not self.held_out:
      say(f'{self.label}: no validation split: the last step is kept')
    provenance.begin(self.workdir, exp)
    self.trainable_params, self.total_params = restore.num_params(state.trainable, frozen)
    say(f'{self.label}: {exp.strategy.name} on {exp.called}, {self.trainable_params:,} of {self.total_params:,} '
        'parameters learn')
    table = tuple(map(str, lines))
    for line in table if tells and table not in self.told else ():
      say(f'  {line}')
    self.told.add(table)
    return state, frozen

  def member(self) -> ledger.Member:
    """This run as the loop knows it."""
    t, warmup = self.exp.settings.training, restore.warmup(self.exp)
    self.log = MetricsLog(self.workdir)
    lr_fraction = lambda step: float(optim.shape(t.schedule, t.steps, step, warmup))
    return ledger.Member(self.label, self.batch_of, t.learning_rate, lr_fraction,
                         Checkpoints(self.workdir / run_files.CHECKPOINTS, self.exp.fingerprint), self.log)

  @property
  def schedule(self) -> Schedule:
    """When it is validated, saved, and ended."""
    t = self.exp.settings.training
    return Schedule(t.steps, t.eval_every, t.checkpoint_every, t.log_every, t.patience,
                    f'{SPLIT}/{self.by.name}', self.by.higher_is_better)

  @property
  def generates(self) -> bool:
    """Whether free text is written at every validation: where its metric chooses the best step."""
    return not self.by.of_task <= {'loss', *OF_LOSS}

  def validated(self, step: int, evaluation: harness.Evaluation, watched: harness.Evaluation | None) -> dict[str, float]:
    """The metrics of validation after `step`; what its best step found is kept for the end.

    Args:
      step: the last that was taken.
      evaluation: of the task.
      watched: of what is watched beside it, if anything is.
    """
    scores = evaluation.scores | {weighed.RETAIN + name: value for name, value in (watched.scores if watched else {}).items()}
    value = self.by.of(scores)
    cost = -value if self.by.higher_is_better else value
    if (self.exp.task.choices or self.generates) and all(cost < best for best, _ in self.seen.values()):
      self.seen.clear()
      self.seen[step] = cost, evaluation
    return {f'{SPLIT}/{name}': found for name, found in (scores | {self.by.name: value}).items()}

  def end(self, outcome: ledger.TrainResult, evaluation: harness.Evaluation | None) -> dict[str, Any]:
    """Writes what came out but for result.json, which it gives; evaluation: of the best step, where there is validation."""
    result = describe(self.exp, outcome, self.trainable_params, self.total_params, self.planned)
    if evaluation:
      record(result, evaluation, self.workdir, SPLIT, self.exp.task)
    by_heart = None if self.exp.objective.of_pairs else memorised.found(self.log.history)
    if by_heart:
      result['memorised'] = by_heart._asdict()
      say(f'{self.label}: {by_heart}')
    if evaluation:
      said, *without = spoken(evaluation, SPLIT, ranges=False)
      at_best = next((line for line in self.log.history if line['step'] == outcome.best_step), {})
      watched = {name: value for name, value in at_best.items() if name.startswith(f'{SPLIT}/{weighed.RETAIN}')}
      result['metrics'] |= watched
      said = ', '.join((said, *(f'{name} {value:.4f}' for name, value in watched.items())))
      say(f'{self.label}: best step {outcome.best_step} of {outcome.steps}; {said}')
      for line in without:
        say(f'{self.label}: {line}')
    else:
      say(f'{self.label}: no validation split, so the last step was kept: {outcome.steps} of {outcome.steps}')
    return result


def evaluate_runs(exps: Sequence[Experiment], variables: Tree | members.CohortVariables,
                  examples: Sequence[Sequence[Example]], split: str, generate: bool,
                  label: str | None = None) -> list[harness.Evaluation]:
  """The evaluation of every run: of all as one program where they read the same rows.

  Args:
    exps: of one model and one task.
    variables: of one run, or of all side by side.
    examples: of each run.
    split: the examples', of which the task can say that training holds some.
    generate: free text too, where that is the task.
    label: of the progress line; None for silence.
  """
  exp, size = exps[0], exps[0].settings.training.eval_batch_size
  leaked = [one.task.leaked_rows(split) for one in exps]
  if all(one == examples[0] for one in examples[1:]) and len({*leaked}) == 1:
    return harness.evaluate_all(exp.model, variables, exp.tokenizer, exp.task, examples[0], size, generate, label, leaked[0])
  return [harness.evaluate(exp.model, members.select_member(number, variables), exp.tokenizer, exp.task, its, size, generate,
                           label, leaked[number]) for number, its in enumerate(examples)]


def validate(runs: Sequence[Run], label: str) -> loop.Evaluate:
  """What the loop asks after some of its steps."""
  def evaluate(step: int, going: Sequence[int], variables: Tree | members.CohortVariables) -> list[dict[str, float]]:
    if not sys.stderr.isatty():
      say(f'{label}  {step}/{runs[0].exp.settings.training.steps}  validating')
    found = evaluate_runs([run.exp for run in runs], variables, [run.held_out for run in runs], SPLIT, runs[0].generates,
                          f'{label}: {SPLIT}')
    watching = [run.watching for run in runs if run.watching]
    watched: Sequence[harness.Evaluation | None] = [None] * len(runs)
    if watching:
      watched = evaluate_runs(watching, variables, [run.watched for run in runs], SPLIT,
                              not runs[0].by.of_watched <= {'loss', *OF_LOSS}, f'{label}: {watching[0].task.name}')
    return [runs[number].validated(step, found[number], watched[number]) for number in going]
  return evaluate


def at_best(runs: Sequence[Run], outcomes: Sequence[ledger.TrainResult], frozen: Sequence[Tree],
            label: str) -> list[harness.Evaluation | None]:
  """What validation finds at each run's best step, free text with it; None without a validation split.

  Args:
    runs: of one model and one task.
    outcomes: what training of each came to.
    frozen: what is frozen in each.
    label: of the progress line.
  """
  found = [run.seen[outcome.best_step][1] if outcome.best_step in run.seen else None for run, outcome in zip(runs, outcomes)]
  missing = [number for number, run in enumerate(runs) if run.held_out and not found[number]]
  if missing:
    variables = members.stack_variables([outcomes[number].trainable for number in missing],
                                        [frozen[number] for number in missing])
    looked = evaluate_runs([runs[number].exp for number in missing], variables,
                           [runs[number].held_out for number in missing], SPLIT, True, f'{label}: {SPLIT}')
    for number, evaluation in zip(missing, looked):
      found[number] = evaluation
  return found
