"""Every metric equals its reference, on real text with made-up predictions."""

import json

import numpy as np
import pytest

from research.data import tasks
from research.errors import InputError
from research.evaluation import harness, metrics, translation
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


LABELS['one example'] = LABELS['some wrong'][:1]
LABELS['empty predictions'] = [s._replace(prediction='') for s in LABELS['three classes']]


@pytest.mark.parametrize('case', LABELS)
def test_scores_of_classes_equal_scikit_learn(case):
  from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef, precision_score, recall_score
  scored = LABELS[case]
  targets, predictions = [s.target for s in scored], [str(s.prediction) for s in scored]
  assert value('accuracy', scored) == pytest.approx(accuracy_score(targets, predictions))
  assert value('exact_match', scored) == value('accuracy', scored)
  for average in ('macro', 'micro', 'weighted'):
    assert value(f'{average}_f1', scored) == pytest.approx(f1_score(targets, predictions, average=average, zero_division=0))
  assert value('matthews', scored) == pytest.approx(matthews_corrcoef(targets, predictions))
  for kind, reference in (('precision', precision_score), ('recall', recall_score), ('f1', f1_score)):
    for name in sorted({*targets, *scored[0].choices}):
      expected = reference(targets, predictions, labels=[name], average=None, zero_division=0)
      assert value(f'{kind}:{name}', scored) == pytest.approx(expected[0]), f'{kind}:{name}'


@pytest.mark.parametrize('odd', ['New York', 'a:b', 'x/y', 'mine.py:score', 'ja, gewiß', '是'])
def test_a_class_may_have_any_name(odd):
  scored = [Scored(p, t, 1.0, 3, ('other', odd)) for p, t in ((odd, odd), ('other', odd), (odd, 'other'), (odd, odd))]
  assert value(f'precision:{odd}', scored) == value(f'recall:{odd}', scored) == pytest.approx(2 / 3)
  assert metrics.measured(f'test/f1:{odd}').name == f'f1:{odd}'


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


@pytest.mark.parametrize('kind', ['rouge1', 'rouge2', 'rougeL', 'rougeLsum'])
@pytest.mark.parametrize('case', TEXTS)
def test_rouge_of_texts_in_ascii_equals_the_mean_of_rouge_score(case, kind):
  from rouge_score import rouge_scorer
  scorer = rouge_scorer.RougeScorer([kind], use_stemmer=True)
  plain = [s for s in TEXTS[case] if s.target.isascii()]
  expected = np.mean([scorer.score(s.target, s.prediction)[kind].fmeasure for s in plain])
  assert value(kind, plain) == pytest.approx(expected) and 0.05 < expected < 0.95 and len(plain) > 40


def test_the_score_of_a_selection_is_the_score_of_its_rows():
  chosen = RNG.integers(0, 120, 40)
  for name in ('bleu', 'chrf', 'rougeL', 'exact_match'):
    metric, scored = metrics.get(name), TEXTS['translation']
    counts = np.bincount(chosen, minlength=120).astype(float)
    assert float(metric.score(counts @ metric.sums(scored))) == pytest.approx(
        value(name, [scored[i] for i in chosen])), name


def test_exact_match_looks_past_blanks_around_the_text_alone():
  assert value('exact_match', [Scored(' ja ', 'ja', 0, 1, ()), Scored('Ja', 'ja', 0, 1, ())]) == 0.5


def test_of_several_right_answers_the_nearest_counts():
  scored = [Scored('the red car', 'a blue bus', 1.0, 3, (), ('The red car', 'red')), Scored('no', 'no', 1.0, 3, ())]
  assert value('token_f1', scored) == value('rouge1', scored) == 1 and value('exact_match', scored) == 0.5
  assert value('exact_match', [scored[0]._replace(prediction='red')]) == 1


MANY = [Scored('Das Öl ist teuer .', 'Öl ist teuer.', 1.0, 3, (), ('Das Öl kostet viel.', 'Das Öl ist sehr teuer.')),
        Scored('我喜欢这部电影', '我很喜欢这部电影。', 1.0, 3, ()), Scored('', 'nichts', 1.0, 3, (), ('gar nichts',)),
        Scored('映画が好きです', '私は映画が好きです', 1.0, 3, ()),
        Scored('the cat sat on the mat', 'a cat sat on the mat', 1.0, 3, ())]
