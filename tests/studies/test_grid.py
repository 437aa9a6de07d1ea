"""A study is data: its cells are made from it, and what is wrong with it is said before anything runs."""

import pytest

from research.errors import InputError
from research.studies import commands, grid

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
    ({'select': 5}, 'select=5: must be text'), ({'report': None}, 'report=None: must be text'),
    ({'seeds': ('a', 'b')}, 'must be a list of seeds'), ({'seeds': ([1],)}, 'must be a list of seeds'),
    ({'baseline': ['a']}, 'baseline=.*: must be text'), ({'tasks': (5,)}, "tasks: 5: must be a task's name"),
    ({'arms': {'few_shot': {'strategy': None}}}, 'must be {"strategy"'),
    ({'arms': {'few_shot': {'strategy': {'name': 'few_shot'}, 'grid': [1]}}}, 'must be {"strategy"'),
    ({'arms': {1: {'strategy': {'name': 'few_shot'}}}}, 'must be {"strategy"'),
    ({'budget': {'seed': 5}}, 'budget sets training.seed, which is what the seeds of the study vary'),
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
  groups = grid.group_by_program(grid.cells(grid.study(fields(arms=arms, baseline='vera'), 'x.py'), base))
  told = {(bool(c.config['strategy']['dropout']), c.config['strategy']['rank']) for group in groups for c in group}
  assert len(groups) == len(told) == 4
  assert sorted(map(len, groups)) == [2 * 2 * 2, 2 * 2 * 2, 2 * 2 * 2 * 2, 2 * 2 * 2 * 2]


FILES = {'name': 'files', 'train': 'a.jsonl', 'target': ' {label}'}


def test_two_tasks_of_files_are_told_apart_by_their_labels():
  """In cells' names, and in the task by which rows, tables and figures go; the hash of what a run is leaves labels out."""
  base = {**BASE, 'task': {**BASE['task'], 'train': None, 'target': None, 'label': None}}
  tasks = ({**FILES, 'label': 'short reviews'}, {**FILES, 'train': 'b.jsonl', 'label': 'long'}, FILES | {'train': 'c.jsonl'})
  cells = grid.cells(grid.study(fields(tasks=tasks), 'x.py'), base)
  assert [*dict.fromkeys(c.task for c in cells)] == ['short reviews', 'long', 'files']
  assert cells[0].key.startswith('short_reviews-few_shot-shots=0-seed=0-')
  unlabelled = grid.cells(grid.study(fields(tasks=(FILES,)), 'x.py'), base)
  assert cells[0].key.rsplit('-', 1)[1] == unlabelled[0].key.rsplit('-', 1)[1]
  [again] = grid.again(grid.study(fields(tasks=tasks, report_seeds=(5,)), 'x.py'), cells[:1])
  assert again.task == 'short reviews' and again.key.startswith('short_reviews-')
  assert '--config.task.label=\'short reviews\'' in commands.command(cells[0], 'configs/x.py', base)
  with pytest.raises(InputError, match='two tasks of the study have one name: files; give each a label of its own'):
    grid.cells(grid.study(fields(tasks=(FILES, {**FILES, 'train': 'b.jsonl'})), 'x.py'), base)


@pytest.mark.parametrize('label', ['', ' ', 3])
def test_a_label_that_names_nothing_is_refused(label):
  base = {**BASE, 'task': {**BASE['task'], 'train': None, 'target': None, 'label': None}}
  with pytest.raises(InputError, match=f'label={label!r}: must be a text'):
    grid.cells(grid.study(fields(tasks=({**FILES, 'label': label},)), 'x.py'), base)


def test_cells_say_the_model_where_a_study_has_several():
  """Also those that are added later: wider grids, and the seeds of the report."""
  s = grid.study(fields(models=('random:llama-tiny', 'org/Llama-3', '/models/my llama/'), report_seeds=(5,)), 'x.py')
  cells = grid.cells(s, BASE)
  lora = [c for c in cells if c.arm == 'lora' and c.seed == 0]
  assert [c.key.rsplit('-', 1)[0] for c in lora[::2]] == [
      f'{model}-domain-lora-learning_rate=0.001-seed=0' for model in ('llama-tiny', 'Llama-3', 'my_llama')]
  assert all(c.key.startswith('Llama-3-') for c in grid.again(s, lora[2:4]) + grid.beyond(cells, lora[2:4]))
  [one] = {c.key.split('-')[0] for c in grid.cells(grid.study(fields(models=('org/Llama-3',)), 'x.py'), BASE)}
  assert one == 'domain'


def test_a_cell_is_called_by_what_differs_in_the_study():
  one = grid.cells(grid.study(fields(seeds=(0,)), 'x.py'), BASE)
  assert grid.labels(one, reported=False)[2] == '[3/4] lora-learning_rate=0.001'
  assert grid.labels(one, reported=True)[2] == '[3/4] lora-learning_rate=0.001-seed=0'
  two = grid.cells(grid.study(fields(models=('a/b', 'c/d'), tasks=('domain', 'sentiment')), 'x.py'), BASE)
  assert grid.labels(two, reported=False)[-1] == '[32/32] d-sentiment-lora-learning_rate=0.01-seed=1'
