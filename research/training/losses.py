"""Cross-entropy over target positions: the only ones that meet the head."""

import jax
import jax.numpy as jnp

from research.models.transformer import Batch, Model
from research.tree import Tree

Array = jax.Array
CHUNK = 256   # targets whose logits are alive at one time


def _wanted(model: Model, variables: Tree, batch: Batch, key: Array | None = None) -> Array:
  """[B, T, D]: what the head reads to predict each target."""
  hidden = model.hidden(variables, batch, key)
  return jnp.take_along_axis(hidden, batch['index'][..., None], axis=1)


def target_logits(model: Model, variables: Tree, batch: Batch) -> Array:
  """[B, T, V] float32: the logits of every target, all at one time; `batch` as for `target_losses`."""
  return model.logits(variables, _wanted(model, variables, batch))


def target_losses(model: Model, variables: Tree, batch: Batch, key: Array | None = None,
                  label_smoothing: float = 0.0) -> Array:
  """The loss of every target.

  Args:
    batch: beside the model's fields (see `Model`), `index` [B, T], the position in its line whose next token is
      predicted, and `targets` [B, T], that token.
    key: for dropout; None switches it off.
    label_smoothing: the share of the target's probability that is spread evenly over the vocabulary.
  Returns:
    [B, T] float32, in nats; what stands at unused targets means nothing.
  """
  wanted = _wanted(model, variables, batch, key)
  count = batch['targets'].size
  chunks = -(-count // CHUNK)
  pad = lambda x: jnp.pad(x.reshape(count, *x.shape[2:]), ((0, chunks * -(-count // chunks) - count),
                                                           *[(0, 0)] * (x.ndim - 2)))
  in_chunks = lambda x: pad(x).reshape(chunks, -1, *x.shape[2:])

  def chunk_losses(wanted, targets):                                            # [C, D], [C]
    logits = model.logits(variables, wanted)                                    # [C, V]
    normaliser = jax.nn.logsumexp(logits, axis=-1)
    loss = normaliser - jnp.take_along_axis(logits, targets[:, None], axis=-1)[:, 0]
    if label_smoothing:
      loss = (1 - label_smoothing) * loss + label_smoothing * (normaliser - logits.mean(axis=-1))
    return loss

  if chunks == 1:
    losses = chunk_losses(in_chunks(wanted)[0], in_chunks(batch['targets'])[0])
  else:
    losses = jax.lax.map(lambda x: jax.checkpoint(chunk_losses)(*x), (in_chunks(wanted), in_chunks(batch['targets'])))
  return losses.reshape(-1)[:count].reshape(batch['targets'].shape)


def cross_entropy(model: Model, variables: Tree, batch: Batch, key: Array | None = None,
                  label_smoothing: float = 0.0) -> tuple[Array, dict[str, Array]]:
  """The batch's summed loss, and the sums that metrics are made of: divided once, after all adding up.

  Args:
    batch: as for `target_losses`, with `weights` [B, T]: 1 for a target, 0 for padding.
  """
  losses = target_losses(model, variables, batch, key, label_smoothing)
  total = jnp.sum(losses * batch['weights'])
  return total, {'loss': total, 'tokens': jnp.sum(batch['weights'])}
