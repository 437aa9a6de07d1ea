"""How often arms that do not differ are told apart, how often an interval holds the truth, and how often a difference is found.

By simulation, printed as tables: `pytest tests/studies/test_null.py -s`; whole with --matrix.
"""

import itertools

import numpy as np
import pytest
import simulated
from scipy import stats
from simulated import POINT, Design
from statsmodels.stats.proportion import proportion_confint

from research.evaluation import metrics
from research.evaluation.metrics import Scored
from research.studies import statistics

pytestmark = pytest.mark.quick
NORMAL = [Design(a, s, n, spread * POINT) for a, s, n, spread in
          itertools.product((2, 4, 8), (2, 3, 5, 10), (50, 500, 2000), (0, 1.5, 3, 6))]
OTHER = [Design(a, s, n, spread * POINT, kind) for kind, a, s, n, spread in itertools.product(
    ('half wide', 'one wide', 't3', 'bad', 'correlated'), (4, 8), (2, 3, 5, 10), (200,), (3, 6))]
FEW = [Design(a, s, 300, spread * POINT) for a, s, spread in itertools.product((2, 4, 8), (2, 3, 5), (0, 3, 6))]
FEW_OTHER = [Design(4, 3, 300, 3 * POINT, kind) for kind in ('half wide', 'one wide', 't3', 'bad', 'correlated')]


def whole(*designs):
  return pytest.param(*designs, marks=pytest.mark.matrix)


def above(share, of, most):
  """Whether a share is above what may be, by more than chance."""
  return proportion_confint(round(share * of), of, alpha=0.002)[0] > most


@pytest.mark.parametrize('designs, studies, most', [(FEW, 200, 0.07), (FEW_OTHER, 200, 0.09), whole(NORMAL, 1000, 0.07),
                                                    whole(OTHER, 1000, 0.09)], ids=['few', 'few others', 'normal', 'others'])
def test_equal_arms_are_told_apart_in_no_more_studies_than_the_level_says(designs, studies, most):
  """Holm's correction over all pairs; and 92 to 98 % of the differences' intervals hold the truth."""
  rng, wrong, held = np.random.default_rng(6), [], []
  print('\narms x seeds x rows: told apart, intervals that hold the truth')
  for design in designs:
    told, covered = simulated.levels(simulated.accuracy, design, studies, rng)
    print(f'{design}: {100 * told:.1f} %, {100 * covered:.1f} %')
    assert not above(told, studies, most), design
    pairs = design.arms * (design.arms - 1) // 2
    assert 0.92 - 0.04 / pairs ** 0.5 * (1000 / studies) ** 0.5 <= covered <= 0.98 + 0.02 * (200 / studies), design
    wrong.append(told)
    held.append(covered)
  print(f'all: {100 * np.mean(wrong):.1f} %, {100 * np.mean(held):.1f} %')
  assert np.mean(wrong) <= 0.05 and 0.94 <= np.mean(held) <= 0.975
  two = [told for design, told in zip(designs, wrong) if (design.arms, design.seeds) == (2, 2)]
  assert not any(two)      # one degree of freedom: there is no p


