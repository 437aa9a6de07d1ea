"""How a model knows where a token stands: rotary angles and relative buckets, computed once a call for all layers."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from research.errors import InputError

Array = jax.Array


class Dynamic(NamedTuple):
  """NTK scaling that sets in beyond the trained length (by /u/emozilla; `dynamic` in transformers)."""
  theta: float
  factor: float
  trained: int           # the length up to which nothing is scaled


class Rope(NamedTuple):
  """Rotary positions (Su et al. 2021, arXiv 2104.09864): pair i of a head turns by position · inverse[i]."""
  inverse: tuple[float, ...]        # of the head's first 2 · len(inverse) dimensions; the others do not turn
  scale: float = 1.0                # of cos and sin
  dynamic: Dynamic | None = None


_WIDEST = 2 ** 16      # a head, and that is a hundred times wider than any
_LARGEST = float(np.finfo(np.float32).max)
_NUMBERS = {'rope_theta', 'factor', 'partial_rotary_factor', 'original_max_position_embeddings', 'low_freq_factor',
            'high_freq_factor', 'beta_fast', 'beta_slow', 'attention_factor', 'mscale', 'mscale_all_dim'}


def _inverse(theta: float, dims: int) -> np.ndarray:
  return theta ** -(np.arange(0, dims, 2) / dims)


def still(dims: int) -> Rope:
  """The rope of a layer without positions: every angle is 0."""
  return Rope((0.0,) * (dims // 2))


def rope_of(parameters: dict[str, Any], head_dim: int, context: int, where: str = 'config.json', partial: bool = False) -> Rope:
  """The rope that a config's `rope_parameters` describe.

  Args:
    parameters: `rope_theta`, `rope_type` and what that type needs, under transformers' names.
    head_dim: the dimensions of a head.
    context: the config's max_position_embeddings.
    where: what to call the file in an error.
    partial: whether the family turns a share of a head's dimensions; the others' originals do not read
      `partial_rotary_factor`, but for scaled ropes, where they then fail.
  Raises:
    InputError: a `rope_type` that is not implemented, or one of its fields is missing or wrong.
  """
  for name in parameters.keys() & _NUMBERS:
    value = parameters[name]
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value <= _LARGEST:
      raise InputError(f'{where}: {name}={value!r:.60}: must be a number above 0 and at most {_LARGEST:.2g}')
  if head_dim > _WIDEST:      # before a list of that length is made
    raise InputError(f'{where}: heads of {head_dim:,} dimensions (head_dim, or the width over the number of heads): must be at '
                     f'most {_WIDEST:,}')
  kind, theta = parameters.get('rope_type', 'default'), float(parameters['rope_theta'])
  share = parameters.get('partial_rotary_factor', 1)
  if not partial and share != 1 and kind != 'default':
    raise InputError(f'{where}: partial_rotary_factor={share!r:.60} with rope_type={kind!r:.60} is not supported for this '
                     'family, whose heads turn whole (known: 1)')
  dims = int(head_dim * share) if partial else head_dim
  if not 0 < dims <= head_dim - dims % 2 or (dims % 2 and kind in ('dynamic', 'yarn')) or theta <= 1:
    raise InputError(f'{where}: rope_type={kind!r:.60} with rope_theta={theta:g} and {dims} turning dimensions of heads of '
                     f'{head_dim} is not supported')
  inverse = _inverse(theta, dims)
  try:
    if kind == 'default':
      return Rope(tuple(inverse))
    if kind == 'linear':                    # position interpolation (Chen et al. 2023, arXiv 2306.15595)
      return Rope(tuple(inverse / parameters['factor']))
    if kind == 'dynamic':
      return Rope(tuple(inverse), dynamic=Dynamic(theta, float(parameters['factor']), context))
    if kind == 'llama3':
      if not parameters['low_freq_factor'] < parameters['high_freq_factor']:
        raise InputError(f'{where}: high_freq_factor must be above low_freq_factor')
      return Rope(tuple(_llama3(inverse, parameters)))
    if kind == 'yarn':
      return _yarn(inverse, theta, dims, parameters, context)
  except KeyError as e:
    raise InputError(f'{where}: rope_type={kind!r} lacks {e.args[0]}') from None
  raise InputError(f'{where}: rope_type={kind!r:.60} is not supported (known: default, linear, dynamic, yarn, llama3)')


def _llama3(inverse: np.ndarray, p: dict[str, Any]) -> np.ndarray:
  """Llama 3.1: long waves are stretched by `factor`, short ones stay, those between go over smoothly."""
  trained = p['original_max_position_embeddings']
  low, high = p['low_freq_factor'], p['high_freq_factor']
  turns = trained * inverse / (2 * math.pi)                       # over the trained length
  stays = np.clip((turns - low) / (high - low), 0, 1)
  return inverse * (stays + (1 - stays) / p['factor'])


def _yarn(inverse: np.ndarray, theta: float, dims: int, p: dict[str, Any], context: int) -> Rope:
  """YaRN (Peng et al. 2023, arXiv 2309.00071): interpolation by parts, and warmer scores."""
  trained = p.get('original_max_position_embeddings') or context
  factor = p.get('factor') or context / trained

  def warmth(m=1.0):
    return 0.1 * m * math.log(factor) + 1.0 if factor > 1 else 1.0

  def turning(times):                        # the pair that turns this often over the trained length
    return dims * math.log(trained / (times * 2 * math.pi)) / (2 * math.log(theta))

  first, last = turning(p.get('beta_fast') or 32), turning(p.get('beta_slow') or 1)
  if p.get('truncate', True):
    first, last = math.floor(first), math.ceil(last)
  first, last = max(first, 0), min(last, dims - 1)
  ramp = np.clip((np.arange(dims // 2) - first) / (last - first if last != first else 1e-3), 0, 1)
  scale = p.get('attention_factor')
  if scale is None:
    one, all_dims = p.get('mscale'), p.get('mscale_all_dim')
    scale = warmth(one) / warmth(all_dims) if one and all_dims else warmth()
  return Rope(tuple(inverse * (1 - ramp) + inverse / factor * ramp), float(scale))


class Tokens(NamedTuple):
  """What attention knows of each token of a line; all int32 [B, L]."""
  segments: Array                     # the document's number on its line; 0: padding
  positions: Array                    # in its document, counted from a prefix's first
  slots: Array | None = None          # on its line, or in its cache; not read in an encoder
  branches: Array | None = None       # the answer's number in its document, 0: the prompt; not read in an encoder


def angles(rope: Rope, tokens: Tokens) -> tuple[Array, Array]:
  """cos and sin of every token's angles, each [B, L, len(inverse)] float32.

  Args:
    rope: of one kind of layers.
    tokens: `positions` [B, L]; dynamic scaling also reads `segments`, for the length of each token's own document.
  """
  positions, inverse = tokens.positions, jnp.asarray(rope.inverse, jnp.float32)
  if rope.dynamic:
    inverse = _stretched(rope.dynamic, tokens, 2 * len(rope.inverse))
  angle = positions[..., None].astype(jnp.float32) * inverse
  return jnp.cos(angle) * rope.scale, jnp.sin(angle) * rope.scale


def _stretched(d: Dynamic, tokens: Tokens, dims: int) -> Array:
  """[B, L, dims / 2]: each token's inverse frequencies, by how long its document is so far as this call sees it."""
  segments = tokens.segments
  same = segments[:, :, None] == segments[:, None, :]
  length = 1 + jnp.max(jnp.where(same, tokens.positions[:, None, :], 0), axis=-1)
  stretch = d.factor * jnp.maximum(length, d.trained) / d.trained - (d.factor - 1)
  theta = d.theta * stretch ** (dims / (dims - 2))
  return theta[..., None] ** -(jnp.arange(0, dims, 2, dtype=jnp.float32) / dims)


