"""The product and its gradient: finite differences, plain autodiff, and what rounding to bfloat16 explains."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from research.distributed import device
from research.models.kernels import dense, transposed
from research.models.products import FEW, contract, dot

SPECS = {      # every product of the models: a kernel, the tied head, attention's scores, its sums
    'abi,io->abo': ((3, 5, 8), (8, 6)),
    'ad,vd->av': ((7, 8), (11, 8)),
    'bkqd,bskd->bkqs': ((2, 3, 10, 4), (2, 5, 3, 4)),
    'bkqs,bskd->bkqd': ((2, 3, 10, 5), (2, 5, 3, 4)),
}


def operands(spec, dtype=jnp.float32):
  return [jax.random.normal(jax.random.key(i), shape, dtype) for i, shape in enumerate(SPECS[spec])]


@pytest.fixture(params=[True, False], ids=['bfloat16 arithmetic', 'float32 arithmetic'])
def arithmetic(request, monkeypatch):
  """Processors with bfloat16 arithmetic and without."""
  monkeypatch.setattr(device, 'multiplies_bfloat16', lambda: request.param)
  jax.clear_caches()
  yield request.param
  jax.clear_caches()


@pytest.mark.parametrize('spec', SPECS)
def test_gradients_are_those_of_finite_differences_and_of_plain_autodiff(spec):
  a, b = operands(spec)
  check_grads(lambda a, b: contract(spec, a, b), (a, b), order=1, modes=['rev'], atol=2e-2, rtol=2e-2)
  g = jnp.cos(jnp.arange(contract(spec, a, b).size, dtype=jnp.float32))
  loss = lambda product: jax.jit(jax.grad(lambda a, b: jnp.sum(product(spec, a, b).reshape(-1) * g), argnums=(0, 1)))(a, b)
  for ours, plain in zip(loss(contract), loss(jnp.einsum)):
    np.testing.assert_allclose(ours, plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('spec', SPECS)
def test_in_bfloat16_the_error_is_what_rounding_the_operands_explains(spec, arithmetic):
  """Against float64 of the same operands: results are exact to float32, gradients no further off than plain autodiff's."""
  a, b = operands(spec, jnp.bfloat16)
  exact_a, exact_b = (np.asarray(x, np.float64) for x in (a, b))
  result = jax.jit(lambda a, b: contract(spec, a, b))(a, b)
  assert result.dtype == jnp.float32
  np.testing.assert_allclose(result, np.einsum(spec, exact_a, exact_b), rtol=1e-5, atol=1e-5)

  g = np.cos(np.arange(result.size)).reshape(result.shape)
  letters_a, letters_b = spec.split('->')[0].split(',')
  out = spec.split('->')[1]
  exact = np.einsum(f'{out},{letters_b}->{letters_a}', g, exact_b), np.einsum(f'{letters_a},{out}->{letters_b}', exact_a, g)
  grads = lambda product: jax.jit(jax.grad(lambda a, b: jnp.sum(product(a, b) * g), argnums=(0, 1)))(a, b)
  plain = grads(lambda a, b: jnp.einsum(spec, a.astype(jnp.float32), b.astype(jnp.float32)))     # g is not rounded there
  for ours, theirs, x in zip(grads(lambda a, b: contract(spec, a, b)), plain, exact):
    largest = np.abs(x).max()
    error = lambda found, x=x, largest=largest: np.abs(np.asarray(found, np.float64) - x).max() / largest
    assert ours.dtype == jnp.bfloat16
    assert error(ours) < 3 * 2 ** -8 and error(ours) < error(theirs) + 2 * 2 ** -8     # g to bfloat16, and the result


@pytest.mark.parametrize('rows', [1, 5, FEW + 1])
def test_a_transposed_kernel_multiplies_as_it_does_elsewhere_and_few_rows_read_it_as_it_lies(rows):
  x, kernel = (jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate([(rows, 1, 8), (8, 6)]))
  kept = transposed(kernel)
  assert kept.shape == kernel.shape and kept.values.shape == (6, 8) and dense(kept, jnp.float32).tolist() == kernel.tolist()
  loss = lambda kernel: lambda x: jnp.sum(jnp.sin(dot(x, kernel)))
  np.testing.assert_allclose(dot(x, kept), dot(x, kernel), rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(jax.grad(loss(kept))(x), jax.grad(loss(kernel))(x), rtol=1e-5, atol=1e-6)
  compiled = jax.jit(dot).lower(x, kept).compile().as_text()
  assert (f'f32[6,{rows}]' in compiled) == (rows == 5)      # of a product in which the kernel stands first


@pytest.mark.parametrize('outputs', [6, 12])
def test_a_narrow_operand_stands_left_in_a_kernels_gradient(outputs):
  x, kernel = (jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate([(3, 5, 8), (8, outputs)]))
  gradient = jax.jit(jax.grad(lambda kernel: jnp.sum(jnp.sin(dot(x, kernel)))))
  plain = jax.grad(lambda kernel: jnp.sum(jnp.sin(x @ kernel)))(kernel)
  np.testing.assert_allclose(gradient(kernel), plain, rtol=1e-5, atol=1e-5)
  assert (f'f32[{outputs},8]' in gradient.lower(kernel).compile().as_text()) == (outputs < 8)


def test_the_gradient_of_what_does_not_learn_is_not_computed():
  a, b = operands('abi,io->abo')
  products = lambda argnum: str(jax.make_jaxpr(jax.grad(
      lambda *x: jnp.sum(contract('abi,io->abo', *x)), argnums=argnum))(a, b)).count('dot_general')
  assert products(0) == products(1) == 2 and products((0, 1)) == 3
