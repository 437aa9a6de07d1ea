"""95 % intervals over examples."""

import math

import numpy as np
import pytest

from research.evaluation import metrics
from research.evaluation.intervals import interval, resample_counts
from research.evaluation.metrics import Scored

pytestmark = pytest.mark.quick


def shares(right, of):
  return metrics.get('accuracy').sums([Scored('a' if i < right else 'b', 'a', 0, 1, ('a', 'b')) for i in range(of)])


@pytest.mark.parametrize('right, of', [(0, 20), (1, 20), (13, 20), (20, 20), (479, 500), (1, 1)])
def test_a_share_has_wilsons_interval(right, of):
  z, p = 1.959963984540054, right / of
  middle = (p + z * z / (2 * of)) / (1 + z * z / of)
  half = z / (1 + z * z / of) * math.sqrt(p * (1 - p) / of + z * z / (4 * of * of))
  low, high = interval(metrics.get('accuracy'), shares(right, of))
  np.testing.assert_allclose([low, high], [max(0, middle - half), min(1, middle + half)], atol=1e-12)
  assert 0 <= low <= p <= high <= 1 and high - low > 0.01


@pytest.mark.parametrize('name', ['macro_f1', 'bleu', 'chrf', 'rouge1', 'loss'])
def test_a_bootstrap_interval_holds_the_score_and_narrows_with_more_examples(name):
  rng = np.random.default_rng(0)
  text = 'the cat sat on a red mat while two dogs slept near its warm house'
  if name == 'macro_f1':
    made = [Scored(str(rng.choice(['a', 'b'])), str(rng.choice(['a', 'b'])), 0, 1, ('a', 'b')) for _ in range(320)]
  else:
    made = [Scored(' '.join(w for w in text.split() if rng.random() < 0.8), text, float(rng.gamma(5)), 5, ())
            for _ in range(320)]
  metric, widths = metrics.get(name), []
  for count in (20, 320):
    vectors = metric.sums(made[:count])
    low, high = interval(metric, vectors)
    assert low < metric.score(vectors.sum(0)) < high
    widths.append(high - low)
  assert 2.5 < widths[0] / widths[1] < 6.5                             # about the root of 16


def test_the_bootstrap_of_a_mean_is_near_the_normal_interval():
  losses = np.random.default_rng(1).gamma(5, size=400)
  vectors = np.stack([losses, np.ones(400)], 1)
  half = 1.96 * losses.std() / 20
  np.testing.assert_allclose(interval(metrics.get('loss'), vectors), [losses.mean() - half, losses.mean() + half],
                             atol=0.1 * half)


def test_examples_that_are_all_alike_leave_no_doubt():
  low, high = interval(metrics.get('loss'), np.tile([2.0, 4.0], (30, 1)))
  assert low == high == 0.5


def test_resamples_draw_as_many_examples_as_there_are_and_are_the_same_every_time():
  counts = resample_counts(37, 100)
  assert counts.shape == (100, 37) and (counts.sum(1) == 37).all() and counts.std() > 0.5
  np.testing.assert_array_equal(counts, resample_counts(37, 100))
  assert (counts != resample_counts(37, 100, seed=1)).any()
