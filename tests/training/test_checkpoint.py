"""Checkpoints on disk: what stands there at every moment, and what is refused."""

import random
import re
import shutil
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.errors import InputError
from research.training.checkpoint import Checkpoints, _checksum_of_all, checksum
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


def flipped(file, rng):
  """Flips one bit somewhere in a file."""
  data = bytearray(file.read_bytes())
  at = rng.randrange(len(data))
  data[at] ^= 1 << rng.randrange(8)
  file.write_bytes(data)
  return f'{file.name}, byte {at}'


@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')      # of Orbax, whose readers broke off
@pytest.mark.parametrize('seed', [0, pytest.param(1, marks=pytest.mark.matrix)])
def test_a_flipped_bit_changes_nothing_in_silence(tmp_path, seed):
  """In any file of a best checkpoint: either the same arrays come back, or one line says what is damaged."""
  trainable, rng = {'x': jax.random.normal(jax.random.key(0), (64, 32)), 'y': jnp.ones(7)}, random.Random(seed)
  checkpoints = Checkpoints(tmp_path / 'whole', 'base')
  checkpoints.save_best(4, trainable)
  checkpoints.close()
  outcomes = Counter()
  for _ in range(300 if seed else 25):
    shutil.copytree(tmp_path / 'whole', tmp_path / 'flipped')
    files = sorted(f for f in (tmp_path / 'flipped').rglob('*') if f.is_file() and f.stat().st_size)
    where = flipped(rng.choice(files), rng)
    checkpoints = Checkpoints(tmp_path / 'flipped', 'base')
    try:
      back = checkpoints.restore_best(trainable)
      assert all(np.array_equal(one, other) for one, other in zip(*map(jax.tree.leaves, (back, trainable)))), where
      outcomes['the same'] += 1
    except InputError as e:
      assert 'flipped' in str(e) and '\n' not in str(e), where
      outcomes['refused'] += 1
    finally:
      checkpoints.close()
      shutil.rmtree(tmp_path / 'flipped')
  print(outcomes)
  assert outcomes['refused'] and outcomes['the same']


@pytest.mark.parametrize('dtype', [np.float32, np.int32, jnp.bfloat16, np.uint8, bool])
def test_any_flipped_bit_of_an_array_changes_its_checksum(dtype):
  rng = np.random.default_rng(0)
  array = rng.integers(0, 2, (3, 5, 7)).astype(dtype)
  before = checksum(array)
  assert before == checksum(jnp.asarray(array)) == int(_checksum_of_all(jnp.asarray(array)))
  for _ in range(0 if dtype is bool else 50):
    raw = bytearray(array.tobytes())
    raw[rng.integers(len(raw))] ^= 1 << rng.integers(8)
    assert checksum(np.frombuffer(bytes(raw), array.dtype)) != before
  assert checksum(array[::-1].copy()) != before


def test_a_damaged_latest_falls_back_to_the_one_before_and_says_so(tmp_path, capsys):
  checkpoints = Checkpoints(tmp_path, 'base')
  for step in (2, 4, 6):
    checkpoints.save_latest(state(step, float(step)))
  checkpoints.wait()
  checkpoints.close()
  assert {int(f.name) for f in (tmp_path / 'latest').iterdir() if f.name.isdecimal()} == {4, 6}

  def damage(step):
    for file in (f for f in (tmp_path / 'latest' / str(step)).rglob('*') if f.is_file()):
      file.write_bytes(b'x' * file.stat().st_size)
  damage(6)
  assert Checkpoints(tmp_path, 'base').restore_latest(state(0, 0.0)).step == 4
  assert re.search(r'latest/6: is damaged \(.*\); the one before it, of step 4, is taken', capsys.readouterr().err)
  damage(4)
  with pytest.raises(InputError, match=r'latest/4: is damaged .* to begin at step 1 again'):
    Checkpoints(tmp_path, 'base').restore_latest(state(0, 0.0))
