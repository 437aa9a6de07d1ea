"""Attention as one kernel that writes no scores to memory (Dao 2023, arXiv 2307.08691): cuDNN's on NVIDIA's cards, and on TPUs
`splash`, which takes documents and a window in place of a mask.

cuDNN's takes the masks of `layers.attend`, so documents, windows and branches see what they see elsewhere. It is used where it
was compared with plain attention: lines that see themselves, of whole blocks of 128 tokens, on cards from Ampere to Hopper (the
comparison was made on an H100). A mask is one array for all heads here; lines too long for that attend block by block. Without
such a card, to plan for one, the same is traced in plain operations, and the accounts of memory and FLOPs take it for the
kernel (`PRODUCTS`).
"""

import math
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

from research.distributed import device, mesh
from research.models import splash

Array = jax.Array

BLOCK, LONGEST = 128, 4096
CAPABILITIES = 8.0, 9.0
PRODUCTS = {'fused_attention': 2, 'fused_attention_gradient': 2 + 5}      # kernel -> products, each of L x L x head_dim


def is_supported(dtype: str, head_dim: int, queries: int, keys: int) -> bool:
  """Whether programs that are made now attend by cuDNN's kernel, to that many keys.

  Args:
    dtype: of activations, a key of `config.DTYPES`.
    head_dim: the dimensions of a head.
    queries: L, the tokens of a line.
    keys: S, those that they attend to.
  """
  return (dtype == 'bfloat16' and head_dim % 8 == 0 and head_dim <= 128 and queries == keys <= LONGEST and queries % BLOCK == 0
          and CAPABILITIES[0] <= device.compute_capability() <= CAPABILITIES[1])


def kernel(eqn: Any) -> str | None:
  """The name of the kernel that this equation of a jaxpr calls; None where it calls none."""
  name = eqn.params.get('name')
  attends = eqn.outvars and eqn.invars and getattr(eqn.invars[0].aval, 'ndim', 0) == 4     # else it was cut out, to run once
  return name if name in PRODUCTS and attends else None


def flops(eqn: Any) -> float:
  """Of a call of a kernel, where a query sees half of the keys."""
  queries, keys = (v.aval.shape for v in eqn.invars[:2])
  return PRODUCTS[eqn.params['name']] * math.prod(queries) * keys[-3]


@partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def attend(q: Array, k: Array, v: Array, mask: Array, scale: float, window: int = 0, cap: float = 0.0) -> Array:
  """What `layers._attend` computes of a line that sees itself.

  Args:
    q: [B, L, H, head_dim].
    k: [B, L, K, head_dim], where K divides H.
    v: of k's shape.
    mask: [B, L, L] bool, where no query sees a key behind it; the kernel leaves those out. Or the documents of the tokens
      [B, L], for `splash`.
    scale: of the scores.
    window: for `splash`, as is the next one.
    cap: of the scaled scores.
  Returns:
    [B, L, H, head_dim].
  """
  return _on_the_mesh(partial(fused_attention, scale=scale, window=window, cap=cap), 1, q, k, v, mask)


def _forward(q, k, v, mask, *how):
  return attend(q, k, v, mask, *how), (q, k, v, mask)


def _backward(scale, window, cap, residuals, g):
  gradient = partial(fused_attention_gradient, scale=scale, window=window, cap=cap)
  return *_on_the_mesh(gradient, 3, *residuals, g), None


attend.defvjp(_forward, _backward)


def _on_the_mesh(function, results: int, q, k, v, mask, *g):
  """Each device attends on its rows and its heads."""
  if not mesh.sizes():
    return function(q, k, v, mask, *g)
  heads = mesh.head_spec(len(q))
  given = (heads, heads, heads, jax.P(heads[0]), *[heads] * len(g))
  return jax.shard_map(function, in_specs=given, out_specs=heads if results == 1 else (heads,) * results,
                       check_vma=False)(q, k, v, mask, *g)


@partial(jax.jit, static_argnames=('scale', 'window', 'cap'))
def fused_attention(q: Array, k: Array, v: Array, mask: Array, *, scale: float, window: int, cap: float) -> Array:
  """The kernel, under the name by which the accounts know it.

  Args:
    q: [B, L, H, head_dim].
    k: [B, L, K, head_dim].
    v: of k's shape.
    mask: as for `attend`, as are the others.
    scale: of the scores.
    window: of `splash`.
    cap: of the scaled scores.
  Returns:
    [B, L, H, head_dim].
  """
  return _side_by_side(partial(_kernel, scale=scale, window=window, cap=cap), q, k, v, mask)


@partial(jax.jit, static_argnames=('scale', 'window', 'cap'))
def fused_attention_gradient(q: Array, k: Array, v: Array, mask: Array, g: Array, *, scale: float, window: int,
                             cap: float) -> tuple[Array, ...]:
  """By q, k and v. The forward kernel runs again, for a third of the time of the backward one: nothing is kept for it.

  Args:
    q: [B, L, H, head_dim].
    k: [B, L, K, head_dim].
    v: of k's shape.
    mask: as for `attend`, as are the last three.
    g: the gradient by the result, [B, L, H, head_dim].
    scale: of the scores.
    window: of `splash`.
    cap: of the scaled scores.
  Returns:
    The gradients by q, k and v, each of its shape.
  """
  def gradient(q, k, v, mask, g):
    return jax.vjp(lambda q, k, v: _kernel(q, k, v, mask, scale, window, cap), q, k, v)[1](g)
  return _side_by_side(gradient, q, k, v, mask, g)


def _side_by_side(function, *given: Array):
  """`function(*given)`, and where it is mapped, one call for all: their rows as one batch."""
  mapped = custom_vmap(function)

  @mapped.def_vmap
  def rule(size, is_mapped, *given):
    whole = [x if own else jnp.broadcast_to(x, (size, *x.shape)) for x, own in zip(given, is_mapped)]
    found = _side_by_side(function, *[x.reshape(-1, *x.shape[2:]) for x in whole])
    found = jax.tree.map(lambda x: x.reshape(size, -1, *x.shape[1:]), found)
    return found, jax.tree.map(lambda _: True, found)
  return mapped(*given)


def _kernel(q, k, v, mask, scale, window, cap):
  if mask.ndim == 2:
    return splash.attend(q, k, v, mask, scale, window, cap)
  how: Literal['cudnn', 'xla'] = 'cudnn' if jax.default_backend() == 'gpu' else 'xla'
  return jax.nn.dot_product_attention(q, k, v, mask=mask[:, None], is_causal=True, scale=scale, implementation=how)
