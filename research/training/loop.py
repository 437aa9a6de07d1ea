"""The loop around the step: batches in, metrics and checkpoints out, and it goes on where it was stopped."""

import math
import signal
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import optax

from research import tree
from research.errors import InputError
from research.models.transformer import Model
from research.training import compile as compilation
from research.training.checkpoint import Checkpoints
from research.training.monitor import Monitor, ProgressLine, say
from research.training.optim import shape
from research.training.steps import TrainState, train_step
from research.tree import Tree


class Stopped(BaseException):
  """A signal asked the process to end; `signum` is its number."""

  def __init__(self, signum: int):
    super().__init__(signum)
    self.signum = signum


class Interrupts:
  """While in use, Ctrl-C and SIGTERM wait for `check`: never in the middle of a step whose state was donated."""

  def __enter__(self):
    self._asked: int | None = None
    self._before = {s: signal.signal(s, self._ask) for s in (signal.SIGINT, signal.SIGTERM)}
    return self

  def _ask(self, signum, frame):
    if self._asked:                                 # asked twice: a compilation can take long
      raise Stopped(signum)
    self._asked = signum

  @property
  def asked(self) -> int | None:
    return self._asked

  def __exit__(self, *exception):
    for signum, handler in self._before.items():
      signal.signal(signum, handler)


class Cost(NamedTuple):
  """What a run's training took: tokens, FLOPs and steps over all its restarts, the rest as far as its lines tell."""
  train_tokens: int = 0             # targets
  train_flops: float = 0.0          # of matrix products
  train_seconds: float = 0.0        # in steps
  input_seconds: float = 0.0        # of train_seconds: waiting for a batch
  evaluation_seconds: float = 0.0   # between steps; not the last one's, of the step that is kept
  checkpoint_seconds: float = 0.0   # that the run waited for; the rest is written beside it
  compile_seconds: float = 0.0      # of the training step, in this process
  peak_bytes: int = 0               # arguments, results and temporaries of the step


class Outcome(NamedTuple):
  """What a run came to."""
  best_step: int                    # where validation was best; the last step where there is no validation
  steps: int                        # taken; fewer than planned where it was stopped early
  trainable: Tree                   # as they were at best_step
  cost: Cost


