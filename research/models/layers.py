"""Layers that the families share. Each asks for the deltas at its own sites (`delta_at`), and never who put them there."""

import dataclasses
import itertools
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core.scope import LazyRng
from jax.ad_checkpoint import checkpoint_name

from research import tree
from research.distributed import mesh
from research.models import fused
from research.models.config import ModelConfig
from research.models.kernels import is_kernel
from research.models.positions import Tokens
from research.models.products import affine, contract, dot

Array = jax.Array

PRODUCT = 'product'     # what kernels give, where the backward pass computes the rest again (`config.REMAT`)
SHARED = -1   # segment of tokens that every document of their line sees: an instruction, few-shot demonstrations

ACTIVATIONS = {
    'silu': nn.silu,
    'relu': nn.relu,
    'gelu': lambda x: nn.gelu(x, approximate=False),
    'gelu_tanh': lambda x: nn.gelu(x, approximate=True),
}


def _variable(module: nn.Module, collection: str, path: list[str]) -> Any:
  found: Any = module.get_variable(collection, path[0])
  for name in path[1:]:
    found = None if found is None else found.get(name)
  return found


def delta_at(module: nn.Module, site: str):
  """What a strategy put at a site of this module, or at one of a module within, or None.

  The collection `delta` holds it, and `shared` those of its leaves that are the same in all layers of a stack.
  """
  delta, shared = (_variable(module, collection, site.split('/')) for collection in ('delta', 'shared'))
  return delta if shared is None else tree.join(delta, shared)


def inner_products(module: nn.Module, names: tuple[str, ...], x: Array) -> dict[str, Array]:
  """What the deltas at several kernels first make of the input that these share, in one product for all.

  Args:
    module: the kernels' parent.
    names: of the kernels, each a `Dense` of the module.
    x: what they read, [B, L, I].
  Returns:
    The part of each delta that has one (`Delta.reads`), [B, L, R]; none where there are fewer than two such deltas, and none of
    a delta that reads the input with dropout of its own.
  """
  found = {}
  for name in names:
    delta = delta_at(module, f'{name}/kernel')
    drops = module.has_rng('dropout') and getattr(delta, 'fixed_rate', None) is not None
    if hasattr(delta, 'reads') and not drops and (reads := delta.reads()) is not None:
      found[name] = reads
  if len(found) < 2:
    return {}
  ends = list(itertools.accumulate(x.shape[-1] for x in found.values()))
  inner = dot(x, jnp.concatenate(list(found.values()), axis=-1))
  return dict(zip(found, jnp.split(inner, ends[:-1], axis=-1)))


def dropout_key(module: nn.Module):
  """A module's own key while training, and None otherwise. It depends on the module's path and on nothing else."""
  if not module.has_rng('dropout'):
    return None
  assert module.scope is not None      # it is being applied
  return LazyRng.create(module.scope.rngs['dropout'], 2).as_jax_rng()      # the number that it has always had in a scan


class Dense(nn.Module):
  """x @ kernel + bias where there is one, as the deltas at `kernel` and `bias` change it."""
  features: int
  bias: bool = False
  init_std: float | None = None    # standard deviation of the kernel's initial values; None: 1 / √I

  @nn.compact
  def __call__(self, x: Array, delta: Any = None, inner: Array | None = None) -> Array:      # [B, L, I] -> [B, L, O]
    draw = nn.initializers.normal(x.shape[-1] ** -0.5 if self.init_std is None else self.init_std)
    kernel: Any = self.get_variable('params', 'kernel')
    if not is_kernel(kernel):
      kernel = self.param('kernel', draw, (x.shape[-1], self.features))
    bias = self.param('bias', nn.initializers.zeros, (self.features,)) if self.bias else delta_at(self, 'bias')
    if delta is None:                                                # else the part of one that several kernels share
      delta = delta_at(self, 'kernel')
    shared = {} if inner is None else {'inner': inner}               # the part of a product that several deltas share
    y = affine(x, kernel, bias) if delta is None else delta(x, kernel, bias, dropout_key(self), **shared)
    return checkpoint_name(y, PRODUCT)


class Embedding(nn.Module):
  """Tokens to vectors, times `scale`. Tokens below 0 are the places of a soft prompt: -1 its first vector, -2 its second."""
  vocab: int
  width: int
  init_std: float
  dtype: Any
  scale: float = 1.0

  def setup(self):
    self.embedding = self.param('embedding', nn.initializers.normal(self.init_std), (self.vocab, self.width))

  def __call__(self, tokens: Array) -> Array:                        # [B, L] -> [B, L, D]
    words = jnp.maximum(tokens, 0)
    x = mesh.constrain_lookup(jnp.take(self.embedding, words, axis=0).astype(self.dtype))
    delta, prompt = delta_at(self, 'embedding'), delta_at(self, 'prompt')
    if delta is not None:
      x = x + delta(words, dropout_key(self)).astype(x.dtype)
    if self.scale != 1:
      x = x * jnp.asarray(self.scale, x.dtype)
    return x if prompt is None else prompt(tokens, x)


