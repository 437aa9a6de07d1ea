"""Examples that belong together: levels and intervals hold when clusters are what varies, and do not when examples are."""

import numpy as np
import pytest
import simulated
from simulated import POINT

from research.evaluation import clusters, intervals, metrics
from research.studies import statistics

pytestmark = pytest.mark.quick
EACH = 20          # examples of a cluster


def drawn(rng, studies, arms, seeds, count, spread=3 * POINT, alike=0.5):
  """Right or wrong, [studies, arms, seeds, count * EACH]: an arm's answers within a cluster correlate by `alike`.

  Of an arm's own: two arms of one study have other clusters that suit them, which is what a paired test does not take away.
  """
  shape = (studies, arms, 1, count, 1)
  a, b = (share * (1 - alike) / alike for share in (0.7, 0.3))
  chance = rng.beta(a, b, shape)
  shift = spread * rng.standard_normal((studies, arms, seeds, 1, 1))
  right = rng.random((studies, arms, seeds, count, EACH)) < (chance + shift).clip(0, 1)
  return right.reshape(studies, arms, seeds, count * EACH).astype(float)


def by_cluster(values):
  """[…, clusters]: means of clusters, all of one size."""
  return values.reshape(*values.shape[:-1], -1, EACH).mean(-1)


@pytest.mark.parametrize('arms, seeds, count', [(2, 3, 25), (4, 3, 40), (4, 5, 60)])
def test_clusters_keep_the_level_and_examples_do_not(arms, seeds, count):
  rng, studies = np.random.default_rng(5), 400
  values = drawn(rng, studies, arms, seeds, count)
  for name, of, step, holds in (('clusters', by_cluster(values), 1 / EACH, True), ('examples', values, 1.0, False)):
    p, covered = simulated.tested(of, step)
    told, held = simulated.holm(p).any(1).mean(), (covered > 0.05).mean()
    print(f'{arms} x {seeds} x {count} clusters, by {name}: told apart {100 * told:.1f} %, held {100 * held:.1f} %')
    if holds:
      assert told <= 0.075 and 0.92 <= held <= 0.985
    else:
      assert told > 0.15 and held < 0.9


def test_one_runs_interval_holds_the_truth_by_clusters_and_not_by_examples():
  rng, metric = np.random.default_rng(6), metrics.get('accuracy')
  of = [f'passage {number // EACH}' for number in range(30 * EACH)]
  held = {True: 0, False: 0}
  for values in drawn(rng, 600, 1, 1, 30, spread=0.0)[:, 0, 0]:
    vectors = np.stack([values, np.ones(len(values))], 1)
    for by in held:
      low, high = intervals.interval(metric, clusters.sums(vectors, of if by else ()), by)
      held[by] += low <= 0.7 <= high
  assert 0.92 <= held[True] / 600 <= 0.98 and held[False] / 600 < 0.75


def test_clusters_of_unlike_size_weigh_by_their_examples_and_give_the_same_score():
  rng, metric = np.random.default_rng(7), metrics.get('accuracy')
  of = rng.integers(0, 9, 200).tolist()
  vectors = np.stack([(rng.random(200) < 0.6).astype(float), np.ones(200)], 1)
  summed = clusters.sums(vectors, of)
  assert summed.shape == (9, 2) and metric.score(summed.sum(0)) == metric.score(vectors.sum(0))
  assert clusters.sums(vectors, ()) is vectors and (clusters.sums(vectors, range(200)) == vectors).all()
  found = statistics.scores(metric, {'a': [summed], 'b': [summed]}, [], each=200 / 9)
  assert statistics.mean(found, 'a').mean == pytest.approx(vectors[:, 0].mean())
  alone = intervals.interval(metric, clusters.sums(vectors, range(200)), True)
  assert alone == pytest.approx(intervals.interval(metric, vectors), abs=2e-3)      # each its own cluster: the same


def test_shares_of_clusters_that_do_not_vary_count_each_once():
  metric, ones = metrics.get('accuracy'), np.full((12, 2), 5.0)
  assert intervals.interval(metric, ones, True) == pytest.approx([*intervals.wilson(1.0, 12)])
  assert intervals.interval(metric, ones[:1], True) == pytest.approx([*intervals.wilson(1.0, 1)])
