"""How far probabilities of ranked choices can be believed: by hand, and as scikit-learn has it."""

import itertools
import math

import numpy as np
import pytest

from research import run_files
from research.data.tasks import Task
from research.errors import InputError
from research.evaluation import calibration, harness, intervals, metrics
from research.evaluation.metrics import Scored
from research.runs import result

pytestmark = pytest.mark.quick

CHOICES = ('a', 'b', 'c')
RNG = np.random.default_rng(0)


def drawn(count, sharpness=1.0):
  """Examples whose true choice is drawn by the softmax of scores; the scores are then made sharper than that."""
  found = []
  for logits in 2 * RNG.normal(size=(count, 3)):
    p = np.exp(logits) / np.exp(logits).sum()
    target, ranked = CHOICES[RNG.choice(3, p=p)], tuple(map(float, sharpness * logits))
    found.append(Scored(CHOICES[int(np.argmax(ranked))], target, 1.0, 2, CHOICES, ranked=ranked))
  return found


def value(name, scored):
  metric = metrics.get(name)
  return float(metric.score(metric.sums(scored).sum(0)))


def probabilities(scored):
  p = np.exp([s.ranked for s in scored])
  return p / p.sum(1, keepdims=True)


def test_brier_and_log_loss_equal_scikit_learn():
  from sklearn.metrics import brier_score_loss, log_loss
  scored = drawn(300, 1.7)
  targets, p = [s.target for s in scored], probabilities(scored)
  assert value('log_loss', scored) == pytest.approx(log_loss(targets, p, labels=CHOICES), rel=1e-9)
  assert value('brier', scored) == pytest.approx(brier_score_loss(targets, p, labels=CHOICES, scale_by_half=False), rel=1e-9)
  one_hot = np.array([[c == t for c in CHOICES] for t in targets])
  assert value('brier', scored) == pytest.approx(((p - one_hot) ** 2).sum(1).mean())


def test_ece_by_hand():
  """Three examples in two of the 15 bins: .5 and .52 in that up to 8/15, .9 in that up to 14/15."""
  of = lambda p, target: Scored('a', target, 1.0, 2, ('a', 'b'), ranked=(math.log(p), math.log(1 - p)))
  scored = [of(0.52, 'a'), of(0.5, 'b'), of(0.9, 'b')]
  assert value('ece', scored) == pytest.approx((abs(0.52 + 0.5 - 1) + abs(0.9 - 0)) / 3)
  assert value('ece', [of(0.9, 'a')]) == pytest.approx(0.1) and value('ece', scored[:1] * 7) == pytest.approx(0.48)


def test_ece_equals_the_published_loop_over_bins():
  scored = drawn(500, 1.5)
  confidence = probabilities(scored).max(1)
  right = np.array([s.prediction == s.target for s in scored])
  expected, edges = 0.0, np.linspace(0, 1, 16)
  for low, high in itertools.pairwise(edges):
    inside = (confidence > low) & (confidence <= high)
    if inside.any():
      expected += abs(confidence[inside].mean() - right[inside].mean()) * inside.mean()
  assert value('ece', scored) == pytest.approx(expected) and expected > 0.02


@pytest.mark.parametrize('name', ['ece', 'brier', 'log_loss'])
def test_certain_right_answers_score_nothing_wrong_ones_the_worst_and_each_lies_in_its_interval(name):
  certain = Scored('a', 'a', 1.0, 2, ('a', 'b'), ranked=(0.0, -800.0))
  metric, scored = metrics.get(name), drawn(200)
  assert value(name, [certain]) == 0 and not metric.higher_is_better
  assert value(name, metrics.worst(scored)) == metric.most
  low, high = intervals.interval(metric, metric.sums(scored))
  assert low < value(name, scored) < high
  if metric.each:
    assert metric.each(metric.sums(scored)).mean() == pytest.approx(value(name, scored))


def test_answers_without_probabilities_are_refused():
  with pytest.raises(InputError, match='hold no probabilities of choices'):
    value('ece', [Scored('a', 'a', 1.0, 2, ('a', 'b'))])
  with pytest.raises(InputError, match='free text was generated'):
    value('brier', [Scored('a', 'a', 1.0, 2, ())])


@pytest.mark.parametrize('sharpness', [0.5, 1.0, 3.0])
def test_the_temperature_undoes_how_much_too_sharp_scores_are(sharpness):
  scored = drawn(4000, sharpness)
  found = calibration.temperature(scored)
  assert found == pytest.approx(sharpness, rel=0.1)
  best = value('log_loss', calibration.scaled(scored, found))
  assert all(best <= value('log_loss', calibration.scaled(scored, found * factor)) for factor in (0.9, 0.99, 1.01, 1.1))
  assert best <= value('log_loss', scored)


def predictions(scored):
  return [{'id': i, 'row': {}, 'prompt': '', 'target': s.target, 'prediction': s.prediction, 'loss': 1.0, 'tokens': 2,
           'choices': dict(zip(s.choices, s.ranked))} for i, s in enumerate(scored)]


def recorded(told, scored, workdir, split, names=('accuracy', 'ece', 'log_loss')):
  scores = {name: value(name, scored) for name in names}
  ranges = {name: [0.0, 1.0] for name in scores}
  result.record(told, harness.Evaluation(predictions(scored), scores, ranges, {}), workdir, split, Task('files', {}, '', ''))


@pytest.mark.parametrize('order', [('valid', 'test'), ('test', 'valid')])
def test_scaled_scores_of_test_are_at_the_temperature_of_validation_alone(tmp_path, order):
  of, told = {'valid': drawn(300, 3.0), 'test': drawn(300, 2.0)}, {'metrics': {}, 'intervals': {}, 'cost': {}}
  for split in order:
    recorded(told, of[split], tmp_path, split)
  assert told['temperature'] == pytest.approx(calibration.temperature(of['valid']))
  scaled = calibration.scaled(of['test'], told['temperature'])
  for name in ('ece', 'log_loss'):
    assert told['metrics'][f'test/{name}_scaled'] == pytest.approx(value(name, scaled))
    low, high = told['intervals'][f'test/{name}_scaled']
    assert low <= told['metrics'][f'test/{name}_scaled'] <= high
  assert told['metrics']['test/log_loss_scaled'] < told['metrics']['test/log_loss']
  assert not {'valid/ece_scaled', 'test/accuracy_scaled', 'test/brier_scaled'} & told['metrics'].keys()


def test_without_validation_or_without_such_metrics_nothing_is_scaled(tmp_path):
  told = {'metrics': {}, 'intervals': {}, 'cost': {}}
  recorded(told, drawn(50), tmp_path, 'test')
  recorded(told, drawn(50), tmp_path, 'valid', names=('accuracy',))
  assert 'temperature' not in told and not any(name.endswith(calibration.SCALED) for name in told['metrics'])
  run_files.expect({**told, 'steps': 1, 'temperature': 1.5, 'scoring': 'byte', 'cost': dict.fromkeys(
      ('trainable_params', 'train_flops', 'train_seconds', 'peak_bytes'), 1)}, run_files.RESULT_FIELDS, 'it')