class Norm(nn.Module):
  """Layer normalisation in float32: of root mean square, or of mean and variance.

  'rms': x / rms(x) · (offset + scale) (Zhang & Sennrich 2019, arXiv 1910.07467).
  'layer': (x - mean(x)) / std(x) · (offset + scale) + bias (Ba et al. 2016, arXiv 1607.06450).
  """
  config: ModelConfig

  @nn.compact
  def __call__(self, x: Array) -> Array:
    c = self.config
    start = nn.initializers.constant(1.0 - c.norm_offset)
    scale = c.norm_offset + self.param('scale', start, (x.shape[-1],)).astype(jnp.float32)
    y = x.astype(jnp.float32)
    if c.norm == 'layer':
      y = y - jnp.mean(y, axis=-1, keepdims=True)
    y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + c.norm_eps) * scale
    if c.norm == 'layer':
      y = y + self.param('bias', nn.initializers.zeros, (x.shape[-1],)).astype(jnp.float32)
    return y.astype(x.dtype)


def output(module: nn.Module, x: Array, y: Array) -> Array:
  """A sublayer's result, before the residual sum, as the delta at `output` changes it.

  Args:
    module: the sublayer.
    x: its input [B, L, D].
    y: its result [B, L, D].
  """
  delta = delta_at(module, 'output')
  return y if delta is None else delta(x, y, dropout_key(module))


def attention_mask(query: Tokens, key: Tokens, bidirectional: bool = False) -> Array:
  """Which key each query sees: [B, L, S] bool.

  A token sees itself and earlier slots of its own document (`segments`; 0 is padding) and of the line's shared beginning,
  and of its document only the trunk (branch 0) and its own branch: so several documents share a line, and several answers a
  prompt, without a leak. In an encoder it sees later slots too.

  Args:
    query: the tokens that see, [B, L].
    key: those that are seen, [B, S].
    bidirectional: whether a token sees all of its document; slots and branches are not read then.
  """
  document = same_document(query, key)
  if bidirectional:
    return document
  q, k = jax.tree.map(lambda x: x[:, :, None], query), jax.tree.map(lambda x: x[:, None, :], key)
  return (k.slots <= q.slots) & document & ((k.branches == 0) | (k.branches == q.branches))


def same_document(query: Tokens, key: Tokens) -> Array:
  """[B, L, S] bool: whether the key is no padding, and of the query's document or of what all documents share."""
  q, k = query.segments[:, :, None], key.segments[:, None, :]
  return (k != 0) & ((k == q) | (k == SHARED))


def window_mask(window: int, query: Tokens, key: Tokens) -> Array:
  """[B, L, S] bool: whether the key's position is one of the last `window`, the query's own among them.

  Args:
    window: how many positions, 1 or more.
    query: the tokens that see, [B, L].
    key: those that are seen, [B, S].
  """
  return query.positions[:, :, None] - key.positions[:, None, :] < window


def softcap(x: Array, cap: float) -> Array:
  """x, of any shape, softly kept between -cap and cap (Gemma 2); x itself where cap is 0."""
  return cap * jnp.tanh(x / cap) if cap else x


WHOLE = 1024     # queries of a line up to which all attend at one time
BLOCK = 512      # those that do on longer lines
STAGES = 4       # of a long line, each with its blocks and as many keys as the last of them sees


@partial(jax.tree_util.register_dataclass, data_fields=('mask',), meta_fields=('queries', 'starts', 'fused', 'window'))
@dataclasses.dataclass(frozen=True)
class QueryBlocks:
  """Queries that attend block by block, each block to an equally long stretch of keys outside of which it sees none."""
  queries: tuple[int, int]       # first and end, of L
  starts: tuple[int, ...]        # of each block's stretch, the first key
  mask: Array                    # [blocks, B, queries of a block, keys of a stretch], True where the query sees the key
  fused: bool = False            # the one stage of a line that attends by one kernel
  window: int = 0                # of a kernel whose `mask` is [1, B, L], the documents of the tokens


