"""A study is data: its cells are made from it, and what is wrong with it is said before anything runs."""

import pytest

from research.errors import InputError
from research.studies import grid

pytestmark = pytest.mark.quick

BASE = {'model': {'source': 'random:llama-tiny'}, 'task': {'name': 'domain'},
        'strategy': {'name': 'lora', 'rank': None, 'shots': None},
        'training': {'learning_rate': 1e-3, 'seed': 0, 'steps': 5}}


def fields(**changes):
  return {'question': '?', 'base': 'configs/default.py', 'select': 'valid/accuracy', 'report': 'test/accuracy',
          'baseline': 'few_shot', 'seeds': (0, 1), 'arms': {
              'few_shot': {'strategy': {'name': 'few_shot'}, 'grid': {'strategy.shots': [0, 4]}},
              'lora': {'strategy': {'name': 'lora', 'rank': 4}, 'grid': {'training.learning_rate': [1e-3, 1e-2]}}},
          **changes}


def test_cells_are_arms_times_grids_times_seeds_and_each_holds_its_whole_config():
  cells = grid.cells(grid.study(fields(budget={'steps': 9}), 'x.py'), BASE)
  assert len(cells) == len({c.key for c in cells}) == (2 + 2) * 2
  last = cells[-1]
  assert (last.arm, last.seed, last.setting) == ('lora', 1, {'training.learning_rate': 1e-2})
  assert last.config['strategy'] == {'name': 'lora', 'rank': 4, 'shots': None}
  assert last.config['training'] == {'learning_rate': 1e-2, 'seed': 1, 'steps': 9}
  assert BASE['training']['steps'] == 5


@pytest.mark.parametrize('change, says', [
    ({'baseline': 'nobody'}, 'is no arm'),
    ({'select': 'test/accuracy'}, 'would leak'),
    ({'report': 'valid/accuracy'}, 'must be a test metric'),
    ({'seeds': (1, 1)}, 'each once'),
    ({'margin': 0}, 'margin=0: must be a number above 0'),
    ({'report_seeds': (1, 2)}, 'none of them may be one of seeds'),
    ({'report_seeds': 3}, 'must be a list of seeds'),
    ({'report_seeds': (2, 2)}, 'each once'),
    ({'diverged': 'ignored'}, 'must be left_out or worst'),
    ({'diverged': 'worst', 'report': 'test/loss'}, 'has no worst score'),
    ({'surprise': 1}, "unknown field 'surprise'"),
])
def test_a_study_that_cannot_be_right_is_refused(change, says):
  with pytest.raises(InputError, match=says):
    grid.study(fields(**change), 'x.py')


def test_a_study_can_vary_one_seed_alone():
  base = {**BASE, 'training': {**BASE['training'], 'order_seed': None}}
  s = grid.study(fields(vary='order_seed', report_seeds=(7,)), 'x.py')
  found = grid.cells(s, base)
  assert {(c.config['training']['seed'], c.config['training']['order_seed']) for c in found} == {(0, 0), (0, 1)}
  [again] = grid.again(s, found[:1])
  assert (again.config['training']['seed'], again.config['training']['order_seed'], again.seed) == (0, 7, 7)
  with pytest.raises(InputError, match='must be one of seed, order_seed'):
    grid.study(fields(vary='learning_rate'), 'x.py')


def test_an_axis_that_names_no_field_is_refused():
  arms = {'few_shot': {'strategy': {'name': 'few_shot'}, 'grid': {'training.learning_rte': [1]}}}
  with pytest.raises(InputError, match='learning_rte'):
    grid.cells(grid.study(fields(arms=arms), 'x.py'), BASE)


def test_arms_that_are_the_same_run_are_refused():
  arms = {n: {'strategy': {'name': 'few_shot'}} for n in ('few_shot', 'twin')}
  with pytest.raises(InputError, match='same run'):
    grid.cells(grid.study(fields(arms=arms, seeds=(0,)), 'x.py'), BASE)


def test_cells_that_differ_in_arrays_alone_are_one_program():
  """Seeds, rates, also of dropout where there is any, and initial values; a rank is another shape."""
  base = {**BASE, 'strategy': {**BASE['strategy'], 'dropout': None, 'initial_d': None}}
  one = {'training.learning_rate': [1e-3, 1e-2], 'strategy.dropout': [0.0, 0.1, 0.2], 'strategy.initial_d': [0.1, 0.5],
         'strategy.rank': [4, 8]}
  arms = {'vera': {'strategy': {'name': 'vera'}, 'grid': one}}
  groups = grid.alike(grid.cells(grid.study(fields(arms=arms, baseline='vera'), 'x.py'), base))
  told = {(bool(c.config['strategy']['dropout']), c.config['strategy']['rank']) for group in groups for c in group}
  assert len(groups) == len(told) == 4
  assert sorted(map(len, groups)) == [2 * 2 * 2, 2 * 2 * 2, 2 * 2 * 2 * 2, 2 * 2 * 2 * 2]