def rotate(x: Array, cos: Array, sin: Array) -> Array:
  """Turns the first dimensions of each head, as many as the angles are for; the two halves of those are the pairs' members.

  Args:
    x: queries or keys [B, L, H, head_dim]; the result has its shape and dtype.
    cos: [B, L, half of the dimensions that turn], as `angles` gives it.
    sin: of cos' shape.
  """
  turning = 2 * cos.shape[-1]
  first, second = jnp.split(x[..., :turning].astype(jnp.float32), 2, axis=-1)
  cos, sin = cos[:, :, None], sin[:, :, None]
  turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)
  return turned if turning == x.shape[-1] else jnp.concatenate([turned, x[..., turning:]], axis=-1)


def relative_buckets(query: Array, key: Array, count: int, max_distance: int, bidirectional: bool) -> Array:
  """The bucket of every distance key - query (T5; Raffel et al. 2020, arXiv 1910.10683): [B, L, S] int32.

  Near distances have a bucket each, far ones share them logarithmically, all beyond `max_distance` the last.

  Args:
    query: positions [B, L].
    key: positions [B, S].
    count: how many buckets there are.
    max_distance: from here on all distances share a bucket.
    bidirectional: half of the buckets are for keys that come later; otherwise those count as distance 0.
  """
  distance = key[:, None, :] - query[:, :, None]
  offset: Array | int = 0
  if bidirectional:
    count //= 2
    offset = jnp.where(distance > 0, count, 0)
    distance = jnp.abs(distance)
  else:
    distance = jnp.maximum(-distance, 0)
  near = count // 2
  far = jnp.log(jnp.maximum(distance, 1).astype(jnp.float32) / near) / math.log(max_distance / near) * (count - near)
  return offset + jnp.where(distance < near, distance, jnp.minimum(near + far.astype(jnp.int32), count - 1))
