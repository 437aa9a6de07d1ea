"""Checkpoints on disk: what stands there at every moment, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.errors import InputError
from research.training.checkpoint import Checkpoints
from research.training.steps import TrainState


def state(step, value):
  return TrainState(jnp.int32(step), jax.random.key(step), {'x': jnp.full(3, value), 'gone': None}, {'mu': jnp.ones(3)})


@pytest.fixture
def checkpoints(tmp_path):
  made = Checkpoints(tmp_path, 'base')
  yield made
  made.close()


def test_the_latest_state_comes_back_whole(checkpoints):
  assert checkpoints.restore_latest(state(0, 0.0)) is None
  saved = state(3, 0.1)
  checkpoints.save_latest(saved)
  checkpoints.wait()
  restored = checkpoints.restore_latest(state(0, 0.0))
  assert restored.trainable['gone'] is None and restored.step == 3
  assert jnp.array_equal(jax.random.key_data(restored.key), jax.random.key_data(saved.key))
  jax.tree.map(np.testing.assert_array_equal, restored._replace(key=None), saved._replace(key=None))


def test_once_a_state_can_be_gone_on_from_the_best_before_it_is_on_disk(checkpoints, tmp_path):
  big = {'x': jax.random.normal(jax.random.key(0), (5_000, 5_000))}         # takes longer to write than the state
  checkpoints.save_best(5, big)
  checkpoints.save_latest(state(6, 0.0))
  while not (tmp_path / 'latest' / '6').exists():
    pass
  assert (tmp_path / 'best' / '5').exists()


def test_a_best_step_replaces_a_later_one_that_a_killed_run_had_reached(checkpoints):
  for step, value in ((5, 1.0), (10, 2.0), (5, 3.0)):
    checkpoints.save_best(step, {'x': jnp.full(2, value)})
  checkpoints.wait()
  assert checkpoints.step('best') == 5
  assert checkpoints.restore_best({'x': jnp.zeros(2)})['x'][0] == 3


@pytest.mark.parametrize('base, like, message', [
    ('other', {'x': jnp.zeros(3)}, r'was trained on another base model \(base, not other\)'),
    ('base', {'x': jnp.zeros(4)}, r'x is \[\[3\], .float32.\], but the config says \[\[4\]'),
    ('base', {'x': jnp.zeros(3, jnp.bfloat16)}, 'bfloat16'),
    ('base', {'x': jnp.zeros(3), 'y': jnp.zeros(3)}, 'lacks arrays: y'),
    ('base', {}, 'holds unexpected arrays: x')])
def test_arrays_of_another_model_or_shape_are_refused(checkpoints, tmp_path, base, like, message):
  checkpoints.save_best(1, {'x': jnp.ones(3)})
  checkpoints.close()
  reader = Checkpoints(tmp_path, base)
  with pytest.raises(InputError, match=message):
    reader.restore_best(like)
  reader.close()


def test_a_folder_without_a_checkpoint_says_so(checkpoints):
  with pytest.raises(InputError, match='holds no best checkpoint; train the run first'):
    checkpoints.restore_best({'x': jnp.zeros(3)})
