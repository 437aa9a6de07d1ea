"""Several runs as one program: the same step, mapped over members that differ in nothing but arrays.

Members have a seed, a learning rate, a warm-up and a weight decay of their own, and what follows from them: initial values,
order of the data, dropout and its rate. What does not learn is one array for all wherever it is the same in all: the base is
there once, and a product with it reads it once for all members. On a mesh, members lie on an axis of their own. A cohort of one
is the run itself: nothing is stacked; its step is `steps.train_step`.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from research import sharding, tree
from research.models.transformer import Batch, Model
from research.training import steps
from research.training.compile import Executable, compiled
from research.training.steps import Metrics, TrainState
from research.tree import Tree


class CohortVariables(NamedTuple):
  """Variables of several members: two trees of one shape, None where the leaf is in the other one."""
  shared: Tree     # the same for all
  own: Tree        # with a leading axis of members


def stack_states(states: Sequence[TrainState], frozen: Sequence[Tree]) -> tuple[TrainState, Tree | CohortVariables]:
  """The members' states on a leading axis, and what does not learn in any of them, where they shall lie on the mesh in use."""
  state, stays, members = _stacked(states), split_shared(frozen), len(states)
  if members == 1:
    return sharding.shard((state, stays))
  own = sharding.shard(stays.own, members=members)
  return sharding.shard(state, members=members), CohortVariables(sharding.shard(stays.shared), own)


def split_shared(frozen: Sequence[Tree]) -> Tree | CohortVariables:
  """Trees of one shape, one of each member; what is the same in all is there once."""
  if len(frozen) == 1:
    return frozen[0]
  alike = [all(other is first or bool(jnp.array_equal(other, first)) for other in others)
           for first, *others in zip(*map(jax.tree.leaves, frozen), strict=True)]
  structure = jax.tree.structure(frozen[0])
  shared = [first if same else None for first, same in zip(jax.tree.leaves(frozen[0]), alike)]
  own = [jax.tree.unflatten(structure, [None if same else x for x, same in zip(jax.tree.leaves(one), alike)])
         for one in frozen]
  return CohortVariables(jax.tree.unflatten(structure, shared), _stacked(own))


def _stacked(trees: Sequence[Tree]) -> Tree:
  """The trees' leaves on a leading axis; of a single tree, itself."""
  return trees[0] if len(trees) == 1 else _stack(trees)


@jax.jit
def _stack(trees: Sequence[Tree]) -> Tree:
  return jax.tree.map(lambda *xs: jnp.stack(xs), *trees)


@jax.jit
def _taken(x: Tree, number: int) -> Tree:
  return jax.tree.map(lambda leaf: leaf[number], x)


def num_members(variables: Tree | CohortVariables) -> int:
  """How many members there are; a run is its only one."""
  return len(jax.tree.leaves(variables.own)[0]) if isinstance(variables, CohortVariables) else 1


def vmap_members(variables: Tree | CohortVariables, function: Callable[..., Any], *mapped: Any, axes: Any = 0) -> Any:
  """`function(variables, *mapped)` of a run, or of every member of a cohort.

  Args:
    variables: of the run, or of all members.
    function: gives a tree of arrays.
    mapped: trees that each member has its own of, with the members' axis where `axes` says it is.
    axes: of the results, as `out_axes` of `jax.vmap`: one for each, or one for all.
  """
  if not isinstance(variables, CohortVariables):
    return function(variables, *mapped)
  of_mapped = axes if isinstance(axes, tuple) else (axes,) * len(mapped)
  return jax.vmap(lambda own, *mapped: function(tree.join(variables.shared, own), *mapped), (0, *of_mapped[:len(mapped)]), axes,
                  spmd_axis_name=sharding.member_axis(num_members(variables)))(variables.own, *mapped)