CORPUS = {'bleu': ('BLEU', {}), 'bleu:13a': ('BLEU', {}), 'bleu:intl': ('BLEU', {'tokenize': 'intl'}),
          'bleu:zh': ('BLEU', {'tokenize': 'zh'}), 'bleu:char': ('BLEU', {'tokenize': 'char'}), 'chrf': ('CHRF', {}),
          'chrf++': ('CHRF', {'word_order': 2}), 'ter': ('TER', {}),
          'ter:asian': ('TER', {'normalized': True, 'asian_support': True})}


@pytest.mark.parametrize('scored', [MANY, MANY[:1], MANY[2:3], [*reversed(MANY)]], ids=['all', 'one', 'empty', 'reversed'])
@pytest.mark.parametrize('name', CORPUS)
def test_a_corpus_metric_equals_sacrebleu_with_any_number_of_references(name, scored):
  import sacrebleu.metrics
  of, options = CORPUS[name]
  theirs = getattr(sacrebleu.metrics, of)(**options)
  most = max(len(s.references) for s in scored)
  streams = [[(s.references + [None] * most)[place] for s in scored] for place in range(most)]
  expected = theirs.corpus_score([s.prediction for s in scored], streams)
  assert value(name, scored) == pytest.approx(expected.score, abs=1e-9)
  assert metrics.get(name).signature(scored) == str(theirs.get_signature())


def test_chinese_bleu_tells_texts_apart_that_are_one_word_to_13a():
  alike = [Scored('我喜欢这部电影', '我很喜欢这部电影', 1.0, 3, ())]
  assert value('bleu', alike) == 0 and 40 < value('bleu:zh', alike) < 100
  assert value('ter', alike) == 100 and 0 < value('ter:asian', alike) < 20


@pytest.mark.parametrize('name, says', [('bleu:ja-mecab', r'pip install "sacrebleu\[ja\]"'),
                                        ('bleu:flores200', r'flores200sacrebleuspm, which is not there; fetch it once: pip')])
def test_a_tokenizer_that_is_not_there_is_refused_in_one_line(name, says, monkeypatch, tmp_path):
  from sacrebleu import utils
  from sacrebleu.tokenizers import tokenizer_ja_mecab
  monkeypatch.setattr(tokenizer_ja_mecab, 'MeCab', None)
  monkeypatch.setattr(utils, 'SACREBLEU_DIR', str(tmp_path))
  translation.corpus.cache_clear()
  with pytest.raises(InputError, match=says) as e:
    metrics.get(name)
  assert '\n' not in str(e.value)


def test_japanese_bleu_equals_sacrebleu_with_mecab():
  pytest.importorskip('MeCab')
  import sacrebleu
  scored = MANY[3:4]
  expected = sacrebleu.corpus_bleu([s.prediction for s in scored], [[s.target for s in scored]], tokenize='ja-mecab').score
  assert value('bleu:ja-mecab', scored) == pytest.approx(expected, abs=1e-9) and expected > 30


@pytest.mark.parametrize('name', [*CORPUS, 'macro_f1', 'weighted_f1', 'matthews', 'f1:nichts', 'rougeLsum', 'token_f1:unicode',
                                  'perplexity', 'bits_per_byte'])
def test_the_sums_of_single_examples_add_up_to_the_score(name):
  scored = [s._replace(bytes=len(s.target.encode())) for s in MANY]
  metric = metrics.get(name)
  alone = np.array([metric.sums(scored[:i + 1])[i] for i in range(len(scored))]) if name in CORPUS else metric.sums(scored)
  assert float(metric.score(alone.sum(0))) == pytest.approx(value(name, scored), abs=1e-9)
  again = metric.score(np.stack([alone.sum(0), 2 * alone.sum(0)]))      # twice the corpus scores the same
  assert again[0] == pytest.approx(again[1], rel=0.02 if name.startswith('bleu') else 1e-9)


