"""The transformer of every family, and the pure functions by which the rest of the code knows it.

Flax ends here: outside this folder a model is the NamedTuple `Model`, and its variables are a plain tree
`{'params': …, 'delta': …}`. The decoder's parameters stand at the root (`embed`, `layers`, `norm`, `head`), an encoder's
under `encoder`.
"""

from operator import itemgetter
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from research.distributed import mesh
from research.models import slots
from research.models.config import DTYPES, ModelConfig
from research.models.layers import (
  ACTIVATIONS,
  PRODUCT,
  Dense,
  Embedding,
  Norm,
  QueryBlocks,
  attend,
  delta_at,
  output,
  softcap,
)
from research.models.positions import Tokens, rotate
from research.models.products import contract
from research.models.slots import Places

Array = jax.Array


class Cache(NamedTuple):
  """Keys and values of what was read so far: S slots a row, `used` of them filled, the same for every row."""
  layers: tuple[Array, ...]   # keys and values [N, B, K, S, head_dim]; with an encoder also those of its S' tokens
  tokens: Tokens              # each [B, S]
  source: Tokens | None       # the encoder's, each [B, S']
  used: Array                 # []


class Context(NamedTuple):
  """What all layers of one stack share in one call; computed once."""
  masks: tuple[tuple[QueryBlocks, ...], ...]  # what the queries see, for each kind of layers
  rope: tuple[Array, Array] | None      # cos and sin, each [kinds of layers, B, L, turning / 2]
  buckets: Array | None = None          # [B, L, S] of relative distances
  bias: Array | None = None             # [B, H, L, S], where all layers have the same
  source: Array | None = None           # [B, S', D], what the encoder made of the prompt
  source_mask: tuple[QueryBlocks, ...] = ()   # what they see of the source
  write: Array | Places | None = None   # [] the first cache slot to fill, or whose; None where there is no cache

  def rope_of(self, kind: Array | None) -> tuple[Array, Array] | None:
    """cos and sin for a layer's kind, each [B, L, turning / 2]; `kind` is a scalar, or None where there is but one."""
    return jax.tree.map(lambda x: x[0 if kind is None else kind], self.rope)

  def attend(self, kind: Array | None, q: Array, k: Array, v: Array, *how) -> Array:
    """`layers.attend` to what a layer of this kind sees.

    Args:
      kind: a scalar, the layer's kind; None: there is but one.
      q: [B, L, H, head_dim].
      k: [B, K, S, head_dim].
      v: of k's shape.
      how: `scale`, `bias` and `cap` of `layers.attend`.
    """
    if kind is None:
      return attend(q, k, v, self.masks[0], *how)
    if len({jax.tree.structure(mask) for mask in self.masks}) == 1:
      return attend(q, k, v, jax.tree.map(lambda *x: jnp.stack(x)[kind], *self.masks), *how)
    return jax.lax.switch(kind, [lambda mask=mask: attend(q, k, v, mask, *how) for mask in self.masks])


def _relative(table: nn.Embed, buckets: Array) -> Array:
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
    q, k, v = (dense(name, width)(x, part) for (name, width), part in zip(widths.items(), parts))
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
      bias = _relative(nn.Embed(c.relative_buckets, c.heads, name='relative'), context.buckets)
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
      cache = tuple(_heads(c, dense(name, c.kv_heads * c.head_dim)(context.source)).swapaxes(1, 2) for name in ('k', 'v'))
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
  """down(act(up(x))), or gated down(act(gate(x)) * up(x)) (Shazeer 2020, arXiv 2002.05202)."""
  config: ModelConfig

  @nn.compact
  def __call__(self, x):
    c = self.config
    dense = lambda name, features: Dense(features, f'mlp/{name}' in c.biases, c.init_std, name=name)
    act, up = ACTIVATIONS[c.activation], dense('up', c.hidden)(x)
    y = act(dense('gate', c.hidden)(x)) * up if c.gated else act(up)
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


def _remat_block(c: ModelConfig) -> type[Block]:
  """A layer that keeps for the backward pass what `config.remat` says, and computes the rest again there.

  'products' keeps what kernels give and computes plain attention, norms and activations again: little work, most of the memory.
  """
  if c.remat == 'none':
    return Block
  keep = jax.checkpoint_policies.save_only_these_names(PRODUCT) if c.remat == 'products' else None
  return nn.remat(Block, policy=keep, prevent_cse=not c.scan)


