"""What deltas are before they have learned. Each function here gives a `Make` for `bind`.

Initial values are PEFT's, where PEFT has the method, so that a comparison with its numbers compares nothing else.
"""

import math
import re
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from research.errors import InputError
from research.models.config import ModelConfig
from research.models.kernels import dense
from research.models.sites import Site
from research.strategies import deltas
from research.strategies.deltas import Delta

Array = jax.Array


class Base(NamedTuple):
  """What initial values may depend on, beside the sites."""
  config: ModelConfig
  encode: Callable[[str], list[int]] | None      # text -> token ids


Make = Callable[[Array, dict[str, Site], Base], dict[str, Delta]]     # all of a row's sites at once, since some share leaves


def _each(make: Callable[[Array, str, Site], Delta]) -> Make:
  """A delta for every site, whose initial values depend on the key and the site's path alone."""
  return lambda key, sites, base: {
      path: make(jax.random.fold_in(key, zlib.crc32(path.encode())), path, site) for path, site in sites.items()}


def _uniform(key: Array, shape: tuple[int, ...], bound: float) -> Array:
  return jax.random.uniform(key, shape, jnp.float32, -bound, bound)


def _rate(rate: float) -> Array | None:
  """A rate of dropout as deltas have it."""
  return jnp.float32(rate) if rate else None


class Ranks(NamedTuple):
  """Rank and scale of every site: patterns over paths, of which the first that matches counts, and a default."""
  rank: int
  alpha: float
  rank_pattern: Mapping[str, int]
  alpha_pattern: Mapping[str, float]
  root: bool = False          # whether alpha is divided by √rank rather than rank

  def at(self, path: str, site: Site) -> tuple[int, float]:
    """(rank, scale)

    Raises:
      InputError: the rank is above the smaller side of the site's matrix.
    """
    first = lambda patterns, default: next((v for p, v in patterns.items() if re.search(p, path)), default)
    rank = first(self.rank_pattern, self.rank)
    if rank > site.devices * min(site.inputs, site.outputs):
      raise InputError(f'strategy.rank={rank}: above the smaller side of a {site.inputs} x {site.outputs} matrix ({path})')
    return rank, first(self.alpha_pattern, self.alpha) / (math.sqrt(rank) if self.root else rank)


def _kernel(site: Site) -> Array:
  """The kernel at a site, in float32; several as one."""
  return jnp.concatenate([dense(value, jnp.float32) for value in site.values], axis=-1)


def low_rank(ranks: Ranks, rate: float) -> Make:
  """A ~ U(-1/√I, 1/√I), B = 0; of an embedding A = 0, B ~ N(0, 1)."""
  def make(key, path, site):
    rank, scale = ranks.at(path, site)
    if site.kind == 'embedding':
      return deltas.LowRankEmbedding(jnp.zeros((site.inputs, rank)), jax.random.normal(key, (rank, site.outputs)), scale)
    a = _uniform(key, (*site.stack, site.inputs, rank), site.inputs ** -0.5)
    return deltas.LowRank(a, jnp.zeros((*site.stack, rank, site.outputs)), _rate(rate), scale)
  return _each(make)


def principal(ranks: Ranks, rate: float) -> Make:
  """s A B is the kernel's best approximation of rank R, its singular values shared evenly between A and B."""
  def make(key, path, site):
    rank, scale = ranks.at(path, site)
    u, s, v = jnp.linalg.svd(_kernel(site), full_matrices=False)
    root = jnp.sqrt(s[..., :rank] / scale)
    a, b = u[..., :rank] * root[..., None, :], root[..., None] * v[..., :rank, :]
    return deltas.PiSSA(a, b, a, b, _rate(rate), scale)
  return _each(make)


def dora(ranks: Ranks, rate: float) -> Make:
  """As LoRA; m is the norm of every output's weights."""
  def make(key, path, site):
    rank, scale = ranks.at(path, site)
    a = _uniform(key, (*site.stack, site.inputs, rank), site.inputs ** -0.5)
    square = jnp.concatenate([deltas.column_squares(value) for value in site.values], axis=-1)
    return deltas.Dora(a, jnp.zeros((*site.stack, rank, site.outputs)), jnp.sqrt(square), square, _rate(rate), scale)
  return _each(make)


