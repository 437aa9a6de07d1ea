"""The loop around the step: batches in, metrics and checkpoints out, and it goes on where it was stopped."""

import itertools
import math
import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import optax

from research import tree
from research.console import ProgressLine, say
from research.distributed import mesh, partition, placement, processes
from research.errors import Diverged, InputError
from research.models.transformer import Model
from research.programs import compile as compilation
from research.programs.members import CohortVariables, join_variables, take_member
from research.training import cohort
from research.training.checkpoint import Checkpoints
from research.training.metrics_log import MetricsLog
from research.training.steps import TrainState
from research.tree import Tree


class Stopped(BaseException):
  """A signal asked the process to end; `signum` is its number."""

  def __init__(self, signum: int):
    super().__init__(signum)
    self.signum = signum


class Interrupts:
  """While in use, Ctrl-C and SIGTERM wait until they are asked for: never in the middle of a step whose state was donated.

  Of several processes all end after the same step, whichever was asked to; JAX itself hears SIGTERM then.
  """

  def __enter__(self):
    self._asked: int | None = None
    heard = (signal.SIGINT,) if processes.is_multiprocess() else (signal.SIGINT, signal.SIGTERM)
    self._before = {s: signal.signal(s, self._ask) for s in heard}
    return self

  def _ask(self, signum, frame):
    if processes.is_multiprocess():
      signal.raise_signal(signal.SIGTERM)
      return
    if self._asked:                                 # asked twice: a compilation can take long
      raise Stopped(signum)
    self._asked = signum

  def asked(self, step: int | None = None) -> int | None:
    """The signal that came, if any; of several processes, after this step, which all must ask about."""
    if processes.is_multiprocess():
      return signal.SIGTERM if step is not None and processes.preemption_requested(step) else None
    return self._asked

  def __exit__(self, *exception):
    for signum, handler in self._before.items():
      signal.signal(signum, handler)
    if processes.is_multiprocess():
      signal.signal(signal.SIGTERM, _end)           # there are no more steps after which all could end


def _end(signum, frame):
  raise Stopped(signum)


class Cost(NamedTuple):
  """What a run's training took: tokens, FLOPs and steps over all its restarts, the rest as far as its lines tell."""
  train_tokens: int = 0             # targets
  train_flops: float = 0.0          # of matrix products
  train_seconds: float = 0.0        # in steps; in a cohort this and the other times are a member's share
  input_seconds: float = 0.0        # of train_seconds: waiting for a batch
  evaluation_seconds: float = 0.0   # between steps; not the last one's, of the step that is kept
  checkpoint_seconds: float = 0.0   # that the run waited for; the rest is written beside it
  compile_seconds: float = 0.0      # of the training step, in this process
  peak_bytes: int = 0               # arguments, results and temporaries of the step; what a cohort shares counts in full
  cohort_size: int = 1              # members that were trained as one program


class TrainResult(NamedTuple):
  """What a run came to."""
  best_step: int                    # where validation was best; the last step where there is no validation
  steps: int                        # taken; fewer than planned where it was stopped early
  trainable: Tree                   # as they were at best_step
  cost: Cost


# (step, numbers of members, variables of all) -> the validation metrics of each of these, `valid/loss` among them.
Evaluate = Callable[[int, Sequence[int], Tree | CohortVariables], Sequence[dict[str, float]]]


class Member:
  """One run, by itself or in a cohort: what it learns from, where it writes, and the book of what it came to so far."""

  def __init__(self, label: str, batch_of: Callable[[int], dict[str, np.ndarray]] | None, learning_rate: float,
               share: Callable[[int], float], checkpoints: Checkpoints, log: MetricsLog):
    """
    Args:
      label: what the run is called where something is said of it.
      batch_of: step number -> batch (see `data.batches.TrainingBatches`); None where there are no steps.
      learning_rate: the schedule's peak, only to be told.
      share: step number -> the share of the peak there, only to be told.
      checkpoints: of its best step.
      log: of its metrics.
    """
    self.label, self.batch_of, self.learning_rate, self.share = label, batch_of, learning_rate, share
    self.checkpoints, self.log = checkpoints, log
    self.error: InputError | None = None            # why it ended before its time; the others go on

  def write(self, rows: list[dict[str, float]]) -> None:
    """Adds lines to the book, up to one whose loss is not finite, which ends the run."""
    finite = lambda row: math.isfinite(row['train/loss']) and math.isfinite(row.get('valid/loss', 0.0))
    whole = list(itertools.takewhile(finite, rows))
    if whole:
      self.log.write(whole)
    if len(whole) < len(rows):
      self.diverged()

  def diverged(self, what: str = '') -> None:
    """After the last step of the book.

    Args:
      what: was not finite; empty: the loss of the next step.
    """
    what = what or f'the loss of step {self.steps_done + 1}, in training or validation,'
    why = (f'; lower training.learning_rate (now {self.learning_rate:g})' if self.steps_done else
           ': before any update, so no learning rate is to blame; look at the rows of the first batch and at model.dtype')
    self.error = Diverged(f'{self.label}: training diverged: {what} is not finite{why}')

  @property
  def steps_done(self) -> int:
    """Steps in the book."""
    return self.log.history[-1]['step'] if self.log.history else 0


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


class Trace:
  """A trace of the five steps after step `after` (or fewer, where the run ends) in JAX's format; none without a folder."""

  def __init__(self, folder: Path | None, after: int):
    self._folder, self._after, self._on = folder if processes.is_primary() else None, after, False

  def borders(self, step: int) -> bool:
    """Whether the trace begins or ends after this step, which must have come to its end before `after` is told."""
    return self._folder is not None and step in (self._after, self._after + 5)

  def after(self, step: int) -> None:
    if self._folder is not None and step == self._after:
      jax.profiler.start_trace(str(self._folder))
      self._on = True
    elif step == self._after + 5:
      self.close()

  def close(self) -> None:
    if self._on:
      jax.profiler.stop_trace()
      self._on = False


def _exhausted(evaluations: list[tuple[float, int]], patience: int) -> bool:
  """Whether the last `patience` evaluations all failed to be better than all before."""
  costs = [cost for cost, _ in evaluations]
  return bool(patience) and len(costs) > patience and min(costs[-patience:]) >= min(costs[:-patience])
