"""One layer of a transformer: attention, attention to what an encoder made of the prompt, MLP."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from research.models import slots
from research.models.config import ModelConfig
from research.models.layers import (
  ACTIVATIONS,
  Dense,
  Norm,
  QueryBlocks,
  attend,
  delta_at,
  inner_products,
  output,
)
from research.models.positions import rotate
from research.models.slots import Places

Array = jax.Array


class Context(NamedTuple):
  """What all layers of one stack share in one call; computed once."""
  masks: tuple[tuple[QueryBlocks, ...], ...]  # what the queries see, for each kind of layers
  rope: tuple[Array, Array] | None      # cos and sin, each [kinds of layers, B, L, turning / 2]
  buckets: Array | None = None          # [B, L, S] of relative distances
  bias: Array | None = None             # [B, H, L, S], where all layers have the same
  source: Array | None = None           # [B, S', D], what the encoder made of the prompt
  source_mask: tuple[QueryBlocks, ...] = ()   # what they see of the source
  write: Array | Places | None = None   # [] the first cache slot to fill, or whose; None where there is no cache

  def rope_of(self, kind: Array | int | None) -> tuple[Array, Array] | None:
    """cos and sin for a layer's kind, each [B, L, turning / 2]; `kind` is a scalar, or None where there is but one."""
    return jax.tree.map(lambda x: x[0 if kind is None else kind], self.rope)

  def attend(self, kind: Array | int | None, q: Array, k: Array, v: Array, *how) -> Array:
    """`layers.attend` to what a layer of this kind sees.

    Args:
      kind: a scalar, the layer's kind; None: there is but one.
      q: [B, L, H, head_dim].
      k: [B, K, S, head_dim].
      v: of k's shape.
      how: `scale`, `bias` and `cap` of `layers.attend`.
    """
    if kind is None or isinstance(kind, int):
      return attend(q, k, v, self.masks[kind or 0], *how)
    if len({jax.tree.structure(mask) for mask in self.masks}) == 1:
      return attend(q, k, v, jax.tree.map(lambda *x: jnp.stack(x)[kind], *self.masks), *how)
    return jax.lax.switch(kind, [lambda mask=mask: attend(q, k, v, mask, *how) for mask in self.masks])


def relative_biases(table: nn.Embed, buckets: Array) -> Array:
  """The biases [B, H, L, S], in float32, of distances [B, L, S] by their buckets' table."""
  return jnp.moveaxis(table(buckets), -1, 1).astype(jnp.float32)            # [B, H, L, S]


def _heads(c: ModelConfig, y: Array) -> Array:
  return y.reshape(*y.shape[:2], -1, c.head_dim)                            # [B, L, H or K, head_dim]


QKV, FUSED = ('q', 'k', 'v'), 'qkv'      # the kernels that read one input, and the site where one delta changes all three


class Attention(nn.Module):
  """Self-attention. `cache` holds the keys and values of all layers; this one reads and writes those at `layer`."""
  config: ModelConfig

  @nn.compact
  def __call__(self, x, layer, kind, context: Context, cache):
    c = self.config
    dense = lambda name, features: Dense(features, f'attn/{name}' in c.biases, _spread(c, name), name=name)
    widths = {name: (c.heads if name == 'q' else c.kv_heads) * c.head_dim for name in QKV}
    together = delta_at(self, FUSED)                                       # one delta of three kernels
    parts = (None,) * 3 if together is None else together.split_outputs(tuple(widths.values()))
    inner = inner_products(self, QKV, x)
    q, k, v = (dense(name, width)(x, part, inner.get(name)) for (name, width), part in zip(widths.items(), parts))
    if c.qk_norm == 'heads':
      q, k = Norm(c, name='norm_q')(q), Norm(c, name='norm_k')(k)
    q, k, v = (_heads(c, y) for y in (q, k, v))
    if c.qk_norm == 'head':
      q, k = Norm(c, name='norm_q')(q), Norm(c, name='norm_k')(k)
    rope = context.rope_of(kind)
    if rope is not None:
      q, k = rotate(q, *rope), rotate(k, *rope)
    k, v = (y.swapaxes(1, 2) for y in (k, v))
    if cache is not None:
      assert context.write is not None
      cache, (k, v) = slots.keep(cache, layer, context.write, k, v)
    prefix = delta_at(self, 'prefix')
    if prefix is not None:                                                 # keys and values that stand before the line
      before = (_heads(c, (y if y.ndim == 3 else y[None]).astype(k.dtype)).swapaxes(1, 2) for y in prefix())
      k, v = (jnp.concatenate([jnp.broadcast_to(b, (len(y), *b.shape[1:])), y], axis=2) for b, y in zip(before, (k, v)))
    bias = context.bias
    if c.bias_per_layer:
      assert context.buckets is not None
      bias = relative_biases(nn.Embed(c.relative_buckets, c.heads, name='relative'), context.buckets)
    y = context.attend(kind, q, k, v, _scale(c), bias, c.attention_cap)
    y = dense('o', c.width)(y.reshape(*y.shape[:2], -1))
    return output(self, x, y), cache


