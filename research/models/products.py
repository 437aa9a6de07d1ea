"""The product that every layer and every delta is made of.

Three facts shape it. Processors multiply bfloat16 fast only when asked for a float32 result, and many not even then. So every
product accumulates in float32, its operands are written out in float32 first where that is faster (products of bfloat16 are
exact there, so the result is the same), and its backward pass casts the float32 cotangent to the operand's dtype, which
autodiff would not. An operand that does not learn needs no gradient: its cotangent is not computed and the other operand is not
kept for it. And a quantised kernel is written out where it is read, once in the forward pass and once in the backward pass,
and never kept so.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from research.distributed import device, mesh
from research.models.kernels import Transposed, dense

Array = jax.Array


def _multiply(spec: str, a: Array, b: Array, dtype: Any) -> Array:
  if not device.multiplies_bfloat16():
    a, b = a.astype(jnp.float32), b.astype(jnp.float32)
  on_gpu = device.platform_kind() == 'gpu'      # whose products sum in float32 whatever they give: it need not be written out
  exact = a.dtype == jnp.float32 and device.platform_kind() != 'cpu'         # accelerators would round float32 operands
  multiply = partial(jnp.einsum, preferred_element_type=dtype if on_gpu else jnp.float32,
                     precision=jax.lax.Precision.HIGHEST if exact else None)
  if not (_reads_few_rows(spec, a, b) or _is_gradient_of_narrowing_kernel(spec, a, b)):
    return multiply(spec, a, b).astype(dtype)
  operands, out = spec.split('->')
  letters_a, letters_b = operands.split(',')
  y = multiply(f'{letters_b},{letters_a}->{out[-1]}{out[:-1]}', b, a)
  return jnp.moveaxis(jax.lax.optimization_barrier(y), 0, -1).astype(dtype)      # else XLA would turn it round again


FEW = 64      # rows up to which processors were faster (measured on an AMD EPYC: 2.0 times at 8 rows, 1.0 at 128)


def _reads_few_rows(spec: str, a: Array, b: Array) -> bool:
  """Whether a few rows a [..., I] are multiplied by b [O, I] on a processor, which then reads b as it lies from the left.

  From the right XLA would first write all of it out in another order.
  """
  letters_a, letters_b = spec.split('->')[0].split(',')
  return (device.platform_kind() == 'cpu' and spec.endswith(f'->{letters_a[:-1]}{letters_b[0]}')
          and letters_b[1:] == letters_a[-1] and 1 < a.size // a.shape[-1] <= FEW)


def _is_gradient_of_narrowing_kernel(spec: str, a: Array, b: Array) -> bool:
  """Whether rows a [..., I] and b [..., O] give [I, O] on a processor, and O is less than I.

  XLA first writes the left operand out in another order, so that the narrower one had better stand there.
  """
  operands, out = spec.split('->')
  letters_a, letters_b = operands.split(',')
  return (device.platform_kind() == 'cpu' and letters_a[:-1] == letters_b[:-1] and out == letters_a[-1] + letters_b[-1]
          and b.shape[-1] < a.shape[-1])


@partial(jax.custom_vjp, nondiff_argnums=(0, 3))
def contract(spec: str, a: Array, b, dtype: Any = jnp.float32) -> Array:
  """`jnp.einsum(spec, a, b)` of two operands, summed in float32.

  `b` is cast to `a`'s dtype before the product, and its gradient comes back in its own: a float32 master kernel under
  bfloat16 activations gets a float32 gradient that was never rounded.

  Args:
    spec: two-operand einsum without repeated or summed-alone letters, such as 'bld,df->blf'; it says the shapes of all three.
    a: activations.
    b: activations or a kernel, which may be kept in one of the ways of `kernels`.
    dtype: of the result; float32 unless said, whatever the operands.
  """
  if isinstance(b, Transposed):
    left, right = spec.split(',')
    return _multiply(f'{left},{right[1::-1]}{right[2:]}', a, b.values.astype(a.dtype), dtype)
  return _multiply(spec, a, dense(b, a.dtype), dtype)


def is_primal(x) -> bool:
  return isinstance(x, jax.custom_derivatives.CustomVJPPrimal)


def _forward(spec, a, b, dtype):
  perturbed = any(x.perturbed for x in jax.tree.leaves(b, is_leaf=is_primal))
  b = jax.tree.map(lambda x: x.value, b, is_leaf=is_primal)
  keep_a = a.value if perturbed else None        # a frozen kernel: nothing is kept for its gradient
  keep_b = b if a.perturbed else None
  like_b = jnp.zeros((0,), b.dtype) if perturbed else None
  return contract(spec, a.value, b, dtype), (keep_a, keep_b, jnp.zeros((0,), a.value.dtype), like_b)


def _backward(spec, dtype, residuals, g):
  a, b, like_a, like_b = residuals               # the last two carry dtypes
  operands, out = spec.split('->')
  letters_a, letters_b = operands.split(',')
  g = g.astype(like_a.dtype)
  grad_a = grad_b = None
  if b is not None:
    grad_a = _multiply(f'{out},{letters_b}->{letters_a}', g, dense(b, like_a.dtype), like_a.dtype)
  if a is not None:
    if device.platform_kind() == 'cpu':
      # XLA's CPU backend has no bfloat16 product with a transposed left operand (UNIMPLEMENTED as of jax 0.10).
      a, g = a.astype(jnp.float32), g.astype(jnp.float32)
    grad_b = _multiply(f'{letters_a},{out}->{letters_b}', a, g, like_b.dtype)
  return grad_a, grad_b


contract.defvjp(_forward, _backward, symbolic_zeros=True)


def dot(x: Array, kernel) -> Array:
  """x [..., I] times kernel [I, O], in x's dtype with float32 sums."""
  batch = 'abc'[:x.ndim - 1]
  if x.ndim < 3:                                 # no activations of lines
    return contract(f'{batch}i,io->{batch}o', x, kernel, x.dtype)
  return mesh.constrain_batch(contract(f'{batch}i,io->{batch}o', mesh.constrain_batch(x), kernel, x.dtype))


def affine(x: Array, kernel, bias: Array | None) -> Array:
  """x times the kernel, + bias where there is one, in x's dtype: [..., O].

  Args:
    x: [..., I].
    kernel: [I, O], an array or one of `kernels`.
    bias: [O], or None.
  """
  y = dot(x, kernel)
  return y if bias is None else y + bias.astype(y.dtype)
