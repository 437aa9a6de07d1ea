"""Layers that the families share. Each reads the `delta` collection at its own sites and never writes it."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from research.models.products import contract, dot

Array = jax.Array

SHARED = -1   # segment of tokens that every document of their line sees: an instruction, few-shot demonstrations


def _dropout_key(module: nn.Module):
  return module.make_rng('dropout') if module.has_rng('dropout') else None


class Dense(nn.Module):
  """x @ kernel, as the kernel's delta changes it."""
  features: int

  @nn.compact
  def __call__(self, x: Array) -> Array:                             # [B, L, I] -> [B, L, O]
    kernel = self.param('kernel', nn.initializers.normal(0.02), (x.shape[-1], self.features))
    delta = self.get_variable('delta', 'kernel')                     # None unless the strategy put one here
    return dot(x, kernel) if delta is None else delta(x, kernel, _dropout_key(self))


class RMSNorm(nn.Module):
  """x / rms(x) * scale, in float32 (Zhang & Sennrich 2019, arXiv 1910.07467)."""
  eps: float

  @nn.compact
  def __call__(self, x: Array) -> Array:
    scale = self.param('scale', nn.initializers.ones, (x.shape[-1],))
    y = x.astype(jnp.float32)
    y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + self.eps)
    return (y * scale).astype(x.dtype)


def output(module: nn.Module, y: Array) -> Array:
  """A sublayer's result before the residual sum, as the delta at the sublayer's `output` site changes it."""
  delta = module.get_variable('delta', 'output')
  return y if delta is None else delta(y, _dropout_key(module))


def rope(positions: Array, head_dim: int, theta: float) -> tuple[Array, Array]:
  """Rotary angles of every position (Su et al. 2021, arXiv 2104.09864): cos and sin, each [B, L, head_dim / 2]."""
  inverse = theta ** (-jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
  angle = positions[..., None].astype(jnp.float32) * inverse
  return jnp.cos(angle), jnp.sin(angle)


def rotate(x: Array, cos: Array, sin: Array) -> Array:
  """Rotates x [B, L, H, head_dim]; the two halves of a head are the pairs' first and second members."""
  first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  cos, sin = cos[:, :, None], sin[:, :, None]
  return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


def visible(query: dict[str, Array], key: dict[str, Array]) -> Array:
  """Which key each query sees: [B, L, S] bool.

  Each side holds `slots`, `segments` and `branches` of its tokens, all [B, L or S]. A token sees itself and earlier slots
  of its own document (`segments`; 0 is padding) and of the line's shared beginning, and of its document only the trunk
  (branch 0) and its own branch: so several documents share a line, and several answers a prompt, without a leak.
  """
  q = {n: x[:, :, None] for n, x in query.items()}
  k = {n: x[:, None, :] for n, x in key.items()}
  document = (k['segments'] != 0) & ((k['segments'] == q['segments']) | (k['segments'] == SHARED))
  return (k['slots'] <= q['slots']) & document & ((k['branches'] == 0) | (k['branches'] == q['branches']))


def attend(q: Array, k: Array, v: Array, mask: Array) -> Array:
  """Grouped-query attention, one batched product per key head; softmax in float32.

  Args:
    q: [B, L, H, head_dim]; k, v: [B, S, K, head_dim]; mask: [B, L, S], True where the query sees the key.
  Returns:
    [B, L, H, head_dim]. A query that sees nothing (padding) gets the mean of the values, which nobody reads.
  """
  B, L, H, head_dim = q.shape
  K = k.shape[2]
  q = q.reshape(B, L, K, H // K, head_dim).swapaxes(1, 2).reshape(B, K, -1, head_dim)     # [B, K, L·G, head_dim]
  scores = contract('bkqd,bskd->bkqs', q, k) * head_dim ** -0.5                            # float32
  scores = jnp.where(mask[:, None, :, None], scores.reshape(B, K, L, H // K, -1), jnp.finfo(jnp.float32).min)
  weights = jax.nn.softmax(scores, axis=-1).astype(q.dtype).reshape(B, K, L * (H // K), -1)
  y = contract('bkqs,bskd->bkqd', weights, v).astype(q.dtype)
  return y.reshape(B, K, L, H // K, head_dim).swapaxes(1, 2).reshape(B, L, H, head_dim)
