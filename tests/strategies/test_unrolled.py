"""Layers that are unrolled, each with parameters of its own, compute what layers in a scan over the same parameters do."""

import functools

import helpers
import jax
import numpy as np
import pytest
from strategies import rows

from research import tree
from research.models import block, functions
from research.programs import flops
from research.strategies.bind import bind
from research.training import cohort, optim
from research.training.checkpoint import Checkpoints
from research.training.losses import cross_entropy
from research.training.steps import train_step
from research.unstacked import Unstacked, is_unstacked, stacked, unstack

MODELS = ['llama-tiny', 'gpt2-tiny', 't5-tiny']


def cases(names, kinds):
  """Every strategy in every family, of which those that are named, one of each kind, are not left to the matrix."""
  kinds, pairs = kinds.split(), [(model, name) for model in MODELS for name in names]
  assert {*kinds} <= {'/'.join(pair) for pair in pairs}
  return [pytest.param(*pair, marks=() if '/'.join(pair) in kinds else pytest.mark.matrix) for pair in pairs]


def unrolled(variables):
  return {**variables, 'params': functions.unstack_layers(variables['params'])}


def moved(model, name):
  """(model, trainable, frozen, batch) of a strategy that has learned something, its dropout on."""
  loaded, row = helpers.scaled_up(model), rows.ROWS[name]
  strategy = row.make(**({'dropout': 0.1} if row.takes('dropout') else {}))
  config, params = functions.split_last_layers(loaded.model.config, loaded.params, strategy.last_layers)
  made = functions.build(config)
  trainable, frozen = bind(jax.random.key(0), strategy, made, params, loaded.tokenizer.encode)
  one = helpers.batch(helpers.documents(loaded, 2, longest=120, slots=strategy.slots), 128)
  return made, helpers.moved(trainable, 1, 0.03), frozen, jax.tree.map(lambda x: x[0], one)


@pytest.mark.parametrize('model, name', cases(
    [name for name in rows.ALONE if name in rows.LEARNS], 'llama-tiny/full llama-tiny/last_layers llama-tiny/dora '
    'llama-tiny/prefix gpt2-tiny/lora gpt2-tiny/ia3 gpt2-tiny/vera t5-tiny/adapter'))
def test_unrolled_layers_have_the_loss_and_the_gradient_of_scanned_ones(model, name):
  made, trainable, frozen, one = moved(model, name)

  @jax.jit
  def of(trainable, frozen):
    return jax.value_and_grad(lambda t: cross_entropy(made, tree.join(frozen, t), one, jax.random.key(2))[0])(trainable)
  loss, gradient = of(trainable, frozen)
  loss_unrolled, gradient_unrolled = of(unrolled(trainable), unrolled(frozen))
  np.testing.assert_allclose(loss_unrolled, loss, rtol=1e-6)
  expected = tree.leaves(gradient)
  largest = max(np.abs(x).max() for x in expected.values())      # a key's bias changes nothing: its gradient is rounding alone
  for leaf, x in tree.leaves(gradient_unrolled).items():
    np.testing.assert_allclose(stacked(x), expected[leaf], rtol=0, err_msg=leaf,
                               atol=1e-5 * np.abs(expected[leaf]).max() + 1e-7 * largest)


@pytest.mark.parametrize('model, name', cases(
    ['lora', 'dora', 'pissa', 'vera'], 'llama-tiny/lora llama-tiny/dora llama-tiny/vera t5-tiny/pissa'))
def test_deltas_that_share_an_input_read_it_in_one_product(model, name, monkeypatch):
  loaded = helpers.scaled_up(model)
  trainable, frozen = bind(jax.random.key(0), rows.ROWS[name].make(), loaded.model, loaded.params)
  trainable = helpers.moved(trainable, 1, 0.03)
  one = jax.tree.map(lambda x: x[0], helpers.batch(helpers.documents(loaded, 2, longest=120), 128))

  def of():
    gradient = jax.value_and_grad(lambda t: cross_entropy(loaded.model, tree.join(frozen, t), one)[0])
    jaxpr = jax.make_jaxpr(gradient)(trainable)
    count = sum(times for eqn, times in flops.equations(jaxpr.jaxpr) if eqn.primitive.name == 'dot_general')
    return jax.jit(gradient)(trainable), count
  (loss, together), products = of()
  monkeypatch.setattr(block, 'inner_products', lambda *_: {})
  (loss_apart, apart), products_apart = of()
  assert products < products_apart - 2 * loaded.model.config.layers
  np.testing.assert_allclose(loss, loss_apart, rtol=1e-6)
  largest = max(float(np.abs(x).max()) for x in jax.tree.leaves(apart))
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=3e-6 * largest), together, apart)


