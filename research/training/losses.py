"""Cross-entropy over target positions: the only ones that meet the head, a chunk of them at a time.

While a chunk's logits are alive its gradient is made as well, on the way forward. So the head's products are not computed a
second time in the backward pass, and no more than one chunk of logits ever exists.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from research.data.batch import Batch
from research.distributed import device, mesh
from research.models.functions import Model
from research.models.products import is_primal
from research.tree import Tree

Array = jax.Array


def _target_hidden(model: Model, variables: Tree, batch: Batch, key: Array | None = None) -> Array:
  """[B, T, D]: what the head reads to predict each target."""
  hidden = model.hidden(variables, batch, key)
  return jnp.take_along_axis(hidden, batch.index[..., None], axis=1)


def _head(model: Model, variables: Tree) -> Tree:
  """Of the variables, those that the head may read."""
  name = 'embed' if model.config.tied else 'head'
  return {collection: {name: tree[name]} for collection, tree in variables.items() if name in tree}


def _chunks(x: Array) -> Array:
  """[B, T, …] -> [chunks, B, C, …], the last one filled up with 0; of each line some, wherever the lines are."""
  B, T = x.shape[:2]
  chunks = min(T, -(-B * T // (device.targets_at_once() * mesh.batch_shards())))
  x = jnp.pad(x, ((0, 0), (0, -T % chunks), *[(0, 0)] * (x.ndim - 2)))
  return jnp.moveaxis(x.reshape(B, chunks, -1, *x.shape[2:]), 1, 0)


def _whole(x: Array, like: Array) -> Array:
  """The inverse of `_chunks`: [chunks, B, C, …] -> [B, T, …], with the first two axes of `like`."""
  B, T = like.shape[:2]
  return jnp.moveaxis(x, 0, 1).reshape(B, -1, *x.shape[3:])[:, :T]


def _losses(model: Model, label_smoothing: float, head: Tree, wanted: Array, targets: Array) -> Array:
  """[B, C] float32, in nats, of one chunk: wanted [B, C, D], targets [B, C]."""
  logits = model.logits(head, wanted)                                           # [B, C, V]
  normaliser = jax.nn.logsumexp(logits, axis=-1)
  loss = normaliser - jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
  if label_smoothing:
    loss = (1 - label_smoothing) * loss + label_smoothing * (normaliser - logits.mean(axis=-1))
  return loss


def target_logits(model: Model, variables: Tree, batch: Batch) -> Array:
  """[B, T, V] float32: the logits of every target, all at one time.

  Args:
    model: whose logits are meant.
    variables: the model's, deltas among them.
    batch: as for `target_losses`.
  """
  return model.logits(variables, _target_hidden(model, variables, batch))


def target_losses(model: Model, variables: Tree, batch: Batch, key: Array | None = None, label_smoothing: float = 0.0) -> Array:
  """The loss of every target; its gradient computes the logits of a chunk once more in place of keeping them.

  Args:
    model: whose losses are meant.
    variables: the model's, deltas among them.
    batch: what is read, and the targets [B, T] asked there.
    key: for dropout; None switches it off.
    label_smoothing: the share of the target's probability that is spread evenly over the vocabulary.
  Returns:
    [B, T] float32, in nats; what stands at unused targets means nothing.
  """
  head, wanted, targets = _head(model, variables), _target_hidden(model, variables, batch, key), jnp.asarray(batch.targets)
  of_chunk = jax.checkpoint(lambda chunk: _losses(model, label_smoothing, head, *chunk), prevent_cse=False)
  each = jax.lax.map(of_chunk, (_chunks(wanted), _chunks(targets)))
  return _whole(each, targets)


def target_losses_and_hits(model: Model, variables: Tree, batch: Batch) -> Array:
  """The loss of every target, without dropout, and whether no other token is likelier there.

  Args:
    model: whose losses are meant.
    variables: the model's, deltas among them.
    batch: as for `target_losses`.
  Returns:
    The losses in nats, and 1 or 0, float32 of shape [2, B, T]; what stands at unused targets means nothing.
  """
  head, wanted, targets = _head(model, variables), _target_hidden(model, variables, batch), jnp.asarray(batch.targets)

  def of_chunk(chunk: tuple[Array, Array]) -> tuple[Array, Array]:
    wanted, targets = chunk
    return _losses(model, 0.0, head, wanted, targets), jnp.argmax(model.logits(head, wanted), axis=-1) == targets
  losses, hits = (_whole(x, targets) for x in jax.lax.map(of_chunk, (_chunks(wanted), _chunks(targets))))
  return jnp.stack([losses, hits.astype(losses.dtype)])


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _total(model: Model, label_smoothing: float, head: Tree, wanted: Array, targets: Array, weights: Array) -> Array:
  """The sum of weight · loss over all targets: wanted [B, T, D], targets and weights [B, T]; weights are constants."""
  def add(total: Array, chunk: tuple[Array, ...]) -> tuple[Array, None]:
    *read, weights = chunk
    return total + jnp.sum(_losses(model, label_smoothing, head, *read) * weights), None
  return jax.lax.scan(add, jnp.float32(0), jax.tree.map(_chunks, (wanted, targets, weights)))[0]


def _total_forward(model: Model, label_smoothing: float, head: Any, wanted: Any, targets: Any,
                   weights: Any) -> tuple[Array, Any]:
  """The sum, and its gradient by the head's leaves that learn and by `wanted`, none of them scaled yet."""
  leaves, structure = jax.tree.flatten(head, is_leaf=is_primal)
  learns = [leaf.perturbed for leaf in leaves]
  values = [leaf.value for leaf in leaves]
  chunks = tuple(_chunks(x.value) for x in (wanted, targets, weights))

  def chunk_total(learning: Any, wanted: Array, targets: Array, weights: Array) -> Array:
    learning = iter(learning)
    head = jax.tree.unflatten(structure, [next(learning) if own else value for own, value in zip(learns, values)])
    return jnp.sum(_losses(model, label_smoothing, head, wanted, targets) * weights)

  def add(sums: Any, chunk: tuple[Array, ...]) -> tuple[Any, Any]:
    value, (of_head, *of_wanted) = jax.value_and_grad(chunk_total, (0, 1) if wanted.perturbed else (0,))(learning, *chunk)
    return jax.tree.map(jnp.add, sums, (value, of_head)), of_wanted

  learning = [value for own, value in zip(learns, values) if own]
  (total, of_head), of_wanted = jax.lax.scan(add, (jnp.float32(0), jax.tree.map(jnp.zeros_like, learning)), chunks)
  of_head = iter(of_head)
  of_wanted = _whole(of_wanted[0], targets.value) if wanted.perturbed else None
  return total, (jax.tree.unflatten(structure, [next(of_head) if own else None for own in learns]), of_wanted)


def _total_backward(model: Model, label_smoothing: float, gradients: Any, g: Array) -> tuple[Any, ...]:
  of_head, of_wanted = jax.tree.map(lambda x: (x * g).astype(x.dtype), gradients)
  return of_head, of_wanted, None, None


_total.defvjp(_total_forward, _total_backward, symbolic_zeros=True)


def cross_entropy(model: Model, variables: Tree, batch: Batch, key: Array | None = None,
                  label_smoothing: float = 0.0) -> tuple[Array, dict[str, Array]]:
  """The batch's summed loss, and the sums that metrics are made of: divided once, after all adding up.

  Args:
    model: whose loss is meant.
    variables: the model's, deltas among them.
    batch: what is read, and the targets [B, T] asked there.
    key: for dropout; None switches it off.
    label_smoothing: as for `target_losses`.
  Returns:
    The loss [], in nats, and {loss: the same, tokens: the number of targets []}.
  """
  wanted = _target_hidden(model, variables, batch, key)
  targets, weights = jnp.asarray(batch.targets), jnp.asarray(batch.weights)
  total = _total(model, label_smoothing, _head(model, variables), wanted, targets, weights)
  return total, {'loss': total, 'tokens': jnp.sum(weights)}
