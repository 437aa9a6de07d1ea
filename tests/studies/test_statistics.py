"""Intervals against known answers, and against simulated truth."""

import itertools
import random

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import normal_power
from statsmodels.stats.weightstats import DescrStatsW

from research.evaluation import metrics
from research.evaluation.metrics import Scored
from research.studies import statistics

pytestmark = pytest.mark.quick


def test_pseudo_values_of_a_mean_are_the_examples_own():
  vectors = metrics.get('accuracy').sums([Scored(p, 'a', 1.0, 1, ()) for p in 'abaab'])
  np.testing.assert_allclose(statistics.pseudo_values(metrics.get('accuracy'), vectors), [1, 0, 1, 1, 0], atol=1e-12)


def test_with_one_seed_the_difference_is_the_paired_t_interval_and_has_no_p():
  rng = np.random.default_rng(0)
  a, b = (np.stack([rng.integers(0, 2, 200), np.ones(200)], 1).astype(float) for _ in range(2))
  found = statistics.difference(metrics.get('accuracy'), [a], [b])
  low, high = stats.ttest_rel(a[:, 0], b[:, 0]).confidence_interval(0.95)
  assert found.p is None
  np.testing.assert_allclose(found[:3], [np.mean(a[:, 0] - b[:, 0]), low, high], atol=1e-12)


def test_holm_is_the_hand_computed_one_and_leaves_gaps():
  assert statistics.adjust([0.01, None, 0.04, 0.03]) == pytest.approx([0.03, None, 0.06, 0.06])


@pytest.mark.parametrize('seed_spread', [0.0, 0.03])
def test_two_equal_arms_are_told_apart_in_about_5_percent_of_studies(seed_spread):
  """300 studies of 3 seeds x 200 examples whose arms differ by chance alone: 95 % coverage, within the noise of 300."""
  rng = np.random.default_rng(1)
  covered = 0
  for _ in range(300):
    hardness = rng.normal(0, 0.2, 200)
    arms = []
    for _ in range(2):
      chance = np.clip(0.7 + hardness + rng.normal(0, seed_spread, (3, 1)), 0, 1)
      right = (rng.random((3, 200)) < chance).astype(float)
      arms.append([np.stack([r, np.ones(200)], 1) for r in right])
    found = statistics.difference(metrics.get('accuracy'), *arms)
    covered += found.low <= 0 <= found.high
    assert (found.p > 0.05) == (found.low < 0 < found.high)
  assert 0.92 <= covered / 300 <= 0.99


def test_identical_arms_differ_by_nothing():
  vectors = np.stack([np.arange(10) % 2, np.ones(10)], 1).astype(float)
  found = statistics.difference(metrics.get('accuracy'), [vectors] * 2, [vectors] * 2)
  assert found[:4] == (0, 0, 0, 1.0) and found.spread == (0, 0, 0)
  assert statistics.equivalence(found, 0.01) == 0


def test_equivalence_is_statsmodels_tost():
  """On one value an example, which both can test."""
  values = np.random.default_rng(3).normal(0.02, 0.1, 60)
  found = statistics.crossed(values[None], values.mean())
  for margin in (0.01, 0.03, 0.05):
    p = DescrStatsW(values).ttost_mean(-margin, margin)[0]
    assert statistics.equivalence(found, margin) == pytest.approx(p, rel=1e-9)


def test_the_spread_is_found_again_and_says_how_many_seeds_and_examples_are_needed():
  rng = np.random.default_rng(4)
  true = statistics.Spread(0.02 ** 2, 0.2 ** 2, 0.3 ** 2)
  draw = lambda S, n: (rng.normal(0, 0.02, (S, 1)) + rng.normal(0, 0.2, n) + rng.normal(0, 0.3, (S, n)))
  found = [statistics.crossed(draw(20, 500), 0.0).spread for _ in range(40)]
  np.testing.assert_allclose(np.mean(found, axis=0), true, rtol=0.1)
  deviation = lambda S, n: np.sqrt(true.seed / S + true.example / n + true.rest / (S * n))
  power = lambda difference, *design: normal_power(difference / deviation(*design), 1, 0.05, sigma=1)
  for difference, seeds, examples in ((0.05, 5, 400), (0.03, 8, 1000)):
    S, n = statistics.needed(true, seeds, examples, difference)
    assert power(difference, S, examples) >= 0.8 > power(difference, S - 1, examples)
    assert power(difference, seeds, n) >= 0.8 > power(difference, seeds, n - 1)
  assert statistics.needed(true, 2, 100, 0.02) == (np.inf, np.inf)      # the other alone moves the mean by too much


def test_letters_are_shared_exactly_by_the_pairs_that_no_test_tells_apart():
  assert statistics.letters('abcd', [frozenset('ad'), frozenset('ac')]) == {'a': 'a', 'b': 'ab', 'c': 'b', 'd': 'b'}
  assert statistics.letters('abc', []) == dict.fromkeys('abc', 'a')
  rng = random.Random(0)
  for _ in range(200):
    arms = [str(i) for i in range(rng.randint(1, 7))]
    pairs = list(itertools.combinations(arms, 2))
    apart = [frozenset(pair) for pair in pairs if rng.random() < 0.4]
    found = statistics.letters(arms, apart)
    for pair in pairs:
      assert bool({*found[pair[0]]} & {*found[pair[1]]}) == (frozenset(pair) not in apart)
