"""Each thing that is drawn has a seed that moves it alone."""

import jax
import numpy as np
import pytest
from helpers import config, reviews

from research import config as configs
from research import tree
from research.errors import InputError
from research.experiment import restore
from research.experiment.assemble import assemble
from research.studies import grid


def drawn(**training):
  """What a run draws, by what it is of."""
  fields = {'task__rows': 12, **reviews(train=40, valid=4), **{f'training__{name}': seed for name, seed in training.items()}}
  exp = assemble(config(strategy__name='lora', strategy__dropout=0.1, **fields))
  shots = assemble(config(strategy__name='few_shot', strategy__shots=4, **fields))
  state, _ = restore.begin(exp)
  return {'rows': [row['text'] for row in exp.task.rows('train')],
          'order': exp.training_batches()(0).tokens.tolist(),
          'init': [np.asarray(x).tolist() for name, x in tree.leaves(state.trainable).items() if name.endswith('/a')],
          'dropout': jax.random.key_data(state.key).tolist(),
          'shots': [row['text'] for row in shots.demonstrations({'text': 'new'})]}


@pytest.mark.parametrize('part', configs.SEEDS)
def test_a_seed_of_its_own_moves_that_alone(part):
  usual, moved = drawn(seed=3), drawn(seed=3, **{f'{part}_seed': 4})
  differ = {name for name in usual if usual[name] != moved[name]}
  also = {'order', 'shots'} if part == 'rows' else set()      # other rows are other batches and other demonstrations
  assert differ == {part} | also
  assert drawn(seed=3, **{f'{part}_seed': 3}) == usual


def test_one_seed_moves_all_of_them():
  usual, moved = drawn(seed=3), drawn(seed=4)
  assert all(usual[name] != moved[name] for name in usual)


@pytest.mark.quick
def test_a_study_can_vary_each_of_them():
  parts = tuple(f'{part}_seed' for part in configs.SEEDS)
  assert grid.VARIED[0] == 'seed' and grid.VARIED[1:] == parts


@pytest.mark.quick
@pytest.mark.parametrize('field', ['seed', 'order_seed', 'shots_seed'])
@pytest.mark.parametrize('value', [-1, 2 ** 31])
def test_seeds_out_of_range_are_refused(field, value):
  with pytest.raises(InputError, match=rf'training\.{field}={value}: must be 0 or more'):
    assemble(config(**{f'training__{field}': value}))