@pytest.mark.parametrize('studies', [200, whole(1000)])
def test_seeds_added_after_reports_were_read_keep_the_level_over_all_reports(studies):
  """Equal arms, 3, 5, 7 and 9 seeds, a report after each: some report tells some pair apart."""
  rng = np.random.default_rng(11)
  for d in (Design(2, 9, 300, 3 * POINT), Design(4, 9, 300, 3 * POINT), Design(4, 9, 300, 0.0)):
    values = np.concatenate([simulated.accuracy(rng, d, 50) for _ in range(studies // 50)])
    p = [simulated.tested(values[:, :, :seeds])[0] for seeds in (3, 5, 7, 9)]
    once, spent, unspent = (np.any([simulated.holm(x, level).any(1) for x, level in zip(p, levels)], axis=0).mean()
                            for levels in ([0.05], [0.05, 0.025, 0.0125, 0.00625], [0.05] * 4))
    print(f'{d}: the first report {100 * once:.1f} %, any of four {100 * spent:.1f} %, without halving {100 * unspent:.1f} %')
    assert not above(spent, studies, 0.07) and spent <= unspent, d


@pytest.mark.parametrize('studies', [200, whole(1000)])
def test_losses_that_are_skewed_keep_the_level(studies):
  rng = np.random.default_rng(7)
  for design in (Design(4, 3, 200, 3 * POINT), Design(8, 2, 500, 3 * POINT), Design(4, 5, 50, 0.0)):
    told, covered = simulated.levels(simulated.loss, design, studies, rng, step=1.0)
    print(f'{design}: {100 * told:.1f} %, {100 * covered:.1f} %')
    assert not above(told, studies, 0.07) and 0.92 <= covered <= 0.985, design


def corpus(metric, d, rng):
  """{arm: sums of every seed} of one study in which every arm gives a good answer as often as `simulated.chances` has it."""
  good, bad = CANDIDATES[metric.name]
  sums = lambda which: np.where(which[:, None], good[rows], bad[rows])
  rows = rng.integers(0, len(good), d.examples)
  right = rng.random((d.arms, d.seeds, d.examples)) < simulated.chances(rng, d, 1)[0]
  return {str(arm): [sums(of_seed) for of_seed in of_arm] for arm, of_arm in enumerate(right)}


def _candidates():
  """metric -> what good and bad answers of 60 examples add to its sums."""
  rng, words = np.random.default_rng(0), ['amber', 'birch', 'cedar', 'delta', 'ember', 'fjord', 'grove', 'heath', 'inlet']
  targets = [' '.join(rng.choice(words, 9)) for _ in range(60)]
  worse = [' '.join(np.where(rng.random(9) < 0.3, rng.choice(words, 9), t.split())) for t in targets]
  worst = [' '.join(np.where(rng.random(9) < 0.6, rng.choice(words, 9), t.split())) for t in targets]
  bleu, f1, classes = metrics.get('bleu'), metrics.get('macro_f1'), ('x', 'y', 'z')
  scored = lambda answers: [Scored(a, t, 1.0, 9, ()) for a, t in zip(answers, targets)]
  labels = [classes[i] for i in rng.integers(0, 3, 60)]
  other = [classes[(classes.index(x) + 1 + i) % 3] for x, i in zip(labels, rng.integers(0, 2, 60))]
  of = lambda answers: f1.sums([Scored(a, t, 1.0, 1, classes) for a, t in zip(answers, labels)])
  return {'bleu': (bleu.sums(scored(worse)), bleu.sums(scored(worst))), 'macro_f1': (of(labels), of(other))}


CANDIDATES = _candidates()


@pytest.mark.parametrize('name, studies', [('macro_f1', 100), whole('macro_f1', 500), whole('bleu', 150)])
def test_corpus_scores_keep_the_level(name, studies):
  metric, rng = metrics.get(name), np.random.default_rng(8)
  for d in (Design(4, 3, 60, 3 * POINT), Design(4, 2, 60, 0.0)):
    p, covered = [], []
    for _ in range(studies):
      sums = corpus(metric, d, rng)
      found = statistics.scores(metric, sums, set(sums))
      pairs = [statistics.gap(found, *pair) for pair in itertools.combinations(sums, 2)]
      p.append([gap.p for gap in pairs])
      covered.append([gap.low <= 0 <= gap.high for gap in pairs])
    told = simulated.holm(np.array(p, float)).any(1).mean()
    print(f'{name}, {d}: {100 * told:.1f} %, {100 * np.mean(covered):.1f} %')
    assert not above(told, studies, 0.07) and np.mean(covered) >= 0.92, d


@pytest.mark.parametrize('designs, studies', [([Design(4, 5, 500, 3 * POINT)], 200),
                                              whole([Design(8, 5, 500, 3 * POINT), Design(4, 5, 500, 3 * POINT)], 1000)])
def test_a_difference_of_8_points_is_found_more_often_than_by_each_pairs_own_seeds(designs, studies):
  """Of one arm to all others, seeds that deviate by 3 points, Holm over all pairs."""
  rng = np.random.default_rng(9)
  for d in designs:
    values = np.concatenate([simulated.accuracy(rng, d, 50, better=8 * POINT) for _ in range(studies // 50)])
    pooled = simulated.holm(simulated.tested(values)[0])[:, :d.arms - 1].mean()
    means = values.mean(3)
    pairs = list(itertools.combinations(range(d.arms), 2))
    gaps = np.stack([means[:, one] - means[:, other] for one, other in pairs], 1)
    own = simulated.holm(stats.ttest_1samp(gaps, 0, axis=2).pvalue)[:, :d.arms - 1].mean()
    print(f'{d}: found {100 * pooled:.0f} %, by each pair\'s own seeds {100 * own:.0f} %')
    assert pooled > own + 0.1


@pytest.mark.parametrize('studies', [400, whole(4000)])
def test_the_best_of_five_equal_settings_seems_better_until_it_is_trained_again(studies):
  """Chosen on validation and tested with the same seeds; with seeds of the report the difference is none."""
  for seeds in (2, 3, 5):
    rng = np.random.default_rng(seeds)
    of_setting = 3 * POINT * rng.standard_normal((studies, 5, seeds))
    test = of_setting + 0.01 * rng.standard_normal((studies, 5, seeds))
    valid = of_setting + 0.01 * rng.standard_normal((studies, 5, seeds))
    best = valid.mean(2).argmax(1)
    same = test.mean(2)[np.arange(studies), best].mean()
    fresh = (3 * POINT * rng.standard_normal((studies, seeds))).mean()
    print(f'{seeds} seeds: the same {100 * same:+.1f} points, fresh {100 * fresh:+.1f}')
    assert same > 0.01 and abs(fresh) < 5 * 3 * POINT / (studies * seeds) ** 0.5


@pytest.mark.parametrize('studies', [100, whole(1000)])
def test_means_near_the_end_of_their_range_have_intervals_that_stay_in_it_and_hold_them(studies):
  """At a true 0.97 and 0.99, of 50, 200 and 500 rows: at least 92 %."""
  metric, rng = metrics.get('accuracy'), np.random.default_rng(10)
  for true, n, seeds in itertools.product((0.97, 0.99), (50, 200, 500), (2, 3, 5)):
    held = 0
    for _ in range(studies):
      logit = np.log(true / (1 - true)) + rng.normal(0, 1.0, (1, 1, n))
      logit = logit + rng.normal(0, 0.3, (2, seeds, 1))
      chance = 1 / (1 + np.exp(-logit))
      chance *= true / (1 / (1 + np.exp(-(np.log(true / (1 - true)) + GRID)))).mean()      # so that its mean is the true one
      right = (rng.random((2, seeds, n)) < chance.clip(0, 1)).astype(float)
      sums = {str(a): [np.stack([r, np.ones(n)], 1) for r in of_arm] for a, of_arm in enumerate(right)}
      found = statistics.mean(statistics.scores(metric, sums, {'0', '1'}), '0')
      assert 0 <= found.low <= found.mean <= found.high <= 1 and found.low < found.high
      held += found.low <= true <= found.high
    print(f'{true}, {n} rows, {seeds} seeds: {100 * held / studies:.1f} %')
    assert not above(1 - held / studies, studies, 0.08), (true, n, seeds)


GRID = np.random.default_rng(0).normal(0, 1.044, 100_000)      # what examples and seeds together move a logit by