def train_step(state: TrainState, frozen: CohortVariables, batch: Batch, **static: Any) -> tuple[TrainState, Metrics]:
  """`steps.train_step` for every member: each array of state, batch and metrics has a leading axis of members.

  Args:
    state: of all members.
    frozen: what is frozen in all of them.
    batch: of all members, as `shard_batches` gives it: every array is [members, M, B, …].
    static: `model`, `tx` and `label_smoothing`, the same for all.
  Returns:
    The new state and the metrics, each [members].
  """
  def one(state, own, batch):
    return steps.train_step(state, tree.join(frozen.shared, own), batch, **static)
  return jax.vmap(one, spmd_axis_name=sharding.member_axis(len(state.step)))(state, frozen.own, batch)


def eval_step(variables: Tree | CohortVariables, batch: Batch, *, model: Model) -> jax.Array:
  """`steps.eval_step` of a run, or for every member: all read the same batch.

  Args:
    variables: of the run, or of all members.
    batch: as for `losses.target_losses`.
    model: the one model of all.
  Returns:
    The loss of every target [B, T], in nats; of several members [members, B, T].
  """
  return vmap_members(variables, lambda select_member: steps.eval_step(select_member, batch, model=model))


def step_for(frozen: Tree | CohortVariables) -> Callable[..., tuple[TrainState, Metrics]]:
  """The step of a run, or of a cohort."""
  return train_step if isinstance(frozen, CohortVariables) else steps.train_step


def member(number: int, x: Tree, frozen: Tree | CohortVariables) -> Tree:
  """What one member has of a cohort's arrays; of a run's, all.

  Args:
    number: the member's, from 0.
    x: a tree of arrays, of a cohort with a leading axis of members.
    frozen: what is frozen, which tells a cohort from a run.
  """
  return _taken(x, number) if isinstance(frozen, CohortVariables) else x


def variables(trainable: Tree, frozen: Tree | CohortVariables) -> Tree | CohortVariables:
  """The variables of a run, or of all members."""
  if not isinstance(frozen, CohortVariables):
    return tree.join(trainable, frozen)
  return CohortVariables(frozen.shared, tree.join(trainable, frozen.own))


def stack_variables(trainable: Sequence[Tree], frozen: Sequence[Tree]) -> Tree | CohortVariables:
  """The variables of all, from what each has learned and what does not learn in it."""
  return variables(_stacked(trainable), split_shared(frozen))


def select_member(number: int, variables: Tree | CohortVariables) -> Tree:
  """The variables of member `number`."""
  if not isinstance(variables, CohortVariables):
    return variables
  return tree.join(variables.shared, _taken(variables.own, number))


def stack_batches(members: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
  """The members' batches on a leading axis, filled up with padding to one shape."""
  if len(members) == 1:
    return members[0]

  def stacked(arrays):
    shape = np.max([x.shape for x in arrays], axis=0)
    return np.stack([np.pad(x, [(0, most - has) for most, has in zip(shape, x.shape)]) for x in arrays])
  return {field: stacked([select_member[field] for select_member in members]) for field in members[0]}


def shard_batches(members: Sequence[dict[str, np.ndarray]]) -> dict[str, jax.Array]:
  """The batch of a run, every array [M, B, …], or of all members [members, M, B, …], on its devices."""
  return sharding.shard_batch(stack_batches(members), axis=1 if len(members) == 1 else 2, members=len(members))


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
  batch: dict[str, jax.Array]
  step: Executable

  def advance(self) -> 'TimedStep':
    """After one step, which has ended."""
    state, metrics = self.step(self.state, self.frozen, self.batch)
    jax.block_until_ready(metrics)
    return self._replace(state=state)


def timed_step(begun: Sequence[tuple[TrainState, Tree]], batches: Sequence[dict[str, np.ndarray]], **static: Any) -> TimedStep:
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
  of_each = max(alone.step.peak_bytes - sharding.bytes_per_device(alone.frozen),   # the base is there once
                2 * sharding.bytes_per_device(state))                              # each state, and its place in the stack
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
