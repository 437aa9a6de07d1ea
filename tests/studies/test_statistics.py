"""Intervals against known answers, and against simulated truth."""

import itertools
import random

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import normal_power
from statsmodels.stats.weightstats import DescrStatsW

from research.evaluation import crossed, metrics
from research.evaluation.metrics import Scored
from research.studies import multiplicity, statistics

pytestmark = pytest.mark.quick


def test_pseudo_values_of_a_mean_are_the_examples_own():
  vectors = metrics.get('accuracy').sums([Scored(p, 'a', 1.0, 1, ()) for p in 'abaab'])
  np.testing.assert_allclose(statistics.pseudo_values(metrics.get('accuracy'), vectors), [1, 0, 1, 1, 0], atol=1e-12)


ACCURACY = metrics.get('accuracy')


def right(values):
  """Accuracy's sums of every seed, from who was right, [seeds, examples]."""
  return [np.stack([v, np.ones(len(v))], 1).astype(float) for v in values]


def gap(one, other, *more, metric=ACCURACY):
  sums = {str(number): arm for number, arm in enumerate((one, other, *more))}
  return statistics.gap(statistics.scores(metric, sums, set(sums)), '0', '1')


def test_with_one_seed_the_difference_is_the_paired_t_interval():
  """But for half an example either way."""
  rng = np.random.default_rng(0)
  a, b = rng.integers(0, 2, (2, 2000))
  found = gap(right([a]), right([b]))
  expected = stats.ttest_rel(a, b)
  low, high = expected.confidence_interval(0.95)
  np.testing.assert_allclose(found[:3], [np.mean(a - b), low, high], atol=3e-5)
  assert found.p == pytest.approx(expected.pvalue, rel=1e-2) and found.spread is None


def test_where_examples_do_not_matter_the_difference_is_the_paired_t_interval_of_the_seeds():
  rng = np.random.default_rng(1)
  scores = rng.normal(0.5, 0.05, (2, 5, 1)) + np.zeros(50)
  f = statistics.fit(scores, [True, True], 0.0)
  deviation, freedom = statistics.difference(f, 0, 1)
  expected = stats.ttest_rel(*scores[..., 0])
  error = np.std(np.subtract(*scores[..., 0]), ddof=1) / 5 ** 0.5
  assert freedom == 4 and 2 * deviation.beyond(abs(expected.statistic) * error) == pytest.approx(expected.pvalue, rel=1e-3)
  low, high = expected.confidence_interval(0.95)
  assert deviation.half() == pytest.approx((high - low) / 2, rel=1e-3)


@pytest.mark.parametrize('freedom', [1, 2, 4, 30])
def test_a_variance_known_with_few_degrees_of_freedom_makes_students_t(freedom):
  deviation = statistics.Deviation(*crossed._uncertain(np.array(4.0), freedom, 40))
  for x in (0.5, 2, 5, 20):
    assert deviation.beyond(2 * x) == pytest.approx(stats.t.sf(x, freedom), rel=2e-2, abs=1e-6)
  assert deviation.half() == pytest.approx(2 * stats.t.ppf(0.975, freedom), rel=1e-3)


def test_trained_arms_tell_together_how_far_a_seed_moves_one():
  """The pooled interval is that of the residual of a table of arms and seeds (two-way analysis of variance)."""
  rng = np.random.default_rng(2)
  scores = rng.normal(0.5, 0.05, (4, 3, 1)) + rng.normal(0, 0.1, (1, 3, 1)) + np.zeros(50)
  f = statistics.fit(scores, [True] * 4, 0.0)
  table = scores[..., 0]
  residual = table - table.mean(0) - table.mean(1, keepdims=True) + table.mean()
  pooled = 2 * (residual ** 2).sum() / 6
  assert f.agree
  for pair in itertools.combinations(range(4), 2):
    deviation, freedom = statistics.difference(f, *pair)
    variance = max(pooled, np.subtract(*table[[*pair]]).var(ddof=1) / 2)      # no less than half of its own
    assert freedom == 6 and deviation.half() == pytest.approx(stats.t.ppf(0.975, 6) * (variance / 3) ** 0.5, rel=1e-3)


def test_arms_whose_seeds_do_not_deviate_alike_have_their_own_to_tell_by():
  rng = np.random.default_rng(3)
  drawn = rng.standard_normal((4, 8, 1)) * np.array([1, 1, 1, 20])[:, None, None] * 0.01 + 0.5
  f = statistics.fit(drawn + np.zeros(50), [True] * 4, 0.0)
  assert not f.agree
  halves = [statistics.difference(f, *pair)[0].half() for pair in ((0, 1), (0, 3))]
  for half, (one, other) in zip(halves, ((0, 1), (0, 3))):
    low, high = stats.ttest_rel(drawn[one, :, 0], drawn[other, :, 0]).confidence_interval(0.95)
    assert half == pytest.approx((high - low) / 2, rel=1e-3)
  assert halves[1] > 5 * halves[0]


def test_a_prompts_seeds_are_not_those_of_trained_arms():
  """A prompt that is the same for every seed adds nothing to what the trained arm's own seeds do."""
  rng = np.random.default_rng(4)
  scores = np.concatenate([np.full((1, 3, 1), 0.3), rng.normal(0.5, 0.05, (3, 3, 1))]) + np.zeros(50)
  f = statistics.fit(scores, [False, True, True, True], 0.0)
  seed, freedom, _ = crossed.seeds_part(f, 0, 1)
  assert seed == pytest.approx(scores[1:, :, 0].var(1, ddof=1).mean()) and 2 < freedom <= 6


