"""The transformer of every family, and the pure functions by which the rest of the code knows it.

Flax ends here: outside this folder a model is the NamedTuple `Model`, and its variables are a plain tree
`{'params': …, 'delta': …}`. The decoder's parameters stand at the root (`embed`, `layers`, `norm`, `head`), an encoder's
under `encoder`.
"""

import dataclasses
from collections.abc import Callable
from functools import lru_cache
from operator import itemgetter
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from research import tree
from research.distributed import mesh
from research.errors import InputError
from research.models import fused
from research.models.config import DTYPES, Kind, ModelConfig
from research.models.layers import (
  ACTIVATIONS,
  PRODUCT,
  SHARED,
  Dense,
  Embedding,
  Norm,
  QueryBlocks,
  attend,
  attention_mask,
  delta_at,
  output,
  same_document,
  softcap,
  stages,
  window_mask,
)
from research.models.positions import angles, relative_buckets, rotate
from research.models.products import contract
from research.models.quantized import is_quantized
from research.tree import Tree

Array = jax.Array
Batch = dict[str, Array]


LONGEST_BIAS = 8192      # tokens of a line whose relative biases exist as one array [B, H, L, S]


class Cache(NamedTuple):
  """Keys and values of what was read so far: S slots a row, `used` of them filled, the same for every row."""
  layers: tuple[Array, ...]   # keys and values [N, B, K, S, head_dim]; with an encoder also those of its S' tokens
  tokens: Batch               # slots, segments, branches, positions: each [B, S]
  source: Batch | None        # the encoder's: segments [B, S']
  used: Array                 # []


class Context(NamedTuple):
  """What all layers of one stack share in one call; computed once."""
  masks: tuple[tuple[QueryBlocks, ...], ...]  # what the queries see, for each kind of layers
  rope: tuple[Array, Array] | None      # cos and sin, each [kinds of layers, B, L, turning / 2]
  buckets: Array | None = None          # [B, L, S] of relative distances
  bias: Array | None = None             # [B, H, L, S], where all layers have the same
  source: Array | None = None           # [B, S', D], what the encoder made of the prompt
  source_mask: tuple[QueryBlocks, ...] = ()   # what they see of the source
  write: Array | None = None            # [] the first cache slot to fill, or None where there is no cache

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
      at = (layer, 0, 0, context.write, 0)
      cache = tuple(jax.lax.dynamic_update_slice(old, new[None].astype(old.dtype), at) for old, new in zip(cache, (k, v)))
      k, v = (jax.lax.dynamic_index_in_dim(x, layer, keepdims=False) for x in cache)
    prefix = delta_at(self, 'prefix')
    if prefix is not None:                                                 # keys and values that stand before the line
      before = (_heads(c, y[None].astype(k.dtype)).swapaxes(1, 2) for y in prefix())
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


class Model(NamedTuple):
  """A model as pure functions of its variables `{'params': …, 'delta': …, 'shared': …}` (see `layers.delta_at`).

  A batch holds `tokens`, `positions` and `segments`, each int32 [B, L], and where some document has several answers `branches`
  (see `layers.attention_mask`). Where there is an encoder it reads `source_tokens`, `source_positions` and `source_segments`,
  each int32 [B, S'].
  """
  config: ModelConfig
  init: Callable[[Array], Tree]                      # key -> params, float32, layers stacked on axis 0
  hidden: Callable[..., Array]                       # (variables, batch, key=None) -> [B, L, D]
  logits: Callable[[Tree, Array], Array]             # (variables, hidden [..., D]) -> [..., V] float32
  prefill: Callable[..., tuple[Array, Cache]]        # (variables, batch, slots) -> last hidden [B, D], cache
  step: Callable[..., tuple[Array, Cache]]           # (variables, cache, tokens [B]) -> hidden [B, D], cache


def _prefix(variables: Tree) -> int:
  """How many keys and values of a prefix stand before every line."""
  for stack in ('layers', LAST_LAYERS):
    prefix = variables.get('delta', {}).get(stack, {}).get('attn', {}).get('prefix')
    if prefix is not None:
      return prefix.slots
  return 0


def _tokens(batch: Batch, prefix: int = 0) -> Batch:
  """What attention knows of each token; positions count from the prefix's first."""
  slots = jnp.broadcast_to(jnp.arange(batch['tokens'].shape[1]), batch['tokens'].shape)
  return {'slots': slots, 'segments': jnp.asarray(batch['segments']),
          'branches': jnp.asarray(batch.get('branches', 0 * slots)), 'positions': jnp.asarray(batch['positions']) + prefix}


def _prepend_prefix(prefix: int, tokens: Batch) -> Batch:
  """The tokens that queries see: the prefix's slots, which all documents of the line share, and the line's own."""
  if not prefix:
    return tokens
  numbers = jnp.arange(prefix)
  before = {'slots': numbers - prefix, 'segments': jnp.full_like(numbers, SHARED), 'branches': 0 * numbers,
            'positions': numbers}
  return {n: jnp.concatenate([jnp.broadcast_to(before[n], (x.shape[0], prefix)), x], axis=1) for n, x in tokens.items()}