@functools.cache
def begun(is_unrolled, optimizer='adamw', seed=0):
  """(loaded, state, frozen, tx) of full fine-tuning."""
  loaded = helpers.scaled_up('llama-tiny')
  if is_unrolled:
    loaded = loaded._replace(params=functions.unstack_layers(loaded.params))
  return loaded, *helpers.start(loaded, rows.ROWS['full'].make(), optimizer=optimizer, seed=seed)


@pytest.mark.parametrize('optimizer', optim.OPTIMIZERS)
def test_optimizers_take_the_same_steps(optimizer):
  ends = []
  for is_unrolled in (False, True):
    loaded, state, frozen, tx = begun(is_unrolled, optimizer)
    one = helpers.batch(helpers.documents(loaded, 2, longest=120), 128)
    state, losses = helpers.take(loaded, state, frozen, tx, [one] * 3)
    ends.append((losses, tree.leaves(state.trainable)))
  np.testing.assert_allclose(ends[1][0], ends[0][0], rtol=1e-5)
  for leaf, x in ends[1][1].items():
    assert x.shape == ends[0][1][leaf].shape
  assert any(map(is_unstacked, ends[1][1].values()))


@pytest.mark.parametrize('wrote, reads', [(False, True), (True, False)])
def test_a_checkpoint_is_restored_to_layers_of_the_other_kind(wrote, reads, tmp_path):
  saved, like = (begun(one, seed=seed)[1] for one, seed in ((wrote, 0), (reads, 1)))
  made = Checkpoints(tmp_path, 'base')
  made.save_best(3, saved.trainable)
  made.save_latest(saved)
  made.wait()
  best, latest = made.restore_best(like.trainable), made.restore_latest(like)
  made.close()
  expected = tree.leaves(saved.trainable)
  for leaf, x in tree.leaves(best).items():
    assert is_unstacked(x) == (reads and 'layers/' in leaf)
    np.testing.assert_array_equal(stacked(x), stacked(expected[leaf]), err_msg=leaf)
  assert jax.tree.structure(latest) == jax.tree.structure(like)


def test_members_of_a_cohort_are_unrolled_and_restored_as_a_run_is(tmp_path):
  loaded, one, frozen, tx = begun(True)
  other = begun(True, seed=1)[1]
  state, shared = cohort.stack_states([one, other], [frozen, frozen])
  given = helpers.batch(helpers.documents(loaded, 2, longest=120), 128)
  step = functools.partial(cohort.train_step, model=loaded.model, tx=tx)
  after, metrics = jax.jit(step)(state, shared, cohort.shard_batches([given, given]))
  alone = jax.jit(functools.partial(train_step, model=loaded.model, tx=tx))(one, frozen, given)[1]
  np.testing.assert_allclose(metrics['loss'][0], alone['loss'], rtol=1e-6)
  made = Checkpoints(tmp_path, 'base')
  made.save_latest(after)
  made.wait()
  restored = made.restore_latest(state)
  made.close()
  jax.tree.map(np.testing.assert_array_equal, restored._replace(key=None), after._replace(key=None))


def test_layers_apart_are_one_leaf_under_the_name_of_their_stack():
  x = np.arange(24.0).reshape(2, 3, 4)
  apart = unstack(jax.numpy.asarray(x))
  assert isinstance(apart, Unstacked) and apart.shape == x.shape and apart.size == x.size and len(apart) == 2
  named = {'params': {'layers': {'kernel': apart}}, 'other': jax.numpy.ones(2)}
  assert [*tree.leaves(named)] == ['other', 'params/layers/kernel']
  np.testing.assert_array_equal(np.asarray(apart), x)
  left, right = tree.split(named, '^params')
  assert right['params']['layers']['kernel'] is None and left['other'] is None
  assert tree.leaves(tree.join(right, left)).keys() == tree.leaves(named).keys()
  assert tree.map_named(lambda name, one: name, named)['params']['layers']['kernel'].layers == ('params/layers/kernel',) * 2
  broken = {'layers': Unstacked((jax.numpy.ones(2), jax.numpy.array([1.0, float('nan')])))}
  assert tree.first_not_finite(broken) == 'layers'
