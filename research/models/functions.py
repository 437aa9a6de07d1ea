"""A model as pure functions of its variables: what the outside world sees of the modules in `transformer`."""

import dataclasses
from collections.abc import Callable
from functools import lru_cache
from operator import itemgetter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from research import tree
from research.data.batch import Batch
from research.errors import InputError
from research.models import fused, splash
from research.models.block import Context
from research.models.config import DTYPES, Kind, ModelConfig
from research.models.kernels import is_kernel, transposed
from research.models.layers import (
  SHARED,
  QueryBlocks,
  attention_mask,
  same_document,
  stages,
  window_mask,
)
from research.models.positions import Tokens, angles, relative_buckets
from research.models.transformer import LAST_LAYERS, Array, Cache, Transformer, stacks
from research.tree import Tree
from research.unstacked import concatenated, is_unstacked, map_stacks, unstack

LONGEST_BIAS = 8192      # tokens of a line whose relative biases exist as one array [B, H, L, S]


class Model(NamedTuple):
  """A model as pure functions of its variables `{'params': …, 'delta': …, 'shared': …}` (see `layers.delta_at`).

  Of a batch it reads `tokens`, `positions`, `segments`, and `branches` where they are there (see `layers.attention_mask`); an
  encoder reads `source_tokens`, `source_positions` and `source_segments`.
  """
  config: ModelConfig
  init: Callable[[Array], Tree]                      # key -> params, float32, layers stacked on axis 0
  hidden: Callable[..., Array]                       # (variables, batch, key=None) -> [B, L, D]
  logits: Callable[[Tree, Array], Array]             # (variables, hidden [..., D]) -> [..., V] float32
  prefill: Callable[..., tuple[Array, Cache]]        # (variables, batch, slots) -> last hidden [B, D], cache
  step: Callable[..., tuple[Array, Cache]]           # (variables, cache, tokens [B]) -> hidden [B, D], cache
  read: Callable[..., tuple[Array, Any]]             # (variables, keys and values, tokens, Places, source) -> [B, L, D], same
  states: Callable[[Tree, Batch], Array]             # (variables, batch) -> [B, L, D] of what reads prompts: encoder or decoder


def _prefix(variables: Tree) -> int:
  """How many keys and values of a prefix stand before every line."""
  for stack in ('layers', LAST_LAYERS):
    prefix = variables.get('delta', {}).get(stack, {}).get('attn', {}).get('prefix')
    if prefix is not None:
      return prefix.slots
  return 0


def _tokens(batch: Batch, prefix: int = 0) -> Tokens:
  """What attention knows of each token; positions count from the prefix's first."""
  slots = jnp.broadcast_to(jnp.arange(batch.tokens.shape[1]), batch.tokens.shape)
  branches = 0 * slots if batch.branches is None else jnp.asarray(batch.branches)
  return Tokens(jnp.asarray(batch.segments), jnp.asarray(batch.positions) + prefix, slots, branches)


def _prepend_prefix(prefix: int, tokens: Tokens) -> Tokens:
  """The tokens that queries see: the prefix's slots, which all documents of the line share, and the line's own."""
  if not prefix:
    return tokens
  numbers = jnp.arange(prefix)
  before = Tokens(jnp.full_like(numbers, SHARED), numbers, numbers - prefix, 0 * numbers)
  return jax.tree.map(lambda b, x: jnp.concatenate([jnp.broadcast_to(b, (x.shape[0], prefix)), x], axis=1), before, tokens)


def _part(tokens: Tokens, of: slice) -> Tokens:
  return jax.tree.map(lambda x: x[:, of], tokens)


def _lengths(query: Tokens, key: Tokens) -> tuple[int, int]:
  """L and S."""
  return query.segments.shape[1], key.segments.shape[1]


