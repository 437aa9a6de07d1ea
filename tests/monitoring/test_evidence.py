"""The alarm's level and power, and the numbers beside it, on simulated streams without a model."""

import numpy as np
import pytest

from experiments.benchmarks import monitor as simulated
from research.monitoring import accuracy, answers, shift, streams

pytestmark = pytest.mark.quick


def test_quiet_streams_alarm_no_more_often_than_the_level_and_foreign_topics_are_found():
  quiet = simulated.crossed(range(60), 200, 600)
  assert (quiet < 600).any(1).mean() <= 0.1
  foreign = simulated.crossed(range(12), 600, 1000, kind='foreign', share=0.2)
  assert (foreign.min(1) < 1000).mean() >= 0.9


def test_p_values_are_uniform_and_those_of_earlier_requests_stay():
  p = simulated.stream(0, 300, 1500)
  for kind in streams.KINDS:
    known = p[kind][~np.isnan(p[kind])]
    assert len(known) >= 1000 and abs(known.mean() - 0.5) < 4 / np.sqrt(12 * len(known))
  rng = np.random.default_rng(0)
  scores, drawn = rng.integers(0, 9, 700).astype(float), 1 - rng.random(700)
  whole = streams.ranks(scores[:50], scores, drawn)
  assert np.array_equal(streams.ranks(scores[:50], scores[:333], drawn[:333]), whole[:333])


def test_prediction_powered_intervals_cover_and_are_shorter():
  rng, covered, shorter = np.random.default_rng(0), 0, 0
  for _ in range(300):
    sure = rng.beta(2, 1, 2000)
    right = (rng.random(2000) < sure).astype(float)
    one = accuracy.powered(right[:80], sure[:80], sure[80:])
    plain = accuracy.of_labelled(right[:80])
    covered += one.low <= 2 / 3 <= one.high
    shorter += one.high - one.low < plain.high - plain.low
  assert covered >= 275 and shorter >= 240


def test_a_classifier_tells_what_differs_and_nothing_else():
  rng = np.random.default_rng(1)
  same = shift.separability(rng.standard_normal((200, 5)), rng.standard_normal((200, 5)))
  other = shift.separability(rng.standard_normal((200, 5)), rng.standard_normal((200, 5)) + 0.6)
  assert abs(same['auc'] - 0.5) < 0.12 and same['p'] > 0.02 and other['auc'] > 0.75 and other['p'] <= 0.01
  assert shift.psi(['a', 'b'] * 50, ['a', 'b'] * 20)['psi'] < 0.01 < 0.25 < shift.psi(['a', 'b'] * 50, ['b'] * 40)['psi']


def test_refusals_and_loops_are_known():
  assert answers.is_refusal("I'm sorry, but no.") and answers.is_refusal('Unfortunately, I cannot help with that.')
  assert not answers.is_refusal('You can say: I cannot come.') and not answers.is_loop('one two three four five')
  assert answers.is_loop('so it goes on and ' * 4)
