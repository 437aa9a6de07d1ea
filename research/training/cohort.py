"""Several runs as one program: the same step, mapped over members that differ in nothing but arrays.

Members have a seed, a learning rate, a warm-up and a weight decay of their own, and what follows from them: initial values,
order of the data, dropout and its rate. What does not learn is one array for all wherever it is the same in all: the base is
there once, and a product with it reads it once for all members. On a mesh, members lie on an axis of their own. A cohort of one
is the run itself: nothing is stacked; its step is `steps.train_step`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from research import tree
from research.data.batch import Batch
from research.distributed import mesh, placement
from research.models.functions import Model
from research.programs.members import CohortVariables, split_shared, stack_trees, vmap_members
from research.training import steps
from research.training.steps import Metrics, TrainState
from research.tree import Tree


def stack_states(states: Sequence[TrainState], frozen: Sequence[Tree]) -> tuple[TrainState, Tree | CohortVariables]:
  """The members' states on a leading axis, and what does not learn in any of them, sharded over the mesh in use."""
  state, stays, members = stack_trees(states), split_shared(frozen), len(states)
  if members == 1:
    return placement.shard((state, stays))
  own = placement.shard(stays.own, members=members)
  return placement.shard(state, members=members), CohortVariables(placement.shard(stays.shared), own)


def train_step(state: TrainState, frozen: CohortVariables, batch: Batch, **static: Any) -> tuple[TrainState, Metrics]:
  """`steps.train_step` for every member: each array of state, batch and metrics has a leading axis of members.

  Args:
    state: of all members.
    frozen: what is frozen in all of them.
    batch: of all members, as `shard_batches` gives it: every array is [members, M, B, …].
    static: `model`, `tx` and `objective`, the same for all.
  Returns:
    The new state and the metrics, each [members].
  """
  def one(state: TrainState, own: Tree, batch: Batch) -> tuple[TrainState, Metrics]:
    return steps.train_step(state, tree.join(frozen.shared, own), batch, **static)
  return jax.vmap(one, spmd_axis_name=mesh.member_axis(len(state.step)))(state, frozen.own, batch)


def eval_step(variables: Tree | CohortVariables, batch: Batch, *, model: Model) -> jax.Array:
  """`steps.eval_step` of a run, or for every member: all read the same batch.

  Args:
    variables: of the run, or of all members.
    batch: as for `losses.target_losses`.
    model: the one model of all.
  Returns:
    The loss of every target [B, T], in nats; of several members [members, B, T].
  """
  return vmap_members(variables, lambda member: steps.eval_step(member, batch, model=model))


def step_for(frozen: Tree | CohortVariables) -> Callable[..., tuple[TrainState, Metrics]]:
  """The step of a run, or of a cohort."""
  return train_step if isinstance(frozen, CohortVariables) else steps.train_step


def stack_batches(members: Sequence[Batch]) -> Batch:
  """The members' batches on a leading axis, filled up with padding to one shape."""
  if len(members) == 1:
    return members[0]

  def stacked(*arrays: np.ndarray) -> np.ndarray:
    shape = np.max([x.shape for x in arrays], axis=0)
    return np.stack([np.pad(x, [(0, most - has) for most, has in zip(shape, x.shape)]) for x in arrays])
  return jax.tree.map(stacked, *members)


def shard_batches(members: Sequence[Batch]) -> Batch:
  """The batch of a run, every array [M, B, …], or of all members [members, M, B, …], on its devices."""
  return placement.shard_batch(stack_batches(members), axis=1 if len(members) == 1 else 2, members=len(members))
