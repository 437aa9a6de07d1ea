"""What a run has come to so far, and what it has cost."""

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

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


class TrainResult(NamedTuple):
  """What a run came to."""
  best_step: int                    # where validation was best; the last step where there is no validation
  steps: int                        # taken; fewer than planned where it was stopped early
  trainable: Tree                   # as they were at best_step
  cost: Cost


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
