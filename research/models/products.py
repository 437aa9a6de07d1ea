"""The product that every layer and every delta is made of.

Two facts shape it. Processors multiply bfloat16 fast only when asked for a float32 result, so every product accumulates
in float32 (and its backward pass casts the float32 cotangent to the operand's dtype, which autodiff would not). And an
operand that does not learn needs no gradient: its cotangent is not computed and the other operand is not kept for it.
"""

from functools import partial

import jax
import jax.numpy as jnp

Array = jax.Array


def _multiply(spec: str, a: Array, b: Array) -> Array:
  return jnp.einsum(spec, a, b, preferred_element_type=jnp.float32)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def contract(spec: str, a: Array, b: Array) -> Array:
  """`jnp.einsum(spec, a, b)` of two operands, summed in float32.

  `b` is cast to `a`'s dtype before the product, and its gradient comes back in its own: a float32 master kernel under
  bfloat16 activations gets a float32 gradient that was never rounded.

  Args:
    spec: two-operand einsum without repeated or summed-alone letters, such as 'bld,df->blf'.
    a: activations; b: activations or a kernel.
  Returns:
    float32, whatever the operands.
  """
  return _multiply(spec, a, b.astype(a.dtype))


def _forward(spec, a, b):
  keep_a = a.value if b.perturbed else None      # a frozen kernel: nothing is kept for its gradient
  keep_b = b.value if a.perturbed else None
  return contract(spec, a.value, b.value), (keep_a, keep_b, _like(a.value), _like(b.value))


def _like(x):
  return jnp.zeros((0,), x.dtype)                # carries the dtype through the residuals


def _backward(spec, residuals, g):
  a, b, like_a, like_b = residuals
  operands, out = spec.split('->')
  letters_a, letters_b = operands.split(',')
  g = g.astype(like_a.dtype)
  grad_a = grad_b = None
  if b is not None:
    grad_a = _multiply(f'{out},{letters_b}->{letters_a}', g, b.astype(like_a.dtype)).astype(like_a.dtype)
  if a is not None:
    if jax.default_backend() == 'cpu':
      # XLA's CPU backend has no bfloat16 product with a transposed left operand (UNIMPLEMENTED as of jax 0.10).
      a, g = a.astype(jnp.float32), g.astype(jnp.float32)
    grad_b = _multiply(f'{letters_a},{out}->{letters_b}', a, g).astype(like_b.dtype)
  return grad_a, grad_b


contract.defvjp(_forward, _backward, symbolic_zeros=True)


def dot(x: Array, kernel: Array) -> Array:
  """x [..., I] times kernel [I, O], in x's dtype with float32 sums."""
  batch = 'abc'[:x.ndim - 1]
  return contract(f'{batch}i,io->{batch}o', x, kernel).astype(x.dtype)