LAST_LAYERS = 'last_layers'      # the name of the stack of `ModelConfig.last_layers`


def stacks(layers: int, last: int) -> dict[str, slice]:
  """The stacks that a decoder's layers are kept in, and which of the layers each holds."""
  found = {'layers': slice(0, layers - last), LAST_LAYERS: slice(layers - last, layers)}
  return {name: of for name, of in found.items() if of.stop > of.start}


class Stack(nn.Module):
  """Layers of one shape, the table of relative biases that they share, and the norm after the last."""
  config: ModelConfig
  length: int
  crosses: bool = False
  last_layers: int = 0      # of the layers, the last ones, whose parameters stand in a stack of their own

  @nn.compact
  def __call__(self, x, context: Context, cache=None):
    c = self.config
    if c.relative_buckets and not c.bias_per_layer:
      assert context.buckets is not None
      context = context._replace(bias=_relative(nn.Embed(c.relative_buckets, c.heads, name='relative'), context.buckets))
    kinds = jnp.asarray(c.layer_pattern, jnp.int32) if len(context.masks) > 1 else None
    own, crossed = (cache[:2], cache[2:]) if cache else (None, ())
    per_layer, found = (jnp.arange(self.length), kinds, crossed), []
    for name, of in stacks(self.length, self.last_layers).items():
      length = len(range(self.length)[of])
      layers = nn.scan(
          _remat_block(c), variable_axes={'params': 0, 'delta': 0}, variable_broadcast='shared',
          split_rngs={'params': True, 'dropout': True}, in_axes=(0, nn.broadcast), length=length,
          unroll=1 if c.scan else length)(c, self.crosses, name=name)
      (x, own), read = layers((x, own), jax.tree.map(itemgetter(of), per_layer), context)
      found.append(read)
    crossed = found[0] if len(found) == 1 else jax.tree.map(lambda *ys: jnp.concatenate(ys), *found)
    return Norm(c, name='norm')(x), None if own is None else (*own, *(crossed or ()))


class Transformer(nn.Module):
  config: ModelConfig

  def setup(self):
    c = self.config
    init_std = 1.0 if c.init_std is None else c.init_std
    self.embed = Embedding(c.vocab, c.width, init_std, DTYPES[c.dtype], c.embed_scale)
    if c.learned_positions:
      self.positions = nn.Embed(c.learned_positions, c.width, embedding_init=nn.initializers.normal(init_std))
    if c.has_encoder:
      self.encoder = Stack(c, c.encoder_layers)
    self.decoder = Stack(c, c.layers, c.has_encoder, c.last_layers)
    nn.share_scope(self, self.decoder)
    if not c.tied:
      self.head = Dense(c.vocab, init_std=c.init_std)

  def embedded(self, tokens, positions):
    x = self.embed(tokens)
    if not self.config.learned_positions:
      return x
    return x + mesh.constrain_lookup(self.positions(positions).astype(x.dtype))

  def encode(self, tokens, positions, context: Context):
    """What the encoder makes of the prompt, [B, S', D].

    Args:
      tokens: [B, S'].
      positions: [B, S'].
      context: of the encoder's layers.
    """
    return self.encoder(self.embedded(tokens, positions), context)[0]

  def hidden(self, tokens, positions, context: Context, cache=None):
    """Final normed activations [B, L, D], and the cache with these tokens in it.

    Args:
      tokens: [B, L].
      positions: [B, L].
      context: of the decoder's layers.
      cache: keys and values as `Cache.layers` holds them; None: none are kept, and None comes back.
    """
    return self.decoder(self.embedded(tokens, positions), context, cache)

  def logits(self, hidden):
    """[..., D] -> [..., V] float32."""
    c = self.config
    if c.logit_scale != 1:
      hidden = hidden * jnp.asarray(c.logit_scale, hidden.dtype)
    if c.tied:
      lead = 'ab'[:hidden.ndim - 1]
      found = contract(f'{lead}d,vd->{lead}v', hidden, self.embed.embedding)
    else:
      found = self.head(hidden).astype(jnp.float32)
    return softcap(found, c.logit_cap)