def vera(rank: int, initial: float, rate: float) -> Make:
  """A and B ~ Kaiming's uniform, as large as the largest site, of which others take a corner; d = `initial`, o = 0.

  Args:
    rank: R, of A [I, R] and B [R, O].
    initial: what every entry of d begins as.
    rate: of the dropout on what A reads; 0 for none.
  """
  def make(key, sites, base):
    first, second = jax.random.split(key)
    inputs, outputs = (max(getattr(site, side) for site in sites.values()) for side in ('inputs', 'outputs'))
    a = _uniform(first, (inputs, rank), math.sqrt(6 / inputs))
    b = _uniform(second, (rank, outputs), math.sqrt(6 / rank))
    dropped = _rate(rate)
    return {path: deltas.Vera(jnp.full((*site.stack, rank), initial, jnp.float32), jnp.zeros((*site.stack, site.outputs)),
                              a[:site.inputs], b[:, :site.outputs], dropped) for path, site in sites.items()}
  return make


def rotation(block: int, neumann: int) -> Make:
  """Q = 0: nothing is rotated."""
  def make(key, path, site):
    if site.inputs % block:
      raise InputError(f'strategy.block={block}: does not divide the {site.inputs} inputs at {path}')
    return deltas.Oft(jnp.zeros((*site.stack, site.inputs // block, block * (block - 1) // 2)), block, neumann)
  return _each(make)


def scale_out() -> Make:
  return _each(lambda key, path, site: deltas.ScaleOut(jnp.ones((*site.stack, site.outputs))))


def scale_in() -> Make:
  return _each(lambda key, path, site: deltas.ScaleIn(jnp.ones((*site.stack, site.inputs))))


def shift() -> Make:
  return _each(lambda key, path, site: deltas.AddedBias(jnp.zeros((*site.stack, site.outputs))))


def bottleneck(width: int, rate: float, **form: Any) -> Make:
  """U = 0 and biases 0, so that nothing changes at first (the paper's nearly so); D ~ U(-1/√I, 1/√I)."""
  def make(key, path, site):
    down = _uniform(key, (*site.stack, site.inputs, width), site.inputs ** -0.5)
    zeros = lambda *shape: jnp.zeros((*site.stack, *shape))
    return deltas.Bottleneck(down, zeros(width), zeros(width, site.outputs), zeros(site.outputs), _rate(rate), **form)
  return _each(make)


def prefix(slots: int) -> Make:
  """Keys and values ~ N(0, 1)."""
  def make(key, path, site):
    keys, values = jax.random.normal(key, (2, *site.stack, slots, site.outputs))
    return deltas.Prefix(keys, values, slots)
  return _each(make)


def projected_prefix(slots: int, hidden: int) -> Make:
  """E ~ N(0, 1), matrices and biases of the MLP ~ U(-1/√I, 1/√I)."""
  def make(key, path, site):
    keys, width = jax.random.split(key, 5), site.outputs
    return deltas.ProjectedPrefix(
        jax.random.normal(keys[0], (slots, width)), _uniform(keys[1], (width, hidden), width ** -0.5),
        _uniform(keys[2], (hidden,), width ** -0.5), _uniform(keys[3], (*site.stack, hidden, 2 * width), hidden ** -0.5),
        _uniform(keys[4], (*site.stack, 2 * width), hidden ** -0.5), slots)
  return _each(make)


def prompt(slots: int, init: str, text: str | None) -> Make:
  """The vectors of a soft prompt [slots, D].

  Args:
    slots: how many vectors.
    init: `random`, N(0, 1); `vocab`, the embeddings of tokens drawn from the vocabulary; `text`, those of a text's tokens,
      repeated or cut to `slots`.
    text: the text, for `text` alone.
  """
  def make(key, sites, base):
    [(path, site)] = sites.items()
    if init == 'random':
      return {path: deltas.Prompt(jax.random.normal(key, (slots, site.outputs)))}
    if init == 'vocab':
      ids = jax.random.randint(key, (slots,), 0, site.inputs)
    else:
      found = base.encode(text)
      if not found:
        raise InputError(f'strategy.init_text={text!r}: has no tokens')
      ids = jnp.asarray((found * -(-slots // len(found)))[:slots])
    return {path: deltas.Prompt(jnp.take(site.values[0], ids, axis=0).astype(jnp.float32) * base.config.embed_scale)}
  return make