def _source(batch: Batch) -> Tokens:
  return Tokens(jnp.asarray(batch.source_segments), jnp.asarray(batch.source_positions))


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
    return relative_buckets(query.positions, key.positions, config.relative_buckets, config.max_distance, bidirectional)

  def masks(query, key, prefix, straight):
    """Of each kind of layers. In a `straight` line a document's tokens stand one after the other, so windows are stretches."""
    found, lengths = {}, _lengths(query, key)
    may_fuse = config.attention == 'auto' and not config.relative_buckets
    one_kernel = may_fuse and not config.attention_cap and fused.is_supported(config.dtype, config.head_dim, *lengths)
    by_document = may_fuse and straight and not prefix and splash.is_supported(*lengths)
    for window in {kind.window for kind in config.layer_kinds}:
      def sees(queries, keys, window=window):
        sides = _part(query, queries), _part(key, keys)
        return attention_mask(*sides) & window_mask(window, *sides) if window else attention_mask(*sides)
      found[window] = (QueryBlocks((0, lengths[0]), (0,), query.segments[None], True, window),) if by_document else stages(
          sees, *lengths, prefix, window if straight and not prefix else 0, one_kernel)
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
    return apply(batch.source_tokens, batch.source_positions, shared, method='encode'), tokens

  def init(key):
    one = jnp.ones((1, 1), jnp.int32)
    batch = Batch(one, 0 * one, one).with_source(Batch(one, 0 * one, one))

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
    x, _ = applying(variables, keys[1])(batch.tokens, tokens.positions,
                                        context(tokens, tokens, prefix, None, source, source_tokens, batch.branches is None),
                                        method='hidden')
    return x

  def logits(variables, x):
    return module.apply(variables, x, method='logits')

  def prefill(variables, batch, slots):
    """Reads prompts, padded on the left so that all end in the same slot; `slots` is the cache's whole size S.

    Where there is an encoder it reads the prompts, and `tokens` is the decoder's beginning.
    """
    B, L = batch.tokens.shape
    apply = applying(variables)
    source, source_tokens = encode(apply, batch)
    pad = lambda x: jnp.pad(x, ((0, 0), (0, slots - L)))
    prefix = _prefix(variables)
    query = _tokens(batch, prefix)
    key = jax.tree.map(pad, query)._replace(slots=jnp.broadcast_to(jnp.arange(slots), (B, slots)))
    empty = jnp.zeros((config.layers, B, config.kv_heads, slots, config.head_dim), DTYPES[config.dtype])
    x, layers = apply(batch.tokens, query.positions,
                      context(query, key, prefix, jnp.int32(0), source, source_tokens), (empty, empty), method='hidden')
    return x[:, -1], Cache(layers, key, source_tokens, jnp.int32(L))

  def step(variables, cache, tokens):
    at = cache.used
    position = jax.lax.dynamic_index_in_dim(cache.tokens.positions, at - 1, 1, keepdims=False) + 1
    key = cache.tokens._replace(segments=cache.tokens.segments.at[:, at].set(1),
                                positions=cache.tokens.positions.at[:, at].set(position))
    query = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, at, 1, 1), key)
    x, layers = applying(variables)(tokens[:, None], query.positions,
                                    context(query, key, _prefix(variables), at, None, cache.source), cache.layers,
                                    method='hidden')
    return x[:, 0], Cache(layers, key, cache.source, at + 1)

  def read(variables, layers, tokens, places, source=None):
    """Reads the next tokens of rows that each go their own way; what stands behind a row's last token is written over later.

    `layers` are the keys and values of all rows, each [N, rows, K, S, head_dim]; with an encoder `source` holds what these rows
    cross to, as `Cache.layers` has it behind those, and how many tokens of it each has [B].
    """
    prefix, crossed, seen = _prefix(variables), (), None
    if source is not None:
      *crossed, lengths = source
      numbers = jnp.broadcast_to(jnp.arange(crossed[0].shape[3]), (len(tokens), crossed[0].shape[3]))
      seen = Tokens((numbers < lengths[:, None]).astype(jnp.int32), numbers)
    query = places.queries(tokens.shape[1], prefix)
    x, layers = applying(variables)(tokens, query.positions, context(query, places.keys(prefix), prefix, places, None, seen),
                                    (*layers, *crossed), method='hidden')
    return x, layers[:2]

  def states(variables, batch):
    if not config.has_encoder:
      return hidden(variables, batch)
    return encode(applying(variables), batch)[0]

  return Model(config, init, hidden, logits, prefill, step, read, states)


def in_stack(path: str) -> bool:
  """Whether a parameter is one of a stack of layers."""
  return not {'layers', LAST_LAYERS}.isdisjoint(path.split('/'))


def transpose_kernels(params: Tree) -> Tree:
  """The same parameters with every kernel that is an array kept transposed (see `kernels`)."""
  def one(path: str, x: Any) -> Any:
    return transposed(x) if path.endswith('/kernel') and not is_kernel(x) else x
  return tree.map_named(one, params, is_leaf=lambda x: is_unstacked(x) or is_kernel(x))


def unstack_layers(params: Tree) -> Tree:
  """The same parameters with every layer's on its own (see `unstacked`)."""
  def one(path: str, x: Any) -> Any:
    return unstack(x) if in_stack(path) and not is_unstacked(x) else x
  return tree.map_named(one, params, is_leaf=is_unstacked)


def split_last_layers(config: ModelConfig, params: Tree, count: int) -> tuple[ModelConfig, Tree]:
  """The same model with its last `count` layers in a stack of their own, so that those alone can learn.

  Args:
    config: of the model as it is; some of its layers may stand apart already.
    params: its parameters.
    count: of the layers; 0: all stand in one stack.
  """
  parts = [params[name] for name in stacks(config.layers, config.last_layers)]
  whole = parts[0] if len(parts) == 1 else map_stacks(concatenated, *parts)
  rest = {name: x for name, x in params.items() if name not in ('layers', LAST_LAYERS)}
  split = {name: map_stacks(itemgetter(of), whole) if count else whole for name, of in stacks(config.layers, count).items()}
  return dataclasses.replace(config, last_layers=count), rest | split