def train(model: Model, state: TrainState, frozen: Tree, tx: optax.GradientTransformation,
          batch_of: Callable[[int], dict[str, np.ndarray]], evaluate: Callable[[int, Tree], dict[str, float]] | None, *,
          label: str, steps: int, eval_every: int, checkpoint_every: int, log_every: int, best_metric: str,
          higher_is_better: bool, patience: int, label_smoothing: float, schedule: str, warmup: int, learning_rate: float,
          checkpoints: Checkpoints, monitor: Monitor, profile: Path | None = None) -> Outcome:
  """Trains to the end, from wherever `checkpoints` has got to.

  Args:
    batch_of: step number -> batch (see `data.batches.TrainingBatches`).
    evaluate: (step, variables) -> validation metrics, `valid/loss` among them; None where there is no validation split.
    eval_every: steps between evaluations; one more comes at the end. checkpoint_every: steps between checkpoints to go
      on from, or 0 for none. log_every: steps between looks at the device.
    best_metric, higher_is_better: what `evaluate` gives that says which step is best; of equal ones the first is.
    patience: evaluations without a new best one before the run ends early, or 0 for no early end.
    schedule, warmup, learning_rate: only to log the rate of each step.
    profile: where a trace of some steps is written, for TensorBoard; None: nowhere.
  Raises:
    Stopped: a signal came; everything up to the last whole step is saved.
  """
  restored = checkpoints.restore_latest(state)
  state = state if restored is None else restored
  step = int(state.step)
  monitor.start(None if restored is None else step)
  if restored is not None:
    say(f'{label}: goes on after step {step}')
  rate = shape(schedule, warmup, steps)
  waiting: list[tuple[int, dict]] = []              # steps whose metrics are still on the device
  spent: Counter[str] = Counter()                   # seconds on what, since the last line was written
  compiled_before = compilation.seconds_spent()

  @contextmanager
  def timed(what: str):
    began = time.perf_counter()
    yield
    spent[f'{what}_seconds'] += time.perf_counter() - began

  def flush(extra: dict[str, float]) -> None:
    """Writes the lines of the waiting steps, which share what they took; `extra` goes to the last one's."""
    fetched = jax.device_get([metrics for _, metrics in waiting])
    seconds = spent.pop('step_seconds') / len(waiting)
    rows = [{'step': s, 'train/loss': float(m['loss']), 'train/tokens': int(m['tokens']),
             'grad_norm': float(m['grad_norm']), 'learning_rate': learning_rate * float(rate(s - 1)),
             'tokens_per_second': float(m['tokens']) / seconds, 'seconds': seconds}
            for (s, _), m in zip(waiting, fetched)]
    broken = [r['step'] for r in rows if not math.isfinite(r['train/loss'])]
    if broken:
      raise InputError(f'{label}: training diverged: the loss of step {broken[0]} is not finite; lower '
                       f'training.learning_rate (now {learning_rate:g})')
    progress.update(rows[-1]['step'], f'loss {np.mean([r["train/loss"] for r in rows]):.4f}  '
                                      f'{rows[-1]["tokens_per_second"]:,.0f} target tok/s')
    waiting.clear()
    rows[-1] |= extra | spent
    spent.clear()
    if not math.isfinite(extra.get('valid/loss', 0.0)):
      raise InputError(f'{label}: training diverged: the validation loss of step {rows[-1]["step"]} is not finite; lower '
                       f'training.learning_rate (now {learning_rate:g})')
    monitor.write(rows)

  def evaluations() -> list[tuple[float, int]]:
    """(cost, step) of each so far: the least is the best."""
    sign = -1 if higher_is_better else 1
    return [(sign * r[best_metric], r['step']) for r in monitor.history if best_metric in r]

  def executable_for(batch) -> compilation.Executable:
    return compilation.compiled(train_step, state, frozen, batch, donate=(0,), model=model, tx=tx,
                                label_smoothing=label_smoothing)

  progress = ProgressLine(label, steps, step)
  trace = Trace(profile, after=step + 1)                    # the step that compiles is not in it
  try:
    with Interrupts() as interrupts, ThreadPoolExecutor(1, 'input') as input_thread:
      ahead = lambda step: input_thread.submit(lambda: jax.device_put(batch_of(step))) if step < steps else None
      coming = ahead(step)
      ended = step >= steps or _exhausted(evaluations(), patience)
      while not ended:
        with timed('step'), timed('input'):
          batch = coming.result()
        coming = ahead(step + 1)                            # made while the device is busy
        executable = executable_for(batch)
        with timed('step'):
          state, metrics = executable(state, frozen, batch)
          step += 1
          waiting.append((step, metrics))
          asked, last = interrupts.asked, step == steps
          at_evaluation = evaluate is not None and (step % eval_every == 0 or last)
          at_checkpoint = bool(checkpoint_every) and (step % checkpoint_every == 0 or last)
          look = at_evaluation or at_checkpoint or asked or last or step % log_every == 0
          if look or trace.borders(step):
            jax.block_until_ready(metrics)
        trace.after(step)
        if look:
          found = {}
          if at_evaluation:
            with timed('evaluation'):
              found = evaluate(step, tree.join(state.trainable, frozen))
          flush(found)
          with timed('checkpoint'):
            if at_evaluation and min(evaluations())[1] == step:
              checkpoints.save_best(step, state.trainable)
            if at_checkpoint or asked:
              checkpoints.save_latest(state)
          ended = last or _exhausted(evaluations(), patience)
        if asked:
          raise Stopped(asked)
      if evaluate is None and step:
        with timed('checkpoint'):
          checkpoints.save_best(step, state.trainable)
      if interrupts.asked:                                  # during the last evaluation
        checkpoints.save_latest(state)
        raise Stopped(interrupts.asked)
  finally:
    progress.close()
    with timed('checkpoint'):
      checkpoints.wait()
    trace.close()
  total = lambda name: sum(r.get(name, 0) for r in monitor.history) + spent[name]
  cost = Cost(train_tokens=total('train/tokens'), train_seconds=total('seconds'), input_seconds=total('input_seconds'),
              evaluation_seconds=total('evaluation_seconds'), checkpoint_seconds=total('checkpoint_seconds'),
              compile_seconds=compilation.seconds_spent() - compiled_before)
  if step:
    executable = executable_for(batch_of(0))
    cost = cost._replace(train_flops=executable.flops * step, peak_bytes=executable.peak_bytes)
  found = evaluations()
  best = min(found)[1] if found else step
  if checkpoints.step('best') not in (None, best):        # only where a step run twice gives two results
    raise RuntimeError(f'{label}: the best checkpoint is of step {checkpoints.step("best")}, but metrics.jsonl says {best}: '
                       'this device does not repeat its results; train again in another workdir')
  trainable = state.trainable if best == step else checkpoints.restore_best(state.trainable)
  return Outcome(best, step, trainable, cost)


class Trace:
  """A trace of the five steps after step `after` (or fewer, where the run ends) in JAX's format; none without a folder."""

  def __init__(self, folder: Path | None, after: int):
    self._folder, self._after, self._on = folder, after, False

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
