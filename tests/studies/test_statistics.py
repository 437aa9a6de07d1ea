"""Intervals against known answers, and against simulated truth."""

import numpy as np
import pytest
from scipy import stats

from research.evaluation import metrics
from research.evaluation.metrics import Scored
from research.studies import statistics


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
  assert statistics.difference(metrics.get('accuracy'), [vectors] * 2, [vectors] * 2) == (0, 0, 0, 1.0)