def test_two_arms_of_two_seeds_have_an_interval_and_no_p():
  rng = np.random.default_rng(5)
  found = gap(*(right(rng.random((2, 200)) < 0.7) for _ in range(2)))
  assert found.p is None and found.low < found.mean < found.high
  of_three = gap(*(right(rng.random((2, 200)) < 0.7) for _ in range(3)))
  assert of_three.p is not None


def test_holm_is_the_hand_computed_one_and_leaves_gaps():
  assert multiplicity.adjust([0.01, None, 0.04, 0.03]) == pytest.approx([0.03, None, 0.06, 0.06])


@pytest.mark.parametrize('seeds', [1, 3])
def test_arms_that_agree_on_every_example_differ_by_an_interval(seeds):
  """About two examples wide, and equivalent only where the margin is wider."""
  vectors = right([np.arange(50) % 2] * seeds)
  found = gap(vectors, vectors)
  assert found.mean == 0 and found.p == pytest.approx(1) and 0.5 / 50 < found.high < 2.5 / 50
  assert found.low == pytest.approx(-found.high)
  assert multiplicity.equivalence(found, 0.01) > 0.05 > multiplicity.equivalence(found, 0.1)


def test_from_an_error_of_0_no_equivalence_is_found():
  vectors = [np.ones((10, 2))] * 2
  found = gap(vectors, vectors, metric=metrics.get('loss'))
  assert found[:3] == (0, 0, 0) and multiplicity.equivalence(found, 0.01) is None


def test_equivalence_is_statsmodels_tost():
  """On one value an example, which both can test."""
  values = np.random.default_rng(3).normal(0.02, 0.1, 60)
  deviation = statistics.Deviation(*crossed._uncertain(np.array(values.var(ddof=1) / 60), 59, 40))
  found = statistics.Estimate(values.mean(), 0, 0, None, deviation)
  for margin in (0.01, 0.03, 0.05):
    p = DescrStatsW(values).ttost_mean(-margin, margin)[0]
    assert multiplicity.equivalence(found, margin) == pytest.approx(p, rel=1e-3)


@pytest.mark.parametrize('rights, within', [((50, 50), (0.9, 1.0)), ((49, 50), (0.3, 1.0)), ((0, 0), (0.0, 0.1))])
def test_a_mean_at_the_end_of_its_range_has_an_interval_within_it(rights, within):
  arms = {name: right([np.arange(50) < n for n in rights]) for name in 'ab'}
  found = statistics.mean(statistics.scores(ACCURACY, arms, {'a', 'b'}), 'a')
  assert within[0] <= found.low < found.high <= within[1] and found.low <= found.mean <= found.high


def test_a_losss_interval_is_above_0():
  rng = np.random.default_rng(6)
  arms = {name: [np.stack([rng.exponential(0.1, 6), np.ones(6)], 1) for _ in range(2)] for name in 'ab'}
  found = statistics.mean(statistics.scores(metrics.get('loss'), arms, {'a', 'b'}), 'a')
  assert 0 < found.low < found.mean < found.high


def test_the_spread_is_found_again_and_says_how_many_seeds_and_examples_are_needed():
  rng = np.random.default_rng(4)
  true = statistics.Spread(0.02 ** 2, 0.2 ** 2, 0.3 ** 2, (0, 0))
  draw = lambda S, n: (rng.normal(0, 0.02, (S, 1)) + rng.normal(0, 0.2, n) + rng.normal(0, 0.3, (S, n)))
  def spread(values):
    f = statistics.fit(np.stack([values, np.zeros_like(values)]), [True, True], 0.0)
    return statistics._spread(f, 0, 1)
  found = [spread(draw(20, 500)) for _ in range(40)]
  np.testing.assert_allclose(np.mean([x[:3] for x in found], axis=0), true[:3], rtol=0.1)
  assert np.mean([x.seed_range[0] <= true.seed <= x.seed_range[1] for x in found]) >= 0.85
  assert spread(draw(3, 500)) is None      # two degrees of freedom tell nothing
  deviation = lambda S, n: np.sqrt(true.seed / S + true.example / n + true.rest / (S * n))
  power = lambda difference, *design: normal_power(difference / deviation(*design), 1, 0.05, sigma=1)
  for difference, seeds, examples in ((0.05, 5, 400), (0.03, 8, 1000)):
    S, n = multiplicity.needed(true, seeds, examples, difference)
    assert power(difference, S, examples) >= 0.8 > power(difference, S - 1, examples)
    assert power(difference, seeds, n) >= 0.8 > power(difference, seeds, n - 1)
  assert multiplicity.needed(true, 2, 100, 0.02) == (np.inf, np.inf)      # the other alone moves the mean by too much


def test_letters_are_shared_exactly_by_the_pairs_that_no_test_tells_apart():
  assert multiplicity.letters('abcd', [frozenset('ad'), frozenset('ac')]) == {'a': 'a', 'b': 'ab', 'c': 'b', 'd': 'b'}
  assert multiplicity.letters('abc', []) == dict.fromkeys('abc', 'a')
  rng = random.Random(0)
  for _ in range(200):
    arms = [str(i) for i in range(rng.randint(1, 7))]
    pairs = list(itertools.combinations(arms, 2))
    apart = [frozenset(pair) for pair in pairs if rng.random() < 0.4]
    found = multiplicity.letters(arms, apart)
    for pair in pairs:
      assert bool({*found[pair[0]]} & {*found[pair[1]]}) == (frozenset(pair) not in apart)
