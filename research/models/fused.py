"""Attention as one kernel that writes no scores to memory: cuDNN's, on NVIDIA's cards (Dao 2023, arXiv 2307.08691).

It takes the same masks as `layers.attend`, so documents, prefixes, windows and branches see what they see elsewhere. A mask is
one array for all heads here; lines too long for that attend block by block. Where there is no such card, to plan for one, the
same is traced in plain operations, and the accounts of memory and FLOPs take it for the kernel (`PRODUCTS`).
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

from research import machine, sharding

Array = jax.Array

SHORTEST, LONGEST = 128, 4096      # of a line: of shorter ones the scores are few, and of longer ones a mask is large
PRODUCTS = {'fused_attention': 2, 'fused_attention_gradient': 2 + 5}      # kernel -> products, each of L x S x head_dim


def holds(dtype: str, head_dim: int, queries: int, keys: int) -> bool:
  """Whether programs that are made now attend so, to that many keys."""
  return (dtype == 'bfloat16' and head_dim % 8 == 0 and head_dim <= 128 and queries % 2 == keys % 2 == 0
          and SHORTEST <= queries <= LONGEST and keys <= LONGEST and machine.has_cudnn())


def kernel(eqn: Any) -> str | None:
  """The name of the kernel that this equation of a jaxpr calls; None where it calls none."""
  name = eqn.params.get('name')
  return name if name in PRODUCTS and eqn.outvars else None


def flops(eqn: Any) -> float:
  """Of a call of a kernel, where a query sees half of the keys."""
  queries, keys = (v.aval.shape for v in eqn.invars[:2])
  return PRODUCTS[eqn.params['name']] * math.prod(queries) * keys[-3]


@partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def attend(q: Array, k: Array, v: Array, mask: Array, scale: float, causal: bool) -> Array:
  """What `layers._attend` computes, in bfloat16.

  Args:
    q: [B, L, H, head_dim]; k, v: [B, S, K, head_dim], where K divides H.
    mask: [B, L, S] bool. causal: query i sees no key from i + 1 on (the mask says so too; the kernel leaves those out).
  Returns:
    [B, L, H, head_dim].
  """
  return _on_the_mesh(partial(fused_attention, scale=scale, causal=causal), 1, q, k, v, mask)


def _forward(q, k, v, mask, scale, causal):
  return attend(q, k, v, mask, scale, causal), (q, k, v, mask)


def _backward(scale, causal, residuals, g):
  gradients = _on_the_mesh(partial(fused_attention_gradient, scale=scale, causal=causal), 3, *residuals, g)
  return *gradients, None


attend.defvjp(_forward, _backward)


def _on_the_mesh(function, results: int, q, k, v, mask, *g):
  """Each device attends on its rows and its heads."""
  if not sharding.sizes():
    return function(q, k, v, mask, *g)
  heads = sharding.of_heads(len(q))
  given = (heads, heads, heads, jax.P(heads[0]), *[heads] * len(g))
  return jax.shard_map(function, in_specs=given, out_specs=heads if results == 1 else (heads,) * results,
                       check_vma=False)(q, k, v, mask, *g)


@partial(jax.jit, static_argnames=('scale', 'causal'))
def fused_attention(q: Array, k: Array, v: Array, mask: Array, *, scale: float, causal: bool) -> Array:
  """The kernel, under the name by which the accounts know it."""
  return _side_by_side(partial(_kernel, scale=scale, causal=causal), q, k, v, mask)


@partial(jax.jit, static_argnames=('scale', 'causal'))
def fused_attention_gradient(q: Array, k: Array, v: Array, mask: Array, g: Array, *, scale: float,
                             causal: bool) -> tuple[Array, ...]:
  """By q, k and v. The forward kernel runs again, for a third of the time of the backward one: nothing is kept for it."""
  def gradient(q, k, v, mask, g):
    return jax.vjp(lambda *x: _kernel(*x, mask, scale, causal), q, k, v)[1](g)
  return _side_by_side(gradient, q, k, v, mask, g)


def _side_by_side(function, *given: Array):
  """`function(*given)`, and where it is mapped, one call for all: their rows as one batch."""
  mapped = custom_vmap(function)

  @mapped.def_vmap
  def rule(size, is_mapped, *given):
    given = [x if own else jnp.broadcast_to(x, (size, *x.shape)) for x, own in zip(given, is_mapped)]
    found = _side_by_side(function, *[x.reshape(-1, *x.shape[2:]) for x in given])
    found = jax.tree.map(lambda x: x.reshape(size, -1, *x.shape[1:]), found)
    return found, jax.tree.map(lambda _: True, found)
  return mapped(*given)


def _kernel(q, k, v, mask, scale, causal):
  if jax.default_backend() == 'gpu':
    return jax.nn.dot_product_attention(q, k, v, mask=mask[:, None], is_causal=causal, scale=scale, implementation='cudnn')
  return jax.nn.dot_product_attention(q, k, v, mask=mask[:, None], scale=scale, implementation='xla')
