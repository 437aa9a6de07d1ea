"""The verdict says in words what the numbers answer and what they cost, and leaves open what they leave open."""

import pytest
from test_findings import study

from research.look import percent
from research.studies import verdict

pytestmark = pytest.mark.quick


def arm(name, mean, half=0.03, flops=1e12, learn=1e8, memory=2e9, **more):
  return {'arm': name, 'selected': {'learning_rate': 1e-3}, 'mean': mean, 'low': mean - half, 'high': mean + half, 'group': 'a',
          'seeds': [0, 1, 2], 'difference': None, 'runs': {'planned': 3, 'finished': 3, 'failed': 0, 'diverged': 0},
          'cost': {'train_flops': flops, 'trainable_params': learn, 'peak_bytes': memory, 'cohort_size': 1}, **more}


def said(arms, p, **more):
  """The verdict on arms of which every pair's corrected test gives p; the first arm is the baseline."""
  pairs = [{'arm': a['arm'], 'other': b['arm'], 'p_adjusted': p, 'p_models': None} for i, a in enumerate(arms)
           for b in arms[i + 1:]]
  c = {'model': 'm', 'task': 't', 'metric': 'test/accuracy', 'baseline': arms[0]['arm'], 'seeds': [0, 1, 2], 'split': 'test',
       'examples': 100, 'chance': 0.5, 'majority': 0.6, 'arms': arms, 'pairs': pairs, 'missing': [], **more}
  rates = [1e-4, 1e-3, 1e-2]
  rows = [{'model': 'm', 'task': 't', 'arm': a['arm'], 'reports': False, 'setting': {'training.learning_rate': rate}}
          for a in arms for rate in rates]
  return ' '.join(verdict.verdict(study([a['arm'] for a in arms]), c, rows))


FULL = arm('full', 0.9)


def test_it_names_score_and_cost_as_shares_of_the_best_arms():
  told = said([FULL, arm('lora', 0.873, learn=1.8e6, memory=0.9e9, flops=7e11)], p=0.3)
  assert told == ('full scores highest: test/accuracy 0.900 [0.870, 0.930], where always giving the most frequent answer '
                  'scores 0.600. lora reaches 97 % of full\'s accuracy with 1.8 % of its parameters, 45 % of its memory and '
                  '70 % of its FLOPs; they cannot be told apart.')


@pytest.mark.parametrize('p, ends', [(0.001, 'a test tells them apart (p 0.001).'), (0.3, 'they cannot be told apart.'),
                                     (None, 'so few seeds allow no test of whether they differ.')])
def test_arms_are_told_apart_only_where_a_test_does(p, ends):
  assert said([FULL, arm('lora', 0.8)], p).endswith(ends)


def test_a_dearer_arm_is_told_as_a_multiple_and_a_prompt_as_untrained():
  told = said([FULL, arm('lora', 0.91, learn=1e6, memory=1e9)], p=0.3)
  assert ('full reaches 98.9 % of lora\'s accuracy with 100 times its parameters, 2 times its memory and 100 % of its '
          'FLOPs') in told
  assert 'prompt reaches 89 % of full\'s accuracy without any training' in said([FULL, arm('prompt', 0.8, flops=0)], p=0.3)
  assert 'full reaches 99.4 % of prompt\'s accuracy, and was trained for it (1 T FLOPs)' in said(
      [FULL, arm('prompt', 0.905, flops=0)], p=0.3)


def test_nothing_follows_where_no_arm_beats_the_most_frequent_answer():
  told = said([arm('full', 0.62), arm('lora', 0.55)], p=0.3)
  assert told.startswith('No arm is shown to be better than always giving the most frequent answer (0.600)')
  assert ' % of ' not in told
  low = said([FULL, arm('lora', 0.61)], p=0.001)
  assert low.endswith('tells them apart (p 0.001). It is not shown to be better than always giving the most frequent answer.')


def test_an_edge_one_seed_and_lost_runs_leave_it_open():
  edge = arm('lora', 0.87, selected={'learning_rate': 1e-2})
  assert said([FULL, edge], p=0.3).endswith('Tuning ended at an edge for lora (learning_rate 0.01, the highest that was '
                                            'tried): a better value may lie beyond it.')
  assert said([FULL, arm('lora', 0.87)], p=0.3, seeds=[0]).endswith('another seed may order them otherwise.')
  lost = arm('lora', 0.87, runs={'planned': 3, 'finished': 2, 'failed': 0, 'diverged': 1})
  assert 'Runs that ended: lora 2 of 3.' in said([FULL, lost], p=0.3)


def test_a_smaller_loss_is_the_better_one_and_has_no_share():
  told = said([arm('full', 1.2), arm('lora', 1.5)], p=0.001, metric='test/loss', chance=None, majority=None)
  assert told.startswith('full scores lowest, which is best: test/loss 1.200')
  assert 'lora is 0.300 worse than full in loss' in told and told.endswith('a test tells them apart (p 0.001).')


def test_equal_costs_are_said_in_short():
  assert 'lora reaches 97 % of full\'s accuracy at the same cost; they' in said([FULL, arm('lora', 0.873)], p=0.3)


def test_memory_is_not_compared_where_it_is_a_share_of_programs_of_different_sizes():
  shared = arm('lora', 0.87, flops=5e11)
  shared['cost'] = {**shared['cost'], 'cohort_size': 3}
  assert 'memory' not in said([FULL, shared], p=0.3) and 'FLOPs' in said([FULL, shared], p=0.3)


@pytest.mark.parametrize('share, text', [(0.018, '1.8 %'), (0.955, '96 %'), (0.996, '99.6 %'), (1.0, '100 %'),
                                         (12.5, '1,250 %')])
def test_percent_does_not_round_to_the_whole(share, text):
  assert percent(share) == text