class CrossAttention(nn.Module):
  """Attention of the decoder to what the encoder made of the prompt; `cache` holds that prompt's keys and values here."""
  config: ModelConfig

  @nn.compact
  def __call__(self, x, context: Context, cache):
    c = self.config
    dense = lambda name, features: Dense(features, False, _spread(c, name), name=name)
    q = _heads(c, dense('q', c.heads * c.head_dim)(x))
    if not cache:
      assert context.source is not None
      inner = inner_products(self, ('k', 'v'), context.source)
      both = (dense(name, c.kv_heads * c.head_dim)(context.source, None, inner.get(name)) for name in ('k', 'v'))
      cache = tuple(_heads(c, y).swapaxes(1, 2) for y in both)
    k, v = cache
    y = attend(q, k, v, context.source_mask, _scale(c))
    y = dense('o', c.width)(y.reshape(*y.shape[:2], -1))
    return output(self, x, y), cache


def _scale(c: ModelConfig) -> float:
  return c.head_dim ** -0.5 if c.query_scale is None else c.query_scale


def _spread(c: ModelConfig, name: str) -> float | None:
  """Of initial kernels; where scores are not scaled, those of the queries are smaller instead (as T5's)."""
  return (c.width * c.head_dim) ** -0.5 if c.init_std is None and name == 'q' else c.init_std


class MLP(nn.Module):
  """down(act(up(x))), or gated down(act(gate(x)) * up(x)) (Shazeer 2020, arXiv 2002.05202).

  The backward pass computes the activation again: all that it keeps of it is what the kernels gave.
  """
  config: ModelConfig

  @nn.compact
  def __call__(self, x):
    c = self.config
    dense = lambda name, features: Dense(features, f'mlp/{name}' in c.biases, c.init_std, name=name)
    inner = inner_products(self, ('up', 'gate'), x)
    act, up = ACTIVATIONS[c.activation], dense('up', c.hidden)(x, None, inner.get('up'))
    if c.gated:
      y = jax.checkpoint(lambda gate, up: act(gate) * up)(dense('gate', c.hidden)(x, None, inner.get('gate')), up)
    else:
      y = jax.checkpoint(act)(up)
    return output(self, x, dense('down', c.width)(y))


class Block(nn.Module):
  """One layer: attention, attention to the encoder where a decoder has one, MLP."""
  config: ModelConfig
  crosses: bool = False

  @nn.compact
  def __call__(self, carry, per_layer, context: Context):
    c = self.config
    (x, cache), (layer, kind, crossed) = carry, per_layer              # x [B, L, D]

    def before(name, x):
      return Norm(c, name=f'norm_{name}')(x) if 'before' in c.norms else x

    def after(name, y):
      return Norm(c, name=f'norm_{name}_after')(y) if 'after' in c.norms else y

    y, cache = Attention(c, name='attn')(before('attn', x), layer, kind, context, cache)
    y = after('attn', y)
    if c.parallel:
      return (x + y + after('mlp', MLP(c, name='mlp')(before('mlp', x))), cache), None
    x = x + y
    if self.crosses:
      y, crossed = CrossAttention(c, name='cross')(before('cross', x), context, crossed)
      x = x + after('cross', y)
    x = x + after('mlp', MLP(c, name='mlp')(before('mlp', x)))
    return (x, cache), crossed if cache else None
