"""Promoted is what loses nothing old by more than the margin and is better on what is new; by chance alone one in twenty."""

import math

import numpy as np
import pytest

from research.evaluation import metrics
from research.refining import promotion
from research.refining.promotion import compared, decide

pytestmark = pytest.mark.quick

ACCURACY, LOSS = metrics.get('accuracy'), metrics.get('loss')
CASES = 1000


def shares(right):
  """Accuracy's sums of examples that are right or wrong."""
  return np.stack([right, np.ones(len(right))], 1).astype(float)


def pair(rng, n, gained, lost):
  """(challenger, incumbent) of n examples, of which the one gains and loses these shares; most others both get right."""
  drawn, both = rng.random(n), rng.random(n) < 0.8
  ours = np.where(drawn < gained, True, np.where(drawn < gained + lost, False, both))
  theirs = np.where(drawn < gained, False, np.where(drawn < gained + lost, True, both))
  return shares(ours), shares(theirs)


def fixed(n, gained, lost, right=0):
  """The same with so many examples of each kind."""
  ours, theirs = (np.zeros(n, bool) for _ in range(2))
  ours[:gained], theirs[gained:gained + lost] = True, True
  ours[gained + lost:gained + lost + right] = theirs[gained + lost:gained + lost + right] = True
  return shares(ours), shares(theirs)


SAME = compared(ACCURACY, *fixed(400, 2, 2, 300))
BETTER = compared(ACCURACY, *fixed(30, 12, 1, 10))


def test_a_challenger_that_is_better_on_the_new_and_loses_nothing_old_is_promoted():
  found = decide(SAME, BETTER, 0.02)
  assert found == (True, True, True, []) and SAME.mean == 0 > SAME.bound > -0.02 and BETTER.p < 0.05 and BETTER.low > 0


def test_a_challenger_that_harms_the_old_is_refused_however_much_better_on_the_new():
  harmed = compared(ACCURACY, *fixed(400, 2, 30, 300))
  found = decide(harmed, compared(ACCURACY, *fixed(30, 30, 0)), 0.02)
  assert not found.promoted and found.new_holds and not found.old_holds
  assert found.reasons == ['on the old test rows it may be worse by more than the margin of 0.02: the difference is -0.0700, '
                           f'and it may be as low as {harmed.bound:+.4f}']


def test_a_challenger_that_is_not_shown_to_be_better_is_refused():
  found = decide(SAME, compared(ACCURACY, *fixed(30, 5, 4, 10)), 0.02)
  assert not found.promoted and found.old_holds
  assert 'not shown to be better: the difference is +0.0333, p = 0.3' in found.reasons[0]


def test_too_few_new_examples_decide_nothing():
  few = compared(ACCURACY, *fixed(7, 7, 0))
  found = decide(SAME, few, 0.02)
  assert not found.promoted and few.p < 0.01 and found.reasons == ['7 new test examples are too few: 8 or more are needed']
  assert decide(SAME, compared(ACCURACY, *fixed(8, 8, 0)), 0.02).promoted
  empty = compared(ACCURACY, np.zeros((0, 2)), np.zeros((0, 2)))
  assert math.isnan(empty.mean) and decide(empty, empty, 0.02).reasons == [
      '0 old test examples are too few to compare on', '0 new test examples are too few: 8 or more are needed']


def test_few_old_examples_with_the_same_answers_are_not_taken_to_lose_nothing():
  same = compared(ACCURACY, *fixed(48, 0, 0, 40))
  found = decide(same, BETTER, 0.02)
  assert not found.promoted and '48 old test examples are too few for a margin of 0.02: even if all' in found.reasons[0]
  assert same.bound == pytest.approx(same.unchanged, abs=1e-4) == pytest.approx(-2.7 / 49, abs=1e-3)
  assert decide(same, BETTER, 0.06).promoted and decide(compared(ACCURACY, *fixed(140, 0, 0, 100)), BETTER, 0.02).promoted


def test_of_a_loss_less_is_better():
  rng = np.random.default_rng(0)
  tokens, theirs = np.full(200, 4.0), rng.gamma(4.0, 1.0, 200)
  sums = lambda of_rows: np.stack([of_rows, tokens], 1)
  better = compared(LOSS, sums(theirs * 0.8), sums(theirs))
  assert better.challenger < better.incumbent and better.low > 0 and better.mean == pytest.approx(theirs.sum() * 0.2 / 800)
  worse = compared(LOSS, sums(theirs), sums(theirs * 0.8))
  assert decide(better, better, 0.02).promoted and not decide(worse, better, 0.02).promoted


def test_examples_of_one_cluster_tell_as_much_as_one():
  """Eight conversations whose ten turns are right together are not eighty examples."""
  ours, theirs = (np.repeat(x, 10, axis=0) for x in fixed(8, 4, 1, 2))
  of = np.repeat(np.arange(8), 10)
  alone, clustered = compared(ACCURACY, ours, theirs), compared(ACCURACY, ours, theirs, [*of.tolist()])
  assert (alone.units, clustered.units, clustered.examples) == (80, 8, 80) and alone.mean == clustered.mean
  assert alone.p < 0.01 < 0.05 < clustered.p


def promoted(new_gain, new_loss, old_gain, old_loss, n_old, n_new, margin=0.02):
  """In how many of `CASES` simulated comparisons each of the two tests holds."""
  rng = np.random.default_rng(7)
  found = [decide(compared(ACCURACY, *pair(rng, n_old, old_gain, old_loss)),
                  compared(ACCURACY, *pair(rng, n_new, new_gain, new_loss)), margin) for _ in range(CASES)]
  return {name: sum(getattr(one, name) for one in found) for name in ('promoted', 'old_holds', 'new_holds')}


MOST = 65      # of 1,000 at a level of 5 %: 2.2 standard errors above 50


def test_without_a_difference_on_the_new_rows_one_in_twenty_is_promoted():
  found = promoted(0.2, 0.2, 0.001, 0.0, 300, 30)
  assert found['old_holds'] > 900 and 15 < found['promoted'] <= MOST


def test_a_challenger_that_is_as_much_worse_as_the_margin_is_promoted_in_one_case_of_twenty():
  found = promoted(0.6, 0.0, 0.02, 0.04, 300, 30)
  assert found['new_holds'] > 900 and 5 < found['promoted'] <= MOST


def test_nor_more_often_where_hardly_any_answer_changes():
  """The case in which the examples alone would promote three times as many."""
  assert promoted(0.6, 0.0, 0.0, 0.02, 95, 12)['old_holds'] <= MOST


def test_the_margin_is_a_share_of_what_a_metric_can_be():
  of = lambda name, given=None: promotion.margin_of(metrics.get(name), given)
  assert (of('accuracy'), of('bleu'), of('loss'), of('accuracy', 0.1)) == (0.02, 2.0, 0.02, 0.1)