def _part(tokens: Batch, of: slice) -> Batch:
  return {n: x[:, of] for n, x in tokens.items()}


def _lengths(query: Batch, key: Batch) -> tuple[int, int]:
  """L and S."""
  return query['segments'].shape[1], key['segments'].shape[1]


def _source(batch: Batch) -> Batch:
  return {'segments': jnp.asarray(batch['source_segments']), 'positions': jnp.asarray(batch['source_positions'])}


@lru_cache(maxsize=64)
def build(config: ModelConfig) -> Model:
  """The model of a config. The same config gives the same object, so compiled steps are found again."""
  module = Transformer(config)

  def distances(query, key, bidirectional=False):
    if not config.relative_buckets:
      return None
    lengths = _lengths(query, key)
    if max(lengths) > LONGEST_BIAS:
      raise InputError(f'model.context: relative biases are kept for every pair of tokens, of at most {LONGEST_BIAS}; here '
                       f'{lengths[0]} x {lengths[1]}')
    return relative_buckets(query['positions'], key['positions'], config.relative_buckets, config.max_distance, bidirectional)

  def masks(query, key, prefix, straight):
    """Of each kind of layers. In a `straight` line a document's tokens stand one after the other, so windows are stretches."""
    found, lengths = {}, _lengths(query, key)
    one_kernel = (config.attention == 'auto' and not config.relative_buckets and not config.attention_cap
                  and fused.is_supported(config.dtype, config.head_dim, *lengths))
    for window in {kind.window for kind in config.layer_kinds}:
      def sees(queries, keys, window=window):
        sides = _part(query, queries), _part(key, keys)
        return attention_mask(*sides) & window_mask(window, *sides) if window else attention_mask(*sides)
      found[window] = stages(sees, *lengths, prefix, window if straight and not prefix else 0, one_kernel)
    return tuple(found[kind.window] for kind in config.layer_kinds)

  def context(query, key, prefix=0, write=None, source=None, source_tokens=None, straight=False) -> Context:
    key, kinds = _prepend_prefix(prefix, key), config.layer_kinds

    def turning(kind: Kind) -> tuple[Array, Array]:
      assert kind.rope is not None      # all kinds of a model have one, or none has
      return angles(kind.rope, query)
    sees = lambda queries, keys: same_document(_part(query, queries), _part(source_tokens, keys))
    return Context(
        masks=masks(query, key, prefix, straight),
        rope=jax.tree.map(lambda *x: jnp.stack(x), *map(turning, kinds)) if kinds[0].rope else None,
        buckets=distances(query, key), source=source, write=write,
        source_mask=() if source_tokens is None else stages(sees, *_lengths(query, source_tokens)))

  def encode(apply, batch):
    """(what the encoder made of the batch's prompts, their tokens), or nothing where there is no encoder."""
    if not config.has_encoder:
      return None, None
    tokens = _source(batch)
    sees = lambda queries, keys: attention_mask(_part(tokens, queries), _part(tokens, keys), bidirectional=True)
    shared = Context((stages(sees, *_lengths(tokens, tokens)),), None, distances(tokens, tokens, bidirectional=True))
    return apply(batch['source_tokens'], batch['source_positions'], shared, method='encode'), tokens

  def init(key):
    one = jnp.ones((1, 1), jnp.int32)
    batch = {'tokens': one, 'segments': one, 'branches': 0 * one, 'positions': 0 * one}
    batch |= {f'source_{n}': x for n, x in batch.items()}

    def everything(module):
      apply = lambda *args, method: getattr(module, method)(*args)
      tokens = _tokens(batch)
      return module.logits(module.hidden(one, 0 * one, context(tokens, tokens, 0, None, *encode(apply, batch)))[0])
    return module.init(key, method=everything)['params']

  def applying(variables, key=None):
    return lambda *args, method: module.apply(variables, *args, method=method,
                                              rngs=None if key is None else {'dropout': key})

  def hidden(variables, batch, key=None):
    keys = (None, None) if key is None else jax.random.split(key)
    source, source_tokens = encode(applying(variables, keys[0]), batch)
    prefix = _prefix(variables)
    tokens = _tokens(batch, prefix)
    x, _ = applying(variables, keys[1])(batch['tokens'], tokens['positions'],
                                        context(tokens, tokens, prefix, None, source, source_tokens, 'branches' not in batch),
                                        method='hidden')
    return x

  def logits(variables, x):
    return module.apply(variables, x, method='logits')

  def prefill(variables, batch, slots):
    """Reads prompts, padded on the left so that all end in the same slot; `slots` is the cache's whole size S.

    Where there is an encoder it reads the prompts, and `tokens` is the decoder's beginning.
    """
    B, L = batch['tokens'].shape
    apply = applying(variables)
    source, source_tokens = encode(apply, batch)
    pad = lambda x: jnp.pad(x, ((0, 0), (0, slots - L)))
    prefix = _prefix(variables)
    query = _tokens(batch, prefix)
    key = {n: pad(x) for n, x in query.items()} | {'slots': jnp.broadcast_to(jnp.arange(slots), (B, slots))}
    empty = jnp.zeros((config.layers, B, config.kv_heads, slots, config.head_dim), DTYPES[config.dtype])
    x, layers = apply(batch['tokens'], query['positions'],
                      context(query, key, prefix, jnp.int32(0), source, source_tokens), (empty, empty), method='hidden')
    return x[:, -1], Cache(layers, key, source_tokens, jnp.int32(L))

  def step(variables, cache, tokens):
    at = cache.used
    position = jax.lax.dynamic_index_in_dim(cache.tokens['positions'], at - 1, 1, keepdims=False) + 1
    key = {**cache.tokens, 'segments': cache.tokens['segments'].at[:, at].set(1),
           'positions': cache.tokens['positions'].at[:, at].set(position)}
    query = {n: jax.lax.dynamic_slice_in_dim(x, at, 1, 1) for n, x in key.items()}
    x, layers = applying(variables)(tokens[:, None], query['positions'],
                                    context(query, key, _prefix(variables), at, None, cache.source), cache.layers,
                                    method='hidden')
    return x[:, 0], Cache(layers, key, cache.source, at + 1)

  return Model(config, init, hidden, logits, prefill, step)


