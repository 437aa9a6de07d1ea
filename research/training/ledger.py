"""What a run has come to so far, and what it has cost."""

import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import jax
import numpy as np

from research.data.batch import Batch
from research.distributed import processes
from research.errors import Diverged, InputError
from research.training.checkpoint import Checkpoints
from research.training.metrics_log import MetricsLog
from research.tree import Tree


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


class Schedule(NamedTuple):
  """When a run is validated, saved, and ended."""
  steps: int                   # of the whole run, those before a resumption among them
  eval_every: int              # steps between evaluations; one more comes at the end
  checkpoint_every: int        # steps between checkpoints to resume from; 0: none
  log_every: int               # steps between host syncs, at which lines are written
  patience: int                # evaluations without a new best one before a run ends early; 0: no early end
  best_metric: str             # of validation, that says which step is best; of equal ones the first is
  higher_is_better: bool       # of best_metric


class TrainResult(NamedTuple):
  """What a run came to."""
  best_step: int                    # where validation was best; the last step where there is no validation
  steps: int                        # taken; fewer than planned where it was stopped early
  trainable: Tree                   # as they were at best_step
  cost: Cost


class Member:
  """One run, by itself or in a cohort: what it learns from, where it writes, and the book of what it came to so far."""

  def __init__(self, label: str, batch_of: Callable[[int], Batch] | None, learning_rate: float,
               lr_fraction: Callable[[int], float], checkpoints: Checkpoints, log: MetricsLog):
    """
    Args:
      label: what the run is called where something is said of it.
      batch_of: step number -> batch (see `data.batches.TrainingBatches`); None where there are no steps.
      learning_rate: the schedule's peak, only to be told.
      lr_fraction: step number -> the share of the peak there, only to be told.
      checkpoints: of its best step.
      log: of its metrics.
    """
    self.label, self.batch_of, self.learning_rate, self.lr_fraction = label, batch_of, learning_rate, lr_fraction
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


class Ledger:
  """The books of a run, or of the members of a cohort: the lines of their steps, and the time that is spent between two lines.

  Of the time that a cohort takes each member is told its share.
  """

  def __init__(self, members: Sequence[Member], schedule: Schedule):
    self._members, self._schedule = members, schedule
    self._waiting: list[tuple[int, dict[str, jax.Array]]] = []      # steps whose metrics are still on the device
    self._spent: dict[str, float] = {}                              # seconds on what, since the last line was written

  def start(self, step: int | None) -> None:
    """Goes on after `step`, or begins (None); of a cohort, a member whose book ends before that has diverged there."""
    for m in self._members:
      m.log.start(step, to_the_end=len(self._members) == 1)
    for number, m in enumerate(self._members):
      if len(self._members) > 1 and m.steps_done < (step or 0) and not self._exhausted(number):
        m.diverged()                                                # what a cohort's books lack was not finite

  @contextmanager
  def timed(self, what: str) -> Iterator[None]:
    """Counts the time of a block as spent on `what`."""
    began = time.perf_counter()
    yield
    name = f'{what}_seconds'
    self._spent[name] = self._spent.get(name, 0) + (time.perf_counter() - began) / len(self._members)

  def note(self, step: int, metrics: dict[str, jax.Array]) -> None:
    """A step that was taken: its metrics, of shape [] or [members], are read when lines are written."""
    self._waiting.append((step, metrics))

  def write(self, found: dict[int, dict[str, float]]) -> str:
    """Writes the lines of the steps since the last time, which share what they took.

    Args:
      found: a member's number -> what validation found after the last of them.
    Returns:
      Loss and speed, for the progress line.
    """
    fetched = [(s, {name: processes.to_host(x).reshape(-1) for name, x in metrics.items()}) for s, metrics in self._waiting]
    seconds = self._spent.pop('step_seconds') / len(self._waiting)
    self._waiting.clear()
    for number, m in enumerate(self._members):
      rows = [{'step': s, **{name if name == 'grad_norm' else f'train/{name}': float(x[number]) for name, x in of_step.items()},
               'train/tokens': int(of_step['tokens'][number]), 'learning_rate': m.learning_rate * m.lr_fraction(s - 1),
               'tokens_per_second': float(of_step['tokens'][number]) / seconds, 'seconds': seconds} for s, of_step in fetched]
      rows[-1] |= found.get(number, {}) | self._spent
      if not self.has_ended(number):
        m.write(rows)
    self._spent.clear()
    whole = [number for number, m in enumerate(self._members) if not m.error]
    loss = np.mean([x['loss'][whole] for _, x in fetched]) if whole else math.nan
    return f'loss {loss:.4f}  {np.mean([x["tokens"] for _, x in fetched]) / seconds:,.0f} target tok/s'

  def evaluations(self, number: int) -> list[tuple[float, int]]:
    """(cost, step) of each of a member's evaluations so far: the least is the best."""
    sign, metric = -1 if self._schedule.higher_is_better else 1, self._schedule.best_metric
    return [(sign * r[metric], r['step']) for r in self._members[number].log.history if metric in r]

  def best_step(self, number: int) -> int:
    """A member's best step so far; its last one where there is no validation."""
    found = self.evaluations(number)
    return min(found)[1] if found else self._members[number].steps_done

  def _exhausted(self, number: int) -> bool:
    """Whether the last `patience` evaluations all failed to be better than all before."""
    costs, patience = [cost for cost, _ in self.evaluations(number)], self._schedule.patience
    return bool(patience) and len(costs) > patience and min(costs[-patience:]) >= min(costs[:-patience])

  def has_ended(self, number: int) -> bool:
    """Whether a member takes no more steps."""
    m = self._members[number]
    return m.error is not None or m.steps_done >= self._schedule.steps or self._exhausted(number)

  def going(self) -> list[int]:
    """The numbers of the members that have not ended."""
    return [number for number in range(len(self._members)) if not self.has_ended(number)]

  def cost(self, number: int, compile_seconds: float, flops: float, peak_bytes: int) -> Cost:
    """What a member's training took.

    Args:
      number: the member's.
      compile_seconds: of the step, of all members.
      flops: of a step, of all members.
      peak_bytes: of the step, that a member counts for.
    """
    m, members = self._members[number], len(self._members)
    total = lambda name: sum(r.get(name, 0) for r in m.log.history) + self._spent.get(name, 0)
    return Cost(train_tokens=total('train/tokens'), train_seconds=total('seconds'), input_seconds=total('input_seconds'),
                evaluation_seconds=total('evaluation_seconds'), checkpoint_seconds=total('checkpoint_seconds'),
                compile_seconds=compile_seconds / members, cohort_size=members, train_flops=flops / members * m.steps_done,
                peak_bytes=peak_bytes)
