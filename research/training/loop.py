"""The loop around the step: batches in, metrics and checkpoints out, and it resumes where it was stopped."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import optax

from research import tree
from research.console import ProgressLine, say
from research.data.batch import Batch
from research.distributed import mesh, partition, placement
from research.errors import InputError
from research.models.functions import Model
from research.programs import compile as compilation
from research.programs.members import CohortVariables, join_variables, take_member
from research.training import cohort
from research.training.checkpoint import Checkpoints
from research.training.ledger import Cost, Ledger, Member, Schedule, TrainResult
from research.training.objective import Objective
from research.training.signals import Interrupts, Stopped
from research.training.steps import TrainState
from research.training.trace import Trace
from research.tree import Tree

# (step, numbers of members, variables of all) -> the validation metrics of each of these, `valid/loss` among them.
Evaluate = Callable[[int, Sequence[int], Tree | CohortVariables], Sequence[dict[str, float]]]


def train(model: Model, state: TrainState, frozen: Tree | CohortVariables, tx: optax.GradientTransformation,
          objective: Objective, members: Sequence[Member], latest: Checkpoints, evaluate: Evaluate | None, schedule: Schedule,
          label: str, profile: Path | None = None) -> list[TrainResult | InputError]:
  """Trains a run, or the members of a cohort side by side, to the end, from wherever `latest` has got to.

  Args:
    model: the one model of all.
    state: at step 0, as `cohort.stack_states` gives it for the members.
    frozen: what is frozen, as `cohort.stack_states` gives it.
    tx: the optimiser (see `optim.make`).
    objective: the loss.
    members: the runs, in the order in which `state` has them.
    latest: where the state of all is kept to resume from.
    evaluate: validation of those members that have not ended; None where there is no validation split.
    schedule: when they are validated, saved, and ended.
    label: of the progress line.
    profile: where a trace of some steps is written, for TensorBoard; None: nowhere.
  Returns:
    What each member came to, or why it diverged. A member that has ended keeps its place until all have.
  Raises:
    Stopped: a signal came; everything up to the last whole step is saved.
  """
  restored = latest.restore_latest(state)
  state = state if restored is None else restored
  step = int(np.max(state.step))                            # all members have taken as many
  ledger, compiled_before = Ledger(members, schedule), compilation.seconds_spent()
  ledger.start(None if restored is None else step)
  if restored is not None:
    say(f'{label}: resumes after step {step}')
  batch_of = _batches(members)
  program_for = lambda batch: compilation.compiled(cohort.step_for(frozen), state, frozen, batch, donate=(0,), model=model,
                                                   tx=tx, objective=objective)
  progress, trace = ProgressLine(label, schedule.steps, step), Trace(profile, after=step + 1)   # not of the step that compiles
  try:
    with Interrupts() as interrupts, ThreadPoolExecutor(1, 'input') as input_thread:
      ahead = lambda step: input_thread.submit(batch_of, step) if step < schedule.steps else None
      coming = ahead(step)
      going = ledger.going() if step < schedule.steps else []
      while going:
        assert coming is not None                           # there is another step
        with ledger.timed('step'), ledger.timed('input'):
          batch = coming.result()
        coming = ahead(step + 1)                            # made while the device is busy
        executable = program_for(batch)
        with ledger.timed('step'):
          state, metrics = executable(state, frozen, batch)
          step += 1
          ledger.note(step, metrics)
          asked, due = interrupts.asked(step), _due(schedule, step, evaluate is not None, len(members))
          if asked or any(due) or trace.borders(step):
            jax.block_until_ready(metrics)
        trace.after(step)
        if asked or any(due):
          found = {}
          if evaluate is not None and due.evaluation:
            with ledger.timed('evaluation'):
              found = dict(zip(going, evaluate(step, going, join_variables(state.trainable, frozen))))
          progress.update(step, ledger.write(found))
          with ledger.timed('checkpoint'):
            for number in found:
              if not members[number].error and ledger.best_step(number) == step:
                members[number].checkpoints.save_best(step, take_member(number, state.trainable, frozen))
            going = ledger.going()
            if (asked or due.checkpoint) and not all(m.error for m in members):
              latest.save_latest(state, [m.checkpoints for m in members])
        if asked:
          raise Stopped(asked)
      if evaluate is None and step:
        with ledger.timed('checkpoint'):
          _keep_last(members, state, frozen, step)
      if asked := interrupts.asked():                       # during the last evaluation
        latest.save_latest(state, [m.checkpoints for m in members])
        raise Stopped(asked)
  finally:
    progress.close()
    with ledger.timed('checkpoint'):
      for checkpoints in (*(m.checkpoints for m in members), latest):
        checkpoints.wait()
    trace.close()
  compile_seconds = compilation.seconds_spent() - compiled_before
  program = program_for(batch_of(0)) if step else None
  flops, peak = (program.flops, _own_peak(program.peak_bytes, frozen, len(members))) if program else (0.0, 0)
  return [m.error or _result(m, ledger.best_step(number), step, take_member(number, state.trainable, frozen),
                             ledger.cost(number, compile_seconds, flops, peak)) for number, m in enumerate(members)]


class Due(NamedTuple):
  """What is to be done after a step."""
  evaluation: bool
  checkpoint: bool
  log: bool


def _due(schedule: Schedule, step: int, validates: bool, members: int) -> Due:
  last = step == schedule.steps
  saves = bool(schedule.checkpoint_every) and (step % schedule.checkpoint_every == 0 or last)
  return Due(validates and (step % schedule.eval_every == 0 or last),
             saves or (last and members > 1),               # a cohort's evaluations at the end can take long
             last or step % schedule.log_every == 0)


def _batches(members: Sequence[Member]) -> Callable[[int], Batch]:
  """Step -> the batch of all members on the devices of the mesh in use, also where another thread asks."""
  in_use = mesh.current()

  def batch_of(step: int) -> Batch:
    with mesh.use(in_use):
      return cohort.shard_batches([m.batch_of(step) for m in members if m.batch_of])
  return batch_of


def _keep_last(members: Sequence[Member], state: TrainState, frozen: Tree | CohortVariables, step: int) -> None:
  """Keeps what the last step came to, where no validation says which is best or looks at what that step led to."""
  for number, m in enumerate(members):
    if not m.error:
      last_update = take_member(number, state.trainable, frozen)
      if bad := tree.first_not_finite(last_update):
        m.diverged(f'{bad} after the last update, step {step},')
      else:
        m.checkpoints.save_best(step, last_update)


def _own_peak(peak_bytes: int, frozen: Tree | CohortVariables, members: int) -> int:
  """The bytes of a step that a member counts for: what all share, and its part of the rest."""
  shared = placement.bytes_per_device(frozen.shared) if isinstance(frozen, CohortVariables) else 0
  here = members // (mesh.sizes()[partition.MEMBERS] if mesh.member_axis(members) else 1)
  return shared + (peak_bytes - shared) // here


def _result(member: Member, best: int, step: int, trainable: Tree, cost: Cost) -> TrainResult:
  """What a member came to at its best step.

  Args:
    member: which has not diverged.
    best: its best step.
    step: the last one.
    trainable: what it has learned up to there.
    cost: of its training.
  Raises:
    InputError: its checkpoint is of another step.
  """
  if member.checkpoints.step('best') not in (None, best):      # only where a step run twice gives two results
    raise InputError(f'{member.label}: the best checkpoint is of step {member.checkpoints.step("best")}; metrics.jsonl says '
                     f'{best}: either the file was changed, or this device does not repeat its results; train again in '
                     'another workdir')
  return TrainResult(best, member.steps_done, trainable if best == step else member.checkpoints.restore_best(trainable), cost)