def split_last_layers(config: ModelConfig, params: Tree, count: int) -> tuple[ModelConfig, Tree]:
  """The same model with its last `count` layers in a stack of their own, so that those alone can learn.

  Args:
    config: of the model as it is; some of its layers may stand apart already.
    params: its parameters.
    count: of the layers; 0: all stand in one stack.
  """
  parts = [params[name] for name in stacks(config.layers, config.last_layers)]
  whole = parts[0] if len(parts) == 1 else jax.tree.map(lambda *xs: jnp.concatenate(xs), *parts)
  rest = {name: x for name, x in params.items() if name not in ('layers', LAST_LAYERS)}
  split = {name: jax.tree.map(itemgetter(of), whole) if count else whole for name, of in stacks(config.layers, count).items()}
  return dataclasses.replace(config, last_layers=count), rest | split


class Site(NamedTuple):
  """A place where a delta can stand."""
  kind: str                        # kernel, bias, output (a sublayer's result), prefix, embedding, prompt
  stack: tuple[int, ...]           # leading axes: (N,) in a layer stack, () elsewhere
  inputs: int                      # I; the width for an output, K · head_dim for a prefix, V for an embedding
  outputs: int                     # O
  values: tuple[Any, ...] = ()     # the parameters that it changes: several where they are changed as one
  parts: tuple[str, ...] = ()      # their paths
  devices: int = 1                 # that share its sides (`ModelConfig.devices`)


def sites(config: ModelConfig, params: Tree) -> dict[str, Site]:
  """All sites of a model by path.

  Every kernel is one, at its parameter's path; so is a bias that a kernel does not have, every sublayer's result
  (`…/output`), the prefix of the decoder's attention (`…/attn/prefix`), the embedding and the soft prompt beside it
  (`embed/prompt`). Beside q, k and v stands `qkv`, where one delta changes the three as one kernel [D, outputs of q, k, v].
  """
  found: dict[str, Site] = {}
  named = tree.leaves(params, is_leaf=is_quantized)
  for path, x in named.items():
    if path.endswith('/kernel'):
      *stack, inputs, outputs = x.shape
      layer, stack = path.removesuffix('/kernel'), tuple(stack)
      sublayer, name = layer.rpartition('/')[::2]
      found[path] = Site('kernel', stack, inputs, outputs, (x,), (path,))
      if f'{layer}/bias' not in named:
        found[f'{layer}/bias'] = Site('bias', stack, inputs, outputs)
      if name in ('o', 'down'):
        found[f'{sublayer}/output'] = Site('output', stack, config.width, config.width)
      if name == 'q' and sublayer.endswith('attn'):
        parts = tuple(f'{sublayer}/{n}/kernel' for n in QKV)
        kernels = tuple(named[part] for part in parts)
        found[f'{sublayer}/{FUSED}'] = Site('kernel', stack, inputs, sum(k.shape[-1] for k in kernels), kernels, parts)
        if not sublayer.startswith('encoder'):
          width = config.kv_heads * config.head_dim
          found[f'{sublayer}/prefix'] = Site('prefix', stack, width, width)
  table = named['embed/embedding']
  vocab, width = table.shape
  found['embed/embedding'] = Site('embedding', (), vocab, width, (table,), ('embed/embedding',))
  found['embed/prompt'] = Site('prompt', (), vocab, width, (table,))
  return {path: site._replace(devices=config.devices) for path, site in found.items()}
