"""How many runs are trained fastest as one program, found out by training a few steps both ways."""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from research.data.batch import Batch
from research.distributed import placement
from research.programs.compile import Executable, compiled
from research.programs.members import CohortVariables
from research.training.cohort import shard_batches, stack_states, step_for
from research.training.steps import TrainState
from research.tree import Tree


class Trial(NamedTuple):
  """What was found about training runs side by side."""
  size: int              # how many to train as one program
  alone: float = 0.0     # seconds of a step of one run
  together: float = 0.0  # seconds of a step of all `tried`
  tried: int = 1


ROUNDS = 3      # of a trial, the first of which does not count
CLEARLY = 0.9   # a cohort must be faster than its members by more than timings differ between two minutes
SHARE = 0.05    # of all steps, what a trial may take at most


def trial_pays(count: int, steps: int) -> bool:
  """Whether `count` runs of so many steps are long enough for a trial, which takes about a step of each in every round."""
  return ROUNDS * (1 + count) <= SHARE * count * steps


class TimedStep(NamedTuple):
  """Runs at one of their steps, alone or as one program."""
  state: TrainState
  frozen: Tree | CohortVariables
  batch: Batch
  step: Executable

  def advance(self) -> 'TimedStep':
    """After one step, which has ended."""
    state, metrics = self.step(self.state, self.frozen, self.batch)
    jax.block_until_ready(metrics)
    return self._replace(state=state)


def timed_step(begun: Sequence[tuple[TrainState, Tree]], batches: Sequence[Batch], **static: Any) -> TimedStep:
  """Runs before their first step.

  Args:
    begun: (state, what does not learn) of each.
    batches: the first one of each, every array [M, B, …].
    static: keyword arguments of the step.
  """
  state, frozen = stack_states([state for state, _ in begun], [one for _, one in begun])
  given = shard_batches(batches)
  return TimedStep(state, frozen, given, compiled(step_for(frozen), state, frozen, given, donate=(0,), **static))


def tune_cohort_size(side: Callable[[int], TimedStep], most: int, memory: int) -> Trial:
  """How many runs to train as one program: as many as fit in memory, where that is clearly faster than one after the other.

  Args:
    side: how many -> so many of the runs, before their first step.
    most: runs that there are.
    memory: bytes that a device has.
  """
  def timed(side: TimedStep) -> tuple[TimedStep, float]:
    began = time.perf_counter()
    side = side.advance()
    return side, time.perf_counter() - began

  alone = side(1)
  state = alone.state.step, alone.state.trainable, alone.state.opt_state
  of_each = max(alone.step.peak_bytes - placement.bytes_per_device(alone.frozen),   # the base is there once
                2 * placement.bytes_per_device(state))                              # each state, and its place in the stack
  count = min(most, 1 + max(0, memory - alone.step.peak_bytes) // max(1, of_each))
  if count == 1:
    return Trial(1)
  all_of_them = side(count)
  times = []
  for _ in range(ROUNDS):                                           # by turns
    alone, one = timed(alone)
    all_of_them, many = timed(all_of_them)
    times.append((one, many))
  one, many = (min(of_side) for of_side in zip(*times[1:]))
  return Trial(count if many < CLEARLY * count * one else 1, one, many, count)
