"""The step: state goes in and comes out, and it reads nothing else."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from research import tree
from research.data.batch import Batch
from research.models.functions import Model
from research.training import losses
from research.training.objective import CROSS_ENTROPY, Objective
from research.tree import Tree

Array = jax.Array
Metrics = dict[str, Array]


class TrainState(NamedTuple):
  """All that a step changes, and so all that a checkpoint holds."""
  step: Array            # [] int32, steps taken
  key: Array             # the run's randomness; a step's own is folded from it
  trainable: Tree        # float32
  opt_state: Any


def train_step(state: TrainState, frozen: Tree, batch: Batch, *, model: Model, tx: optax.GradientTransformation,
               objective: Objective = CROSS_ENTROPY) -> tuple[TrainState, Metrics]:
  """One update from one batch.

  Args:
    state: before the step; it is not changed.
    frozen: what does not learn. The loss closes over it, so no gradient of it exists.
    batch: what the objective reads; every array has a leading axis of microbatches, [M, B, …]. Their gradients are added up
      and divided once by the objective's count, so M changes memory and nothing else (but which activations dropout draws).
    model: whose loss is lowered.
    tx: the optimiser (see `optim.make`).
    objective: the loss.
  Returns:
    The new state and {loss: by the objective's count, tokens, grad_norm: before clipping, and the objective's other sums by its
    count}.
  """
  key = jax.random.fold_in(state.key, state.step)

  def loss_sum(trainable: Tree, batch: Batch, key: Array) -> tuple[Array, Metrics]:
    return objective(model, tree.join(frozen, trainable), batch, key)

  grads, sums = accumulate(loss_sum, state.trainable, batch, key, objective.sums)
  count = sums[objective.count]
  grads = jax.tree.map(lambda g: g / count, grads)
  updates, opt_state = tx.update(grads, state.opt_state, state.trainable)
  trainable = optax.apply_updates(state.trainable, updates)
  metrics = {**{name: x / count for name, x in sums.items() if name != objective.count}, 'tokens': sums['tokens'],
             'grad_norm': optax.tree.norm(grads)}
  return TrainState(state.step + 1, state.key, trainable, opt_state), metrics


def accumulate(loss_sum: Callable[..., tuple[Array, Metrics]], trainable: Tree, batch: Batch, key: Array,
               sums: tuple[str, ...] = CROSS_ENTROPY.sums) -> tuple[Tree, Metrics]:
  """Gradients and sums of a loss added up over the batch's leading axis, one microbatch alive at a time.

  Args:
    loss_sum: (trainable, microbatch [B, …], key) -> (summed loss [], its sums [] by name).
    trainable: what the gradient is by.
    batch: every array [M, B, …].
    key: of shape []; each microbatch's is folded from it.
    sums: the names of the loss's sums.
  Returns:
    The gradients, a tree like `trainable`, and the sums, each [].
  """
  gradient = jax.grad(loss_sum, has_aux=True)
  count = batch.tokens.shape[0]
  if count == 1:
    return gradient(trainable, jax.tree.map(lambda x: x[0], batch), jax.random.fold_in(key, 0))

  def add(total: Any, numbered: tuple[Array, Batch]) -> tuple[Any, None]:
    number, microbatch = numbered
    part = gradient(trainable, microbatch, jax.random.fold_in(key, number))
    return jax.tree.map(jnp.add, total, part), None

  zero = {n: jnp.zeros(()) for n in sums}
  total, _ = jax.lax.scan(add, (jax.tree.map(jnp.zeros_like, trainable), zero), (jnp.arange(count), batch))
  return total


def eval_step(variables: Tree, batch: Batch, *, model: Model) -> Array:
  """The loss of every target of a batch [B, T], in nats, without dropout.

  Args:
    variables: the model's, deltas among them.
    batch: as for `losses.target_losses`.
    model: whose losses are meant.
  """
  return losses.target_losses(model, variables, batch)


def hit_step(variables: Tree, batch: Batch, *, model: Model) -> Array:
  """`losses.target_losses_and_hits` of a batch, of shape [2, B, T].

  Args:
    variables: the model's, deltas among them.
    batch: as for `losses.target_losses`.
    model: whose losses are meant.
  """
  return losses.target_losses_and_hits(model, variables, batch)
