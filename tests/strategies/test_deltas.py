"""What the deltas compute, before they have learned and after."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import batch, documents, logits, loud, start, take

from research import tree
from research.errors import InputError
from research.strategies import deltas, table
from research.strategies.bind import merge

STRATEGIES = {'lora': table.lora(dropout=0.1), 'adapter': table.adapter(dropout=0.1)}


@pytest.mark.parametrize('name', STRATEGIES)
def test_at_step_0_a_delta_leaves_the_logits_unchanged(preset, name):
  state, frozen, _ = start(preset, STRATEGIES[name])
  one = batch(documents(preset, 2), 512)
  base = logits(preset.model, {'params': preset.params}, one)
  assert base.std() > 0.1
  np.testing.assert_array_equal(logits(preset.model, tree.join(state.trainable, frozen), one), base)


@pytest.mark.parametrize('name', [*STRATEGIES, 'full'])
def test_every_leaf_that_learns_has_moved_by_step_2(preset, name):
  state, frozen, tx = start(preset, STRATEGIES.get(name) or table.full())
  one = batch(documents(preset, 2), 512)
  after, _ = take(preset, state, frozen, tx, [one, one])
  before = tree.leaves(state.trainable)
  assert [n for n, x in tree.leaves(after.trainable).items() if not np.any(x != before[n])] == []


def test_merged_lora_gives_the_logits_that_its_deltas_gave(preset):
  state, frozen, _ = start(preset, table.lora())
  one = batch(documents(preset, 2), 512)
  moved = tree.map_named(lambda name, x: x + 5e-3 * jax.random.normal(jax.random.key(len(name)), x.shape), state.trainable)
  variables = tree.join(moved, frozen)
  learned = logits(preset.model, variables, one)
  assert np.abs(learned - logits(preset.model, {'params': preset.params}, one)).max() > 0.1
  np.testing.assert_allclose(logits(preset.model, {'params': merge(variables)}, one), learned, atol=1e-5 * learned.std(),
                             rtol=1e-5)


ATTENTION, MLP = 'qkvo', ('down', 'gate', 'up')
LAYERS = ({f'attn/{n}' for n in ATTENTION}, {f'mlp/{n}' for n in MLP}, {f'cross/{n}' for n in ATTENTION})
T5 = [({f'encoder/layers/{n}' for n in of} if of is not LAYERS[2] else set()) | {f'layers/{n}' for n in of} for of in LAYERS]


@pytest.mark.parametrize('targets, expected', [
    ('all_linear', T5[0] | T5[1] | T5[2]), ('attention', T5[0] | T5[2]), ('mlp', T5[1]),
    ('^encoder/.*mlp/.*/kernel', {n for n in T5[1] if n.startswith('encoder')}),
    ('cross/[qv]/', {'layers/cross/q', 'layers/cross/v'})])
def test_loras_targets_on_t5_are_in_the_encoder_the_decoder_and_between_them(targets, expected):
  state, _, _ = start(loud('t5-tiny'), table.lora(targets=targets))
  assert tree.leaves(state.trainable).keys() == {f'delta/{n}/kernel/{part}' for n in expected for part in 'ab'}


def test_adapters_on_t5_follow_every_sublayer():
  state, _, _ = start(loud('t5-tiny'), table.adapter())
  parts = ('down', 'down_bias', 'up', 'up_bias')
  assert tree.leaves(state.trainable).keys() == {
      f'delta/{place}/output/{part}' for part in parts for place in (
          'encoder/layers/attn', 'encoder/layers/mlp', 'layers/attn', 'layers/cross', 'layers/mlp')}


def test_an_adapter_cannot_be_merged(tiny):
  state, frozen, _ = start(tiny, table.adapter())
  with pytest.raises(InputError, match=r'adapter cannot be merged: .*layers/attn/output'):
    merge(tree.join(state.trainable, frozen))


def test_the_adapter_is_its_equation():
  rng = np.random.default_rng(0)
  y, down, down_bias, up, up_bias = (rng.normal(size=s) for s in ((2, 3, 8), (8, 5), (5,), (5, 8), (8,)))
  inner = y @ down + down_bias
  gelu = inner / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (inner + 0.044715 * inner ** 3)))    # Hendrycks & Gimpel 2016
  delta = deltas.Bottleneck(*(jnp.float32(x) for x in (down, down_bias, up, up_bias)), 0.0, 1.0, False, 'gelu')
  np.testing.assert_allclose(delta(None, jnp.float32(y)), y + gelu @ up + up_bias, rtol=1e-5, atol=1e-5)


def test_dropout_needs_a_key_and_keeps_the_mean():
  x = jnp.ones((64, 64))
  assert deltas.dropout(x, 0.25, None) is x
  dropped = deltas.dropout(x, 0.25, jax.random.key(0))
  assert set(np.unique(dropped)) == {0, np.float32(1 / 0.75)}
  assert np.isclose(dropped.mean(), 1, atol=0.03)


def test_each_sites_delta_depends_on_its_own_path_alone(tiny):
  few, _, _ = start(tiny, table.lora(targets='mlp'))
  many, _, _ = start(tiny, table.lora(targets='all_linear'))
  many = tree.leaves(many.trainable)
  for name, x in tree.leaves(few.trainable).items():
    np.testing.assert_array_equal(x, many[name])
  assert np.any(many['delta/layers/attn/k/kernel/a'] != many['delta/layers/attn/v/kernel/a'])