def test_perplexity_and_bits_per_byte_are_of_the_whole_loss():
  scored = [Scored('', 'ab', 6.0, 2, (), bytes=2), Scored('', 'Öl', 1.0, 5, (), bytes=3)]
  assert value('perplexity', scored) == pytest.approx(np.exp(1.0))
  assert value('bits_per_byte', scored) == pytest.approx(7.0 / np.log(2) / 5)
  assert np.isfinite(value('perplexity', [scored[0]._replace(loss=1e9)])), 'of a run that diverged'
  assert not metrics.get('bits_per_byte').limited and not metrics.get('bits_per_byte').higher_is_better


def test_loss_is_nats_per_target_token():
  assert value('loss', [Scored('', '', 6.0, 2, ()), Scored('', '', 1.0, 5, ())]) == 1.0


def test_an_unknown_metric_is_refused():
  with pytest.raises(InputError, match=r"task\.metrics: no metric 'rouge'.*rougeL.*precision:CLASS"):
    metrics.get('rouge')


def test_scored_rows_read_back_what_a_predictions_file_holds():
  rows = [{'id': 0, 'target': 'b', 'prediction': 'a', 'loss': 2.5, 'tokens': 2, 'choices': {'a': -1.0, 'b': -2.0}},
          {'id': 1, 'target': 'x y', 'prediction': 'x', 'loss': 1.5, 'tokens': 4, 'references': ['x y', 'z'], 'bytes': 4,
           'row': {'a': 1}, 'mine.py:f': 0.5, 'bleu': 3.0}]
  assert harness.scored_rows(json.loads(json.dumps(rows))) == [Scored('a', 'b', 2.5, 2, ('a', 'b'), ranked=(-1.0, -2.0)),
                                                               Scored('x', 'x y', 1.5, 4, (), ('z',), 4, {'a': 1},
                                                                      {'mine.py:f': 0.5})]
  rows[0]['ranked'] = {'a': -0.5, 'b': -0.25}
  assert harness.scored_rows(rows)[0].ranked == (-0.5, -0.25)
  assert harness.scored_rows([{**rows[0], 'choices': ['a', 'b'], 'ranked': None}])[0].ranked == ()      # of 0.3's outcomes


def of_targets(targets, **fields):
  return tasks.Task('files', {'test': [{'q': 'x', 'a': t} for t in targets]}, '{q}', ' {a}', **fields)


@pytest.mark.parametrize('name, other', [('bleu', 'bleu:zh'), ('bleu:intl', 'bleu:char'), ('ter', 'ter:asian'),
                                         ('token_f1', 'token_f1:unicode')])
def test_words_between_blanks_are_refused_for_a_script_that_sets_none(name, other, capsys):
  with pytest.raises(InputError, match=rf'{name}: splits words at blanks, and 2 of 3 targets .* take .*{other}'):
    metrics.check(of_targets(['我喜欢', 'カラー', 'ja'], metrics=(name,)))
  for targets, trains in ((['我喜欢', 'カラー', 'ja'], False), (['我喜欢', 'yes', 'ja'], True)):
    metrics.check(of_targets(targets, metrics=(name,)), trains)
    assert 'splits words at blanks' in capsys.readouterr().err
  metrics.check(of_targets(['我喜欢', 'カラー'], metrics=('chrf', 'rouge1', 'bleu:char', other.replace('bleu:zh', 'bleu:zh'))))
  assert not capsys.readouterr().err


def test_a_class_that_a_task_does_not_have_is_refused():
  metrics.check(of_targets(['yes', 'no'], choices=('yes', 'no'), metrics=('f1:yes',)))
  with pytest.raises(InputError, match=r"task\.metrics=f1:maybe: class 'maybe' must be one of yes, no"):
    metrics.check(of_targets(['yes'], choices=('yes', 'no'), metrics=('f1:maybe',)))
  with pytest.raises(InputError, match=r"class 'maybe' is the answer to no row of valid or test"):
    metrics.check(of_targets(['yes', 'no'], metrics=('recall:maybe',)))
  with pytest.raises(InputError, match=r"'f1:yes\\nno' holds a line break"):
    metrics.check(of_targets(['yes\nno', 'no'], metrics=('f1:yes\nno',)))
