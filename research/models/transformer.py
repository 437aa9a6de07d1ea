"""The decoder of every family, and the pure functions by which the rest of the code knows it.

Flax ends here: outside this folder a model is the NamedTuple `Model`, and its variables are a plain tree
`{'params': …, 'delta': …}`.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from research import tree
from research.models.config import DTYPES, ModelConfig
from research.models.layers import Dense, RMSNorm, attend, output, rope, rotate, visible
from research.models.products import contract
from research.tree import Tree

Array = jax.Array
Batch = dict[str, Array]


class Cache(NamedTuple):
  """Keys and values of what was read so far: S slots a row, `used` of them filled, the same for every row."""
  keys: Array        # [N, B, S, K, head_dim]
  values: Array      # [N, B, S, K, head_dim]
  tokens: Batch      # slots, segments, branches: each [B, S]
  position: Array    # [B], of the next token
  used: Array        # []


class Context(NamedTuple):
  """What all layers of one call share; computed once."""
  cos: Array         # [B, L, head_dim / 2]
  sin: Array
  mask: Array        # [B, L, S]
  write: Array | None  # [] the first cache slot to fill, or None where there is no cache


class Attention(nn.Module):
  config: ModelConfig

  @nn.compact
  def __call__(self, x, context: Context, cache):
    c = self.config
    heads = lambda y: y.reshape(*y.shape[:2], -1, c.head_dim)
    q = rotate(heads(Dense(c.heads * c.head_dim, name='q')(x)), context.cos, context.sin)
    k = rotate(heads(Dense(c.kv_heads * c.head_dim, name='k')(x)), context.cos, context.sin)
    v = heads(Dense(c.kv_heads * c.head_dim, name='v')(x))
    if cache is not None:
      k, v = cache = tuple(jax.lax.dynamic_update_slice_in_dim(old, new.astype(old.dtype), context.write, 1)
                           for old, new in zip(cache, (k, v)))
    y = attend(q, k, v, context.mask)
    y = Dense(c.width, name='o')(y.reshape(*y.shape[:2], -1))
    return output(self, y), cache


class GatedMLP(nn.Module):
  """down(silu(gate(x)) * up(x)) (Shazeer 2020, arXiv 2002.05202)."""
  config: ModelConfig

  @nn.compact
  def __call__(self, x):
    c = self.config
    y = nn.silu(Dense(c.hidden, name='gate')(x)) * Dense(c.hidden, name='up')(x)
    return output(self, Dense(c.width, name='down')(y))


class Block(nn.Module):
  config: ModelConfig

  @nn.compact
  def __call__(self, x, cache, context: Context):                    # [B, L, D]
    c = self.config
    y, cache = Attention(c, name='attn')(RMSNorm(c.norm_eps, name='norm_attn')(x), context, cache)
    x = x + y
    x = x + GatedMLP(c, name='mlp')(RMSNorm(c.norm_eps, name='norm_mlp')(x))
    return x, cache


class Transformer(nn.Module):
  config: ModelConfig

  def setup(self):
    c = self.config
    self.embed = nn.Embed(c.vocab, c.width, embedding_init=nn.initializers.normal(0.02))
    self.layers = nn.scan(
        Block, variable_axes={'params': 0, 'delta': 0}, split_rngs={'params': True, 'dropout': True},
        in_axes=(0, nn.broadcast), length=c.layers, unroll=1 if c.scan else c.layers)(c)
    self.norm = RMSNorm(c.norm_eps)
    if not c.tied:
      self.head = Dense(c.vocab)

  def hidden(self, tokens, context: Context, cache=None):
    """tokens [B, L] -> final normed activations [B, L, D], and the cache with these tokens in it."""
    x = self.embed(tokens).astype(DTYPES[self.config.dtype])
    x, cache = self.layers(x, cache, context)
    return self.norm(x), cache

  def logits(self, hidden):
    """[..., D] -> [..., V] float32."""
    if not self.config.tied:
      return self.head(hidden).astype(jnp.float32)
    lead = 'ab'[:hidden.ndim - 1]
    return contract(f'{lead}d,vd->{lead}v', hidden, self.embed.embedding)

  def everything(self, tokens, context):
    return self.logits(self.hidden(tokens, context)[0])


class Model(NamedTuple):
  """A model as pure functions of its variables `{'params': …, 'delta': …}`.

  A batch holds `tokens`, `positions`, `segments` and `branches`, each int32 [B, L] (see `layers.visible`).
  """
  config: ModelConfig
  init: Callable[[Array], Tree]                      # key -> params, float32, layers stacked on axis 0
  hidden: Callable[..., Array]                       # (variables, batch, key=None) -> [B, L, D]
  logits: Callable[[Tree, Array], Array]             # (variables, hidden [..., D]) -> [..., V] float32
  prefill: Callable[..., tuple[Array, Cache]]        # (variables, batch, slots) -> last hidden [B, D], cache
  step: Callable[..., tuple[Array, Cache]]           # (variables, cache, tokens [B]) -> hidden [B, D], cache


def _tokens(batch: Batch) -> Batch:
  slots = jnp.broadcast_to(jnp.arange(batch['tokens'].shape[1]), batch['tokens'].shape)
  return {'slots': slots, 'segments': batch['segments'], 'branches': batch['branches']}


@lru_cache(maxsize=64)
def build(config: ModelConfig) -> Model:
  """The model of a config. The same config gives the same object, so compiled steps are found again."""
  module = Transformer(config)

  def context(query, key, positions, write=None):
    return Context(*rope(positions, config.head_dim, config.rope_theta), visible(query, key), write)

  def init(key):
    tokens = {n: jnp.ones((1, 1), jnp.int32) for n in ('tokens', 'segments', 'branches')}
    tokens = {**tokens, 'branches': jnp.zeros((1, 1), jnp.int32)}
    shared = context(_tokens(tokens), _tokens(tokens), jnp.zeros((1, 1), jnp.int32))
    return module.init(key, tokens['tokens'], shared, method='everything')['params']

  def hidden(variables, batch, key=None):
    tokens = _tokens(batch)
    x, _ = module.apply(variables, batch['tokens'], context(tokens, tokens, batch['positions']),
                        rngs=None if key is None else {'dropout': key}, method='hidden')
    return x

  def logits(variables, x):
    return module.apply(variables, x, method='logits')

  def prefill(variables, batch, slots):
    """Reads prompts, padded on the left so that all end in the same slot; `slots` is the cache's whole size S."""
    B, L = batch['tokens'].shape
    pad = lambda x: jnp.pad(x, ((0, 0), (0, slots - L)))
    query = _tokens(batch)
    key = {n: pad(x) for n, x in query.items()} | {'slots': jnp.broadcast_to(jnp.arange(slots), (B, slots))}
    empty = jnp.zeros((config.layers, B, slots, config.kv_heads, config.head_dim), DTYPES[config.dtype])
    x, (keys, values) = module.apply(variables, batch['tokens'],
                                     context(query, key, batch['positions'], jnp.int32(0)), (empty, empty),
                                     method='hidden')
    return x[:, -1], Cache(keys, values, key, batch['positions'][:, -1] + 1, jnp.int32(L))

  def step(variables, cache, tokens):
    at = cache.used
    key = {**cache.tokens, 'segments': cache.tokens['segments'].at[:, at].set(1)}
    query = {n: jax.lax.dynamic_slice_in_dim(x, at, 1, 1) for n, x in key.items()}
    x, (keys, values) = module.apply(variables, tokens[:, None],
                                     context(query, key, cache.position[:, None], at),
                                     (cache.keys, cache.values), method='hidden')
    return x[:, 0], Cache(keys, values, key, cache.position + 1, at + 1)

  return Model(config, init, hidden, logits, prefill, step)


class Site(NamedTuple):
  """A place where a delta can stand."""
  kind: str                   # 'kernel' (a matrix) or 'output' (a sublayer's result)
  stack: tuple[int, ...]      # leading axes: (N,) in the layer stack, () elsewhere
  inputs: int                 # I; the width for an output
  outputs: int                # O


def sites(config: ModelConfig, params: Tree) -> dict[str, Site]:
  """All sites of a model by path: every kernel at its parameter's path, every sublayer's result at `…/output`."""
  found = {}
  for path, x in tree.leaves(params).items():
    if path.endswith('/kernel'):
      *stack, inputs, outputs = x.shape
      found[path] = Site('kernel', tuple(stack), inputs, outputs)
  for sublayer in ('attn', 'mlp'):
    found[f'layers/{sublayer}/output'] = Site('output', (config.layers,), config.width, config.width)
  return found
