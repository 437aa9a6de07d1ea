"""The loop around the step: batches in, metrics and checkpoints out, and it goes on where it was stopped."""

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np
import optax

from research import tree
from research.console import ProgressLine, say
from research.distributed import mesh, partition, placement, processes
from research.errors import InputError
from research.models.functions import Model
from research.programs import compile as compilation
from research.programs.members import CohortVariables, join_variables, take_member
from research.training import cohort
from research.training.checkpoint import Checkpoints
from research.training.ledger import Cost, Member, TrainResult
from research.training.signals import Interrupts, Stopped
from research.training.steps import TrainState
from research.training.trace import Trace
from research.tree import Tree

# (step, numbers of members, variables of all) -> the validation metrics of each of these, `valid/loss` among them.
Evaluate = Callable[[int, Sequence[int], Tree | CohortVariables], Sequence[dict[str, float]]]


def train(model: Model, state: TrainState, frozen: Tree | CohortVariables, tx: optax.GradientTransformation,
          members: Sequence[Member], latest: Checkpoints, evaluate: Evaluate | None, *, label: str, steps: int,
          eval_every: int, checkpoint_every: int, log_every: int, best_metric: str, higher_is_better: bool, patience: int,
          label_smoothing: float, profile: Path | None = None) -> list[TrainResult | InputError]:
  """Trains a run, or the members of a cohort side by side, to the end, from wherever `latest` has got to.

  Args:
    model: the one model of all.
    state: at step 0, as `cohort.stack_states` gives it for the members.
    frozen: what is frozen, as `cohort.stack_states` gives it.
    tx: the optimiser (see `optim.make`).
    members: the runs, in the order in which `state` has them.
    latest: where the state of all is kept to go on from.
    evaluate: validation of those members that have not ended; None where there is no validation split.
    label: of the progress line.
    steps: of the whole run, those before a resumption among them.
    eval_every: steps between evaluations; one more comes at the end.
    checkpoint_every: steps between checkpoints to go on from, or 0 for none.
    log_every: steps between looks at the device.
    best_metric: what `evaluate` gives that says which step is best; of equal ones the first is.
    higher_is_better: whether more of `best_metric` is better.
    patience: evaluations without a new best one before a run ends early, or 0 for no early end.
    label_smoothing: of the training loss, as for `losses.target_losses`.
    profile: where a trace of some steps is written, for TensorBoard; None: nowhere.
  Returns:
    What each member came to, or why it diverged. A member that has ended keeps its place until all have; of the time that
    the cohort takes each member is told its share.
  Raises:
    Stopped: a signal came; everything up to the last whole step is saved.
  """
  restored = latest.restore_latest(state)
  state = state if restored is None else restored
  step = int(np.max(state.step))                    # all members have taken as many
  in_use = mesh.current()
  for m in members:
    m.log.start(None if restored is None else step, to_the_end=len(members) == 1)
  if restored is not None:
    say(f'{label}: goes on after step {step}')
  waiting: list[tuple[int, dict]] = []              # steps whose metrics are still on the device
  spent: dict[str, float] = {}                      # seconds on what, since the last line was written
  compiled_before = compilation.seconds_spent()

  @contextmanager
  def timed(what: str):
    began = time.perf_counter()
    yield
    name = f'{what}_seconds'
    spent[name] = spent.get(name, 0) + (time.perf_counter() - began) / len(members)

  def flush(found: dict[Member, dict[str, float]]) -> None:
    """Writes the lines of the waiting steps, which share what they took; what was `found` goes to the last one's."""
    fetched = [(s, {name: processes.to_host(x).reshape(-1) for name, x in metrics.items()}) for s, metrics in waiting]
    seconds = spent.pop('step_seconds') / len(waiting)
    waiting.clear()
    for number, m in enumerate(members):
      rows = [{'step': s, 'train/loss': float(x['loss'][number]), 'train/tokens': int(x['tokens'][number]),
               'grad_norm': float(x['grad_norm'][number]), 'learning_rate': m.learning_rate * m.share(s - 1),
               'tokens_per_second': float(x['tokens'][number]) / seconds, 'seconds': seconds} for s, x in fetched]
      rows[-1] |= found.get(m, {}) | spent
      if not ended(m):
        m.write(rows)
    spent.clear()
    whole = [number for number, m in enumerate(members) if not m.error]
    loss = np.mean([x['loss'][whole] for _, x in fetched]) if whole else math.nan
    progress.update(step, f'loss {loss:.4f}  {np.mean([x["tokens"] for _, x in fetched]) / seconds:,.0f} target tok/s')

  def evaluations(m: Member) -> list[tuple[float, int]]:
    """(cost, step) of each so far: the least is the best."""
    sign = -1 if higher_is_better else 1
    return [(sign * r[best_metric], r['step']) for r in m.log.history if best_metric in r]

  def ended(m: Member) -> bool:
    return m.error is not None or m.steps_done >= steps or _exhausted(evaluations(m), patience)

  def executable_for(batch) -> compilation.Executable:
    return compilation.compiled(cohort.step_for(frozen), state, frozen, batch, donate=(0,), model=model, tx=tx,
                                label_smoothing=label_smoothing)

  def batch_of(step: int) -> dict[str, jax.Array]:
    with mesh.use(in_use):                        # also where another thread asks
      return cohort.shard_batches([m.batch_of(step) for m in members if m.batch_of])

  def save_latest() -> None:
    latest.save_latest(state, [m.checkpoints for m in members])

  for m in members:
    if len(members) > 1 and m.steps_done < step and not _exhausted(evaluations(m), patience):
      m.diverged()                                  # what a cohort's books lack was not finite
  progress = ProgressLine(label, steps, step)
  trace = Trace(profile, after=step + 1)                    # the step that compiles is not in it
  try:
    with Interrupts() as interrupts, ThreadPoolExecutor(1, 'input') as input_thread:
      ahead = lambda step: input_thread.submit(batch_of, step) if step < steps else None
      coming = ahead(step)
      over = step >= steps or all(map(ended, members))
      while not over:
        assert coming is not None                           # there is another step
        with timed('step'), timed('input'):
          batch = coming.result()
        coming = ahead(step + 1)                            # made while the device is busy
        executable = executable_for(batch)
        with timed('step'):
          state, metrics = executable(state, frozen, batch)
          step += 1
          waiting.append((step, metrics))
          asked, last = interrupts.asked(step), step == steps
          at_evaluation = evaluate is not None and (step % eval_every == 0 or last)
          at_checkpoint = checkpoint_every and (step % checkpoint_every == 0 or last)
          at_checkpoint = at_checkpoint or (last and len(members) > 1)      # their evaluations at the end can take long
          look = at_evaluation or at_checkpoint or asked or last or step % log_every == 0
          if look or trace.borders(step):
            jax.block_until_ready(metrics)
        trace.after(step)
        if look:
          found = {}
          if evaluate is not None and at_evaluation:
            going = [number for number, m in enumerate(members) if not ended(m)]
            with timed('evaluation'):
              measured = evaluate(step, going, join_variables(state.trainable, frozen))
            found = {members[number]: of_member for number, of_member in zip(going, measured)}
          flush(found)
          with timed('checkpoint'):
            for number, m in enumerate(members):
              if m in found and not m.error and min(evaluations(m))[1] == step:
                m.checkpoints.save_best(step, take_member(number, state.trainable, frozen))
            over = all(map(ended, members))
            if (asked or at_checkpoint) and not all(m.error for m in members):
              save_latest()
        if asked:
          raise Stopped(asked)
      if evaluate is None and step:
        with timed('checkpoint'):
          for number, m in enumerate(members):
            if not m.error:
              last_update = take_member(number, state.trainable, frozen)      # no validation looks at what it led to
              if bad := tree.first_not_finite(last_update):
                m.diverged(f'{bad} after the last update, step {step},')
              else:
                m.checkpoints.save_best(step, last_update)
      if interrupts.asked():                                # during the last evaluation
        save_latest()
        raise Stopped(interrupts.asked())
  finally:
    progress.close()
    with timed('checkpoint'):
      for m in members:
        m.checkpoints.wait()
      latest.wait()
    trace.close()
  compile_seconds = compilation.seconds_spent() - compiled_before
  program = executable_for(batch_of(0)) if step else None

  def outcome(number: int, m: Member) -> TrainResult | InputError:
    if m.error:
      return m.error
    total = lambda name: sum(r.get(name, 0) for r in m.log.history) + spent.get(name, 0)
    cost = Cost(train_tokens=total('train/tokens'), train_seconds=total('seconds'), input_seconds=total('input_seconds'),
                evaluation_seconds=total('evaluation_seconds'), checkpoint_seconds=total('checkpoint_seconds'),
                compile_seconds=compile_seconds / len(members), cohort_size=len(members))
    if program:
      shared = placement.bytes_per_device(frozen.shared) if isinstance(frozen, CohortVariables) else 0
      here = len(members) // (mesh.sizes()[partition.MEMBERS] if mesh.member_axis(len(members)) else 1)
      cost = cost._replace(train_flops=program.flops / len(members) * m.steps_done,
                           peak_bytes=shared + (program.peak_bytes - shared) // here)
    found = evaluations(m)
    best = min(found)[1] if found else m.steps_done
    if m.checkpoints.step('best') not in (None, best):    # only where a step run twice gives two results
      raise InputError(f'{m.label}: the best checkpoint is of step {m.checkpoints.step("best")}, but metrics.jsonl says '
                       f'{best}: either the file was changed, or this device does not repeat its results; train again in '
                       'another workdir')
    trainable = take_member(number, state.trainable, frozen)
    return TrainResult(best, m.steps_done, trainable if best == step else m.checkpoints.restore_best(trainable), cost)
  return [outcome(number, m) for number, m in enumerate(members)]


def _exhausted(evaluations: list[tuple[float, int]], patience: int) -> bool:
  """Whether the last `patience` evaluations all failed to be better than all before."""
  costs = [cost for cost, _ in evaluations]
  return bool(patience) and len(costs) > patience and min(costs[-patience:]) >= min(costs[:-patience])
