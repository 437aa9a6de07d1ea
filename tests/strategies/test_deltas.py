"""What the deltas compute, before they have learned and after."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import batch, documents, logits, moved, scaled_up, start, take
from strategies import rows
from strategies.rows import ROWS

from research import tree
from research.errors import InputError
from research.models.functions import build, split_last_layers
from research.strategies import deltas, table
from research.strategies.bind import from_collections, merge
from research.training.steps import eval_step

UNMERGEABLE = ('adapter', 'prefix', 'prompt')


def placed_on(loaded, strategy):
  """The model as the strategy needs it."""
  config, params = split_last_layers(loaded.model.config, loaded.params, strategy.last_layers)
  return loaded._replace(model=build(config), params=params)


def one_for(loaded, strategy):
  return batch(documents(loaded, 2, longest=100 + strategy.slots, slots=strategy.slots), 128)


@pytest.mark.diagonal('preset', 'name')
@pytest.mark.parametrize('name', rows.AT_SITES)
def test_at_step_0_a_delta_leaves_the_logits_unchanged(preset, name):
  strategy = ROWS[name].make(**{'dropout': 0.1} if ROWS[name].takes('dropout') else {})
  state, frozen, _ = start(preset, strategy)
  one = one_for(preset, strategy)
  base = logits(preset.model, {'params': preset.params}, one)
  assert base.std() > 0.1
  found = logits(preset.model, tree.join(state.trainable, frozen), one)
  # DoRA divides a norm by itself, in another order of rounding.
  np.testing.assert_allclose(found, base, rtol=0, atol=1e-5 if name == 'dora' else 0)


@pytest.mark.diagonal('preset', 'name')
@pytest.mark.parametrize('name', rows.LEARNS)
def test_every_leaf_that_learns_has_moved_by_step_2_and_merging_keeps_the_logits(preset, name):
  strategy = ROWS[name].make()
  loaded = placed_on(preset, strategy)
  state, frozen, tx = start(loaded, strategy, 3e-3)
  one = one_for(loaded, strategy)
  after, losses = take(loaded, state, frozen, tx, [one, one])
  before = tree.leaves(state.trainable)
  assert [n for n, x in tree.leaves(after.trainable).items() if not np.any(x != before[n])] == []
  after, losses = take(loaded, after, frozen, tx, [one] * 3)
  assert losses[-1] < losses[0]
  merges(loaded, strategy, tree.join(after.trainable, frozen), one)


def merges(loaded, strategy, variables, one):
  """Merging keeps the logits, or is refused by the name of a row that cannot be merged."""
  refused = {*strategy.name.split('+')} & {*UNMERGEABLE}
  if 'bitfit' in strategy.name and loaded.model.config.family != 'gpt2':      # there biases have kernels that have none
    refused = refused or {'bitfit'}
  if refused:
    with pytest.raises(InputError, match=f'strategy ({"|".join(refused)}) cannot be merged'):
      merge(variables)
  else:
    learned = logits(loaded.model, variables, one)
    np.testing.assert_allclose(logits(loaded.model, {'params': merge(variables)}, one), learned, rtol=1e-5,
                               atol=3e-5 * learned.std())


@pytest.mark.parametrize('name', ['bitfit', 'bitfit+lora'])
def test_bitfit_merges_where_every_kernel_has_a_bias(name):
  loaded, strategy = scaled_up('gpt2-tiny'), ROWS[name].make()
  state, frozen, _ = start(loaded, strategy)
  merges(loaded, strategy, tree.join(moved(state.trainable, seed=0), frozen), one_for(loaded, strategy))


@pytest.mark.parametrize('name', rows.taking('dropout'))
def test_dropout_is_on_in_training_and_off_in_evaluation(tiny, name):
  one = batch(documents(tiny, 2, longest=120), 128)
  first = jax.tree.map(lambda x: x[0], one)
  found = {}
  for rate in (0.0, 0.5):
    state, frozen, tx = start(tiny, ROWS[name].make(dropout=rate))
    trainable = moved(state.trainable, seed=0, by=0.05)
    _, [trained] = take(tiny, state._replace(trainable=trainable), frozen, tx, [one])
    found[rate] = trained, np.asarray(eval_step(tree.join(trainable, frozen), first, model=tiny.model))
  assert abs(found[0.5][0] - found[0.0][0]) > 1e-3
  np.testing.assert_array_equal(found[0.5][1], found[0.0][1])


@pytest.mark.parametrize('name', rows.taking('fused'))
def test_one_delta_of_q_k_and_v_is_that_of_the_three_side_by_side(tiny, name):
  """Fused: the same A for the three, and merging gives the same model."""
  row = ROWS[name]
  fields = {'targets': 'attn/qkv$', 'feedforward': ''} if row.takes('feedforward') else {'targets': 'attention', 'fused': True}
  state, frozen, tx = start(tiny, row.make(**fields), 3e-3)
  assert 'layers/attn/qkv' in from_collections(tree.join(state.trainable, frozen))
  one = batch(documents(tiny, 2, longest=120), 128)
  state, _ = take(tiny, state, frozen, tx, [one] * 3)
  variables = tree.join(state.trainable, frozen)
  learned = logits(tiny.model, variables, one)
  assert np.abs(learned - logits(tiny.model, {'params': tiny.params}, one)).max() > 1e-3
  np.testing.assert_allclose(logits(tiny.model, {'params': merge(variables)}, one), learned, atol=3e-5 * learned.std())


def test_last_layers_are_the_last_and_what_learns_there_is_put_back(tiny):
  strategy = table.last_layers(layers=2)
  loaded = placed_on(tiny, strategy)
  state, frozen, tx = start(loaded, strategy)
  one = batch(documents(loaded, 2, longest=120), 128)
  np.testing.assert_allclose(logits(loaded.model, tree.join(state.trainable, frozen), one),
                             logits(tiny.model, {'params': tiny.params}, one), atol=1e-5)
  state, _ = take(loaded, state, frozen, tx, [one])
  learned = tree.join(state.trainable, frozen)
  config, whole = split_last_layers(loaded.model.config, learned['params'], 0)
  assert config == tiny.model.config
  for name, x in tree.leaves(whole).items():
    moved = [bool(np.any(a != b)) for a, b in zip(x, tree.leaves(tiny.params)[name])]
    assert moved == [False, True, True] if name.startswith('layers/') else not any(moved)
  np.testing.assert_allclose(logits(build(config), {'params': whole}, one), logits(loaded.model, learned, one), atol=1e-5)


ATTENTION, MLP = 'qkvo', ('down', 'gate', 'up')
LAYERS = ({f'attn/{n}' for n in ATTENTION}, {f'mlp/{n}' for n in MLP}, {f'cross/{n}' for n in ATTENTION})
T5 = [({f'encoder/layers/{n}' for n in of} if of is not LAYERS[2] else set()) | {f'layers/{n}' for n in of} for of in LAYERS]


@pytest.mark.parametrize('targets, expected', [
    ('all_linear', T5[0] | T5[1] | T5[2]), ('attention', T5[0] | T5[2]), ('mlp', T5[1]),
    ('^encoder/.*mlp/.*/kernel', {n for n in T5[1] if n.startswith('encoder')}),
    ('cross/[qv]/', {'layers/cross/q', 'layers/cross/v'})])
def test_loras_targets_on_t5_are_in_the_encoder_the_decoder_and_between_them(targets, expected):
  state, _, _ = start(scaled_up('t5-tiny'), table.lora(targets=targets))
  assert tree.leaves(state.trainable).keys() == {f'delta/{n}/kernel/{part}' for n in expected for part in 'ab'}


def test_adapters_on_t5_follow_every_sublayer():
  state, _, _ = start(scaled_up('t5-tiny'), table.adapter())
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
  delta = deltas.Bottleneck(*(jnp.float32(x) for x in (down, down_bias, up, up_bias)), None, 1.0, False, 'gelu')
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
