"""The product's own derivative rule against plain autodiff."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.models.products import contract

PRODUCTS = [('bld,df->blf', (2, 5, 7), (7, 3)), ('ad,vd->av', (5, 7), (11, 7)),
            ('bkqd,bskd->bkqs', (2, 3, 5, 7), (2, 4, 3, 7)), ('bkqs,bskd->bkqd', (2, 3, 5, 4), (2, 4, 3, 7))]


def operands(a, b, dtype=jnp.float32):
  keys = jax.random.split(jax.random.key(0))
  return jax.random.normal(keys[0], a).astype(dtype), jax.random.normal(keys[1], b).astype(dtype)


def grads(product, a, b, of=(0, 1)):
  return jax.grad(lambda a, b: jnp.sum(jnp.sin(product(a, b))), of)(a, b)


@pytest.mark.parametrize('spec, a, b', PRODUCTS)
def test_gradients_equal_autodiffs(spec, a, b):
  a, b = operands(a, b)
  plain = grads(lambda a, b: jnp.einsum(spec, a, b), a, b)
  for ours, theirs in zip(grads(lambda a, b: contract(spec, a, b), a, b), plain):
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
  for of in (0, 1):       # the other operand is constant, and nothing is computed for it
    np.testing.assert_allclose(grads(lambda a, b: contract(spec, a, b), a, b, of), plain[of], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('spec, a, b', PRODUCTS)
def test_bfloat16_sums_in_float32_and_a_float32_kernel_keeps_its_gradient(spec, a, b):
  a, b = operands(a, b, jnp.bfloat16)
  exact = jnp.einsum(spec, a.astype(jnp.float32), b.astype(jnp.float32))
  assert contract(spec, a, b).dtype == jnp.float32
  np.testing.assert_allclose(contract(spec, a, b), exact, rtol=1e-5, atol=1e-5)
  master = b.astype(jnp.float32)
  ours = grads(lambda a, b: contract(spec, a, b), a, master)
  theirs = grads(lambda a, b: jnp.einsum(spec, a, b), a.astype(jnp.float32), master)
  assert ours[0].dtype == jnp.bfloat16 and ours[1].dtype == jnp.float32
  for x, y in zip(ours, theirs):
    np.testing.assert_allclose(x.astype(jnp.float32), y, atol=0.03 * np.abs(y).max())
  assert np.any(ours[1] != ours[1].astype(jnp.bfloat16))       # never rounded
