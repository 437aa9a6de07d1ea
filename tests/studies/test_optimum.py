"""Where between the values of a grid the best one lies, and how many times another arm's."""

import math

import numpy as np
import pytest
from scipy import stats

from research.studies import grid, optimum

pytestmark = pytest.mark.quick
RATE = 'training.learning_rate'
RATES = (1e-3, 3e-3, 1e-2, 3e-2)


def parabola(best):
  """A loss whose lowest point is at a rate of `best`."""
  return lambda rate: 1 + 0.2 * math.log(rate / best) ** 2


def study():
  arms = {arm: {'strategy': {'name': 'lora'}, 'grid': {RATE: RATES, 'strategy.targets': ['mlp', 'attention']}}
          for arm in ('full', 'lora')}
  return grid.study({'question': 'Which?', 'base': 'x', 'arms': arms, 'select': 'valid/loss', 'report': 'test/loss',
                     'baseline': 'full', 'seeds': (0, 1, 2)}, 'x.py')


def rows(best):
  """Results of both arms, whose rates are best as {arm: of each seed}; attention is chosen, and the MLP is best elsewhere."""
  found = []
  for arm, of_seeds in best.items():
    for seed, at in enumerate(of_seeds):
      for rate in RATES:
        for targets, loss in (('attention', parabola(at)(rate)), ('mlp', 3 + parabola(1e-3)(rate))):
          setting = {RATE: rate, 'strategy.targets': targets}
          found.append({'arm': arm, 'seed': seed, 'setting': setting, 'reports': False, 'chosen': targets == 'attention' and
                        rate == 1e-2, 'result': {'metrics': {'valid/loss': loss}}})
  return found


@pytest.mark.parametrize('best', [0.004, 0.01, 0.013])
def test_a_parabola_is_found_again(best):
  assert optimum.best({rate: parabola(best)(rate) for rate in RATES}, higher=False) == pytest.approx(best)
  assert optimum.best({rate: -parabola(best)(rate) for rate in RATES}, higher=True) == pytest.approx(best)


@pytest.mark.parametrize('points', [{1e-3: 1.0, 1e-2: 2.0, 1e-1: 3.0}, {1e-3: 3.0, 1e-2: 2.0, 1e-1: 1.0}, {1e-3: 1.0},
                                    {1e-3: 1.0, 1.0: 2.0}])
def test_at_an_edge_nothing_is_known_of_the_other_side(points):
  assert optimum.best(points, higher=False) is None


def test_where_neighbours_are_as_good_the_value_itself_is_best():
  assert optimum.best({1e-3: 1.0, 1e-2: 1.0, 1e-1: 1.0, 1: 2.0}, higher=False) is None
  assert optimum.best({1e-3: 2.0, 1e-2: 1.0, 1e-1: 2.0}, higher=False) == pytest.approx(1e-2)


def test_the_ratio_to_the_baseline_is_paired_by_seed_and_has_students_interval():
  found = optimum.of_arms(study(), rows({'full': (0.004, 0.005, 0.006), 'lora': (0.008, 0.012, 0.015)}))
  lora, full = found['lora'][RATE], found['full'][RATE]
  logs = np.log([2, 2.4, 2.5])
  low, high = np.exp(stats.t.interval(0.95, 2, logs.mean(), stats.sem(logs)))
  assert lora == pytest.approx({'value': (8 * 12 * 15) ** (1 / 3) / 1000, 'seeds': 3, 'ratio': math.exp(logs.mean()),
                                'low': low, 'high': high})
  assert full['ratio'] is None and full['value'] == pytest.approx((4 * 5 * 6) ** (1 / 3) / 1000)


def test_nothing_is_said_where_some_seeds_best_lies_at_an_edge():
  found = optimum.of_arms(study(), rows({'full': (0.004, 0.005, 1e-4), 'lora': (0.008, 0.012, 0.015)}))
  assert 'full' not in found and found['lora'][RATE]['ratio'] is None


def test_two_seeds_have_a_value_and_no_interval():
  found = optimum.of_arms(study(), rows({'full': (0.004, 0.005), 'lora': (0.008, 0.012)}))
  assert found['lora'][RATE]['value'] == pytest.approx((8 * 12) ** 0.5 / 1000) and found['lora'][RATE]['ratio'] is None