def stages(sees, length: int, slots: int, ahead: int | None = None, window: int = 0,
           one_kernel: bool = False) -> tuple[QueryBlocks, ...]:
  """What a line's queries see: one block of a short line, and of a long one no more than they could.

  Args:
    sees: (queries, keys), two slices -> [B, queries, keys] bool.
    length: L.
    slots: S.
    ahead: query i sees no key from slot `ahead` + i + 1 on; None: it may see all.
    window: a query sees no further back than this many slots, its own among them; 0: it may see all.
    one_kernel: the line attends by one (`fused`).
  """
  if one_kernel or length <= WHOLE:
    return (QueryBlocks((0, length), (0,), sees(slice(length), slice(slots))[None], one_kernel),)
  firsts = range(0, length, BLOCK)
  each = len(firsts) if ahead is None or window else -(-len(firsts) // STAGES)
  found = []
  for some in (firsts[i:i + each] for i in range(0, len(firsts), each)):
    end = min(some[-1] + BLOCK, length)
    keys = slots if ahead is None else min(ahead + end, window + BLOCK - 1 if window else slots)
    starts = tuple(min(max(0, ahead + first + 1 - window), slots - keys) if window and ahead is not None else 0
                   for first in some)
    masks = [sees(slice(first, min(first + BLOCK, end)), slice(start, start + keys)) for first, start in zip(some, starts)]
    found.append(QueryBlocks((some[0], end), starts, jnp.stack([_filled(mask, 1) for mask in masks])))
  return tuple(found)


def _filled(x: Array, axis: int) -> Array:
  """With 0 behind it, so that whole blocks of queries stand on the axis."""
  return jnp.pad(x, [(0, -x.shape[i] % BLOCK if i == axis else 0) for i in range(x.ndim)])


def attend(q: Array, k: Array, v: Array, stages: tuple[QueryBlocks, ...], scale: float, bias: Array | None = None,
           cap: float = 0.0) -> Array:
  """Grouped-query attention; on a long line one block of queries after the other.

  There the backward pass computes each block's scores again, so that only one block's exist at a time.

  Args:
    q: [B, L, H, head_dim].
    k: [B, K, S, head_dim].
    v: of k's shape.
    stages: what the queries see, as `stages` gives it.
    scale: of the scores.
    bias: [B, H, L, S], added to the scaled scores; None: nothing is.
    cap: of the scaled scores, before the bias (see `softcap`); 0: none.
  Returns:
    [B, L, H, head_dim]. A query that sees nothing (padding) gets a mean of values, which nobody reads.
  """
  if stages[0].fused:
    one = stages[0]
    return checkpoint_name(fused.attend(q, k.swapaxes(1, 2), v.swapaxes(1, 2), one.mask[0], scale, one.window, cap), PRODUCT)
  if len(stages) == len(stages[0].starts) == 1:
    return _attend(q, k, v, stages[0].mask[0], bias, scale, cap)

  @jax.checkpoint
  def of_block(block):
    q, mask, start, bias = block
    stretch = lambda x, axis: jax.lax.dynamic_slice_in_dim(x, start, mask.shape[-1], axis)
    return _attend(q, stretch(k, 2), stretch(v, 2), mask, bias if bias is None else stretch(bias, 3), scale, cap)

  def apart(x: Array, axis: int, stage: QueryBlocks) -> Array:      # the stage's queries of x, its blocks on a leading axis
    x = _filled(jax.lax.slice_in_dim(x, *stage.queries, axis=axis), axis)
    return jnp.moveaxis(x.reshape(*x.shape[:axis], -1, BLOCK, *x.shape[axis + 1:]), axis, 0)

  found = []
  for stage in stages:
    own = None if bias is None else apart(bias, 2, stage)
    y = jax.lax.map(of_block, (apart(q, 1, stage), stage.mask, jnp.asarray(stage.starts), own))
    found.append(jnp.moveaxis(y, 0, 1).reshape(q.shape[0], -1, *q.shape[2:]))
  return jnp.concatenate(found, axis=1)[:, :q.shape[1]]


def _attend(q: Array, k: Array, v: Array, mask: Array, bias: Array | None, scale: float, cap: float) -> Array:
  """All queries at one time, with one batched product per key head; softmax in float32. mask: [B, L, S]."""
  B, L, H, head_dim = q.shape
  K, G = k.shape[1], H // k.shape[1]
  q = q.reshape(B, L, K, G, head_dim).swapaxes(1, 2).reshape(B, K, -1, head_dim)          # [B, K, L·G, head_dim]
  scores = softcap(contract('bkqd,bksd->bkqs', q, k) * scale, cap).reshape(B, K, L, G, -1)  # float32
  scores = scores if bias is None else scores + bias.reshape(B, K, G, L, -1).swapaxes(2, 3)
  scores = jnp.where(mask[:, None, :, None], scores, jnp.finfo(jnp.float32).min).reshape(B, K, L * G, -1)
  with jax.softmax_custom_jvp(True):      # keeps its result alone for the backward pass: the array that the product keeps
    weights = jax.nn.softmax(scores, axis=-1).astype(q.dtype)
  y = contract('bkqs,bksd->bkqd', weights, v, q.dtype)
  return y.reshape(B, K, L, G, head_dim).swapaxes(1, 2).reshape(B, L, H, head_dim)
