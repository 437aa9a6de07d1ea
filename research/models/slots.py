"""Where keys and values are kept: a cache that all rows of a batch fill together, or one whose rows go each their own way."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp

from research.models.positions import Tokens

Array = jax.Array


@partial(jax.tree_util.register_dataclass, data_fields=('rows', 'used'), meta_fields=('reach',))
@dataclasses.dataclass(frozen=True)
class Places:
  """Which rows of a cache a batch stands in, and how far each of them is filled."""
  rows: Array      # [B]; a row that the cache has not is read as any other and never written
  used: Array      # [B], slots of each that are filled: the batch's tokens come behind them
  reach: int       # slots of a row that are read; no token of the batch stands behind them

  def slots(self, length: int) -> Array:
    """The slots [B, L] of the batch's tokens, of which each row has `length`."""
    return self.used[:, None] + jnp.arange(length)

  def queries(self, length: int, prefix: int) -> Tokens:
    """The batch's tokens, each [B, L]; positions count from the first of a prefix of so many slots."""
    slots = self.slots(length)
    return Tokens(jnp.ones_like(slots), slots + prefix, slots, jnp.zeros_like(slots))

  def keys(self, prefix: int) -> Tokens:
    """What can be read of each row, each [B, reach]: causality keeps what is not filled yet from being seen."""
    slots = jnp.broadcast_to(jnp.arange(self.reach), (len(self.rows), self.reach))
    return Tokens(jnp.ones_like(slots), slots + prefix, slots, jnp.zeros_like(slots))


def keep(cache: tuple[Array, ...], layer: Array, at: 'Array | Places', k: Array, v: Array
         ) -> tuple[tuple[Array, ...], tuple[Array, Array]]:
  """The cache with what a layer makes of a batch's tokens, and all that the layer now reads of it.

  Args:
    cache: keys and values of all layers, each [N, rows, K, S, head_dim].
    layer: [], its number.
    at: [], the first slot to fill of every row; or the places of the batch.
    k: [B, K, L, head_dim].
    v: of k's shape.
  """
  if not isinstance(at, Places):
    here = (layer, 0, 0, at, 0)
    cache = tuple(jax.lax.dynamic_update_slice(old, new[None].astype(old.dtype), here) for old, new in zip(cache, (k, v)))
    keys, values = (jax.lax.dynamic_index_in_dim(x, layer, keepdims=False) for x in cache)
    return cache, (keys, values)
  slots = at.slots(k.shape[2])
  cache = tuple(old.at[layer, at.rows[:, None], :, slots].set(new.swapaxes(1, 2).astype(old.dtype), mode='drop')
                for old, new in zip(cache, (k, v)))
  keys, values = (x[layer, at.rows, :, :at.reach] for x in cache)
  return cache, (keys, values)
