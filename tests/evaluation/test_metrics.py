"""Every metric equals its reference, on real text with made-up predictions."""

import json

import numpy as np
import pytest

from research.data import tasks
from research.errors import InputError
from research.evaluation import harness, metrics
from research.evaluation.metrics import Scored

pytestmark = pytest.mark.quick

RNG = np.random.default_rng(0)


def worsened(text):
  """Some words left out, some twice, some exchanged: as a weak model would write it."""
  words = [w for w in text.split() for _ in range(RNG.choice([0, 1, 1, 1, 2]))]
  if len(words) > 2 and RNG.random() < 0.5:
    i, j = RNG.integers(0, len(words), 2)
    words[i], words[j] = words[j], words[i]
  return ' '.join(words)


def free_text(name, column):
  rows = tasks.make(name, {}).rows('test')[:120]
  targets = [row[column].strip() for row in rows]
  predictions = [worsened(t) for t in targets]
  predictions[5:8] = ['', targets[6], targets[40]]                     # nothing, all, and something else
  return [Scored(p, t, 1.0, 3, ()) for p, t in zip(predictions, targets)]


def labels(name, predict):
  task = tasks.make(name, {})
  column = tasks.label_column(task)
  return [Scored(predict(row[column], task.choices), row[column], 1.0, 3, task.choices) for row in task.rows('test')]


LABELS = {
    'some wrong': labels('sentiment', lambda y, choices: y if RNG.random() < 0.7 else RNG.choice(choices)),
    'three classes': labels('domain', lambda y, choices: y if RNG.random() < 0.5 else RNG.choice(choices)),
    'one class never predicted': labels('domain', lambda y, choices: y if y != 'imdb' else 'yelp'),
    'always the first': labels('sentiment', lambda y, choices: choices[0]),
    'all right': labels('sentiment', lambda y, choices: y),
    'all wrong': labels('sentiment', lambda y, choices: choices[y == choices[0]]),
}
LABELS['one class in neither'] = [s for s in LABELS['one class never predicted'] if s.target == 'amazon']
LABELS['free text'] = [s._replace(choices=()) for s in LABELS['three classes']]
TEXTS = {'translation': free_text('translation', 'target'), 'summary': free_text('summary', 'summary')}


def value(name, scored):
  metric = metrics.get(name)
  return float(metric.score(metric.sums(scored).sum(0)))


@pytest.mark.parametrize('case', LABELS)
def test_accuracy_and_macro_f1_equal_scikit_learn(case):
  from sklearn.metrics import accuracy_score, f1_score
  scored = LABELS[case]
  targets, predictions = [s.target for s in scored], [str(s.prediction) for s in scored]
  assert value('accuracy', scored) == pytest.approx(accuracy_score(targets, predictions))
  assert value('exact_match', scored) == value('accuracy', scored)
  assert value('macro_f1', scored) == pytest.approx(f1_score(targets, predictions, average='macro', zero_division=0))


@pytest.mark.parametrize('case', TEXTS)
def test_bleu_and_chrf_equal_sacrebleu(case):
  import sacrebleu
  predictions, targets = [s.prediction for s in TEXTS[case]], [s.target for s in TEXTS[case]]
  assert 5 < value('bleu', TEXTS[case]) < 95
  assert value('bleu', TEXTS[case]) == pytest.approx(sacrebleu.corpus_bleu(predictions, [targets]).score, abs=1e-9)
  assert value('chrf', TEXTS[case]) == pytest.approx(sacrebleu.corpus_chrf(predictions, [targets]).score, abs=1e-9)


@pytest.mark.parametrize('case', TEXTS)
def test_each_examples_bleu_and_chrf_equal_sacrebleus_sentence_scores(case):
  import sacrebleu
  for name, sentence in (('bleu', sacrebleu.sentence_bleu), ('chrf', sacrebleu.sentence_chrf)):
    metric = metrics.get(name)
    expected = [sentence(s.prediction, [s.target]).score for s in TEXTS[case]]
    np.testing.assert_allclose(metric.each(metric.sums(TEXTS[case])), expected, atol=1e-9)


@pytest.mark.parametrize('kind', ['rouge1', 'rouge2', 'rougeL'])
@pytest.mark.parametrize('case', TEXTS)
def test_rouge_equals_the_mean_of_rouge_score(case, kind):
  from rouge_score import rouge_scorer
  scorer = rouge_scorer.RougeScorer([kind], use_stemmer=True)
  expected = np.mean([scorer.score(s.target, s.prediction)[kind].fmeasure for s in TEXTS[case]])
  assert value(kind, TEXTS[case]) == pytest.approx(expected) and 0.05 < expected < 0.95


def test_the_score_of_a_selection_is_the_score_of_its_rows():
  chosen = RNG.integers(0, 120, 40)
  for name in ('bleu', 'chrf', 'rougeL', 'exact_match'):
    metric, scored = metrics.get(name), TEXTS['translation']
    counts = np.bincount(chosen, minlength=120).astype(float)
    assert float(metric.score(counts @ metric.sums(scored))) == pytest.approx(
        value(name, [scored[i] for i in chosen])), name


def test_exact_match_looks_past_blanks_around_the_text_alone():
  assert value('exact_match', [Scored(' ja ', 'ja', 0, 1, ()), Scored('Ja', 'ja', 0, 1, ())]) == 0.5


def test_loss_is_nats_per_target_token():
  assert value('loss', [Scored('', '', 6.0, 2, ()), Scored('', '', 1.0, 5, ())]) == 1.0


def test_an_unknown_metric_is_refused():
  with pytest.raises(InputError, match=r"task\.metrics: no metric 'rouge'.*rougeL"):
    metrics.get('rouge')


def test_scored_rows_read_back_what_a_predictions_file_holds():
  rows = [{'id': 0, 'target': 'b', 'prediction': 'a', 'loss': 2.5, 'tokens': 2, 'choices': {'a': -1.0, 'b': -2.0}},
          {'id': 1, 'target': 'x y', 'prediction': 'x', 'loss': 1.5, 'tokens': 4}]
  assert harness.scored_rows(json.loads(json.dumps(rows))) == [Scored('a', 'b', 2.5, 2, ('a', 'b')),
                                                               Scored('x', 'x y', 1.5, 4, ())]
