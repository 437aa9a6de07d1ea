"""Another task that training watches (`task.retain`), and the weighed sum that can choose the best step by it."""

import json

import pytest
from helpers import WORDS, by_heart, write_pairs

from research.errors import InputError
from research.evaluation import weighed
from research.experiment import retained
from research.experiment.assemble import assemble
from research.runs.evaluate import evaluate_retained
from research.runs.train import train_cohort, train_one


@pytest.mark.quick
def test_a_weighed_sum_says_what_is_better():
  assert weighed.read('accuracy') == ((((1, 'accuracy'),), True))
  by = weighed.read('accuracy + 0.5*retain/accuracy - 2*retain/bits_per_byte')
  assert by.higher_is_better and by.name == 'weighed'
  assert by.of({'accuracy': .5, 'retain/accuracy': .2, 'retain/bits_per_byte': .1}) == pytest.approx(.5 + .1 - .2)
  assert by.of_task == {'accuracy'} and by.of_watched == {'accuracy', 'bits_per_byte'}
  assert not weighed.read('loss + .1*retain/loss').higher_is_better
  assert weighed.read('accuracy - 1e-3*loss').terms == ((1, 'accuracy'), (-.001, 'loss'))
  assert weighed.read('f1:very good').terms == ((1, 'f1:very good'),)


@pytest.mark.quick
@pytest.mark.parametrize('text, message', [
    ('loss + accuracy', r'of accuracy more is better, of the first less: write " - accuracy"'),
    ('accuracy - chrf', r'write " \+ chrf"'), ('0*accuracy', 'a weight above 0'),
    ('accuracy + ', r"training.best_metric=accuracy \+ : no metric 'accuracy \+'"),
    ('accuracy + 0.5*nothing', "no metric 'nothing'"), ('', 'is no metric')])
def test_a_sum_that_cannot_be_is_refused(text, message):
  with pytest.raises(InputError, match=message):
    weighed.read(text)


@pytest.mark.parametrize('retain, metric, message', [
    ('nothing', 'loss', r'task.retain=nothing: must be a built-in task \(sentiment, '),
    ('text:nothing', 'loss', 'task.retain=text:nothing: task.subset=nothing: no text of this name ships'),
    (None, 'loss + retain/loss', 'name one by task.retain'),
    ('sentiment', 'loss - retain/chrf', 'what task.retain names measures retain/loss, retain/accuracy')])
def test_a_task_that_cannot_be_watched_is_refused(tmp_path, retain, metric, message):
  made = by_heart(tmp_path)
  with pytest.raises(InputError, match=message):
    assemble({**made, 'task': {**made['task'], 'retain': retain}, 'training': {**made['training'], 'best_metric': metric}})


def test_a_task_without_validation_rows_watches_nothing(tmp_path):
  made = by_heart(tmp_path)
  with pytest.raises(InputError, match=r'task.retain=sentiment: is measured at each validation, and task files has no'):
    assemble({**made, 'task': {**made['task'], 'valid': None, 'retain': 'sentiment'},
              'training': {**made['training'], 'best_metric': 'loss'}})


@pytest.mark.parametrize('strategy', [{'name': 'prompt', 'slots': 20}, {'name': 'prefix', 'slots': 20}])
def test_a_watched_text_leaves_room_for_a_soft_prompt(tmp_path, strategy):
  (tmp_path / 'long.txt').write_text('one two three four five ' * 200)
  made = by_heart(tmp_path)
  made = {**made, 'strategy': strategy, 'task': {**made['task'], 'retain': str(tmp_path / 'long.txt'),
                                                 'valid': write_pairs(tmp_path / 'same.jsonl', [*zip(WORDS[:6], WORDS[6:])])}}
  exp = retained.watching(assemble(made))
  longest = max(len(e.prompt_ids) + len(e.target_ids) for e in exp.examples('valid'))
  assert longest + exp.strategy.prefix_slots <= exp.model.config.context


@pytest.fixture(scope='module')
def watching(tmp_path_factory):
  """A run that learns six words by heart, and watches a text that it forgets how to write."""
  folder = tmp_path_factory.mktemp('watching')
  (folder / 'prose.txt').write_text('A text that nothing trains on.\n\nAnd another one.\n')
  made = by_heart(folder)
  made = {**made, 'task': {**made['task'], 'retain': str(folder / 'prose.txt'),
                           'valid': write_pairs(folder / 'same.jsonl', [*zip(WORDS[:6], WORDS[6:])])},
          'training': {**made['training'], 'patience': 0, 'steps': 30}}
  return made, folder / 'run', train_one(made, folder / 'run')


def validations(workdir):
  found = map(json.loads, (workdir / 'metrics.jsonl').read_text().splitlines())
  return [line for line in found if 'valid/loss' in line]


def test_what_is_watched_is_what_the_kept_step_scores_on_it(watching, tmp_path):
  made, workdir, result = watching
  found = {line['step']: line['valid/retain/bits_per_byte'] for line in validations(workdir)}
  assert [*found] == [10, 20, 30]
  fields = {'name': 'text', 'test': made['task']['retain'], 'metrics': ('bits_per_byte',)}
  evaluate_retained(workdir, 'prose', fields, 0)
  measured = json.loads((workdir / 'result.json').read_text())['metrics']['retain/prose/bits_per_byte']
  assert measured == pytest.approx(found[result['best_step']], rel=1e-5)
  assert result['metrics']['valid/retain/bits_per_byte'] == found[result['best_step']]


def test_a_weight_moves_the_best_step_to_where_less_is_forgotten(watching, tmp_path):
  made, workdir, result = watching
  weighing = {**made, 'training': {**made['training'], 'best_metric': 'loss + 100*retain/bits_per_byte'}}
  still = {**weighing, 'training': {**weighing['training'], 'learning_rate': 1e-9}}
  [run, other] = train_cohort([(weighing, tmp_path / 'a', 'a'), (still, tmp_path / 'b', 'b')], tmp_path / 'latest')
  lines = validations(tmp_path / 'a')
  for line in lines:
    assert line['valid/weighed'] == pytest.approx(line['valid/loss'] + 100 * line['valid/retain/bits_per_byte'])
  least = min(lines, key=lambda line: line['valid/retain/bits_per_byte'])
  assert run['best_step'] == least['step'] < result['best_step']
  assert other['steps'] == 30


def test_other_text_than_the_run_watched_is_refused(watching, tmp_path):
  made, workdir, _ = watching
  path = tmp_path / 'prose.txt'
  path.write_text('x')
  made = {**made, 'task': {**made['task'], 'retain': str(path)}}
  train_one({**made, 'training': {**made['training'], 'steps': 10}}, tmp_path / 'run')
  path.write_text('y')
  with pytest.raises(InputError, match='changed since the run began: the rows of retain'):
    train_one({**made, 'training': {**made['training'], 'steps': 10}}, tmp_path / 'run')
