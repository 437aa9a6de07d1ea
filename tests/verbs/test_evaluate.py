"""After training: evaluate and generate, by the command line."""

import json

import helpers
import pytest
from helpers import as_flags, config, reviews

from research.distributed import mesh
from research.experiment import restore
from research.runs.train import train_one

BASE = ['--config=configs/default.py', '--config.model.source=random:llama-tiny', '--config.strategy.name=few_shot']
COUNTS = {'train': 8, 'valid': 6, 'test': 9}


def verb(name, *given, by=helpers.verb):
  done = by(name, *given)
  assert done.returncode == 0, done.stderr
  return done.stdout


def assert_measured_again(workdir, split):
  """The predictions file alone gives the scores of result.json."""
  with open(workdir / 'predictions' / f'{split}.jsonl', encoding='utf-8') as lines:
    rows = [json.loads(line) for line in lines]
  metrics = json.loads((workdir / 'result.json').read_text())['metrics']
  for row in rows:
    assert row['prediction'] == max(row['choices'], key=row['choices'].get)
    assert row['accuracy'] == (row['prediction'] == row['row']['label'])
  assert metrics[f'{split}/accuracy'] == pytest.approx(sum(r['accuracy'] for r in rows) / len(rows))
  assert metrics[f'{split}/loss'] == pytest.approx(sum(r['loss'] for r in rows) / sum(r['tokens'] for r in rows))
  return rows


ROWS = reviews(**COUNTS)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('runs') / 'run'
  train_one(config(**ROWS), workdir)
  return workdir


def test_evaluate_adds_the_test_split_to_a_run(run):
  before = json.loads((run / 'result.json').read_text())
  verb('evaluate', f'--workdir={run}', '--split=test', by=helpers.process)
  after = json.loads((run / 'result.json').read_text())
  for field in ('metrics', 'intervals'):
    added = {k: v for k, v in after[field].items() if k not in before[field]}
    assert before[field].items() <= after[field].items()
    assert added.keys() == {'test/loss', 'test/accuracy', 'test/macro_f1'}
    before[field], after[field] = {}, {}
  assert after == before
  assert {split: len(assert_measured_again(run, split)) for split in ('valid', 'test')} == {'valid': 6, 'test': 9}


def test_validation_is_found_again_by_evaluate(run):
  before = json.loads((run / 'result.json').read_text())
  verb('evaluate', f'--workdir={run}', '--split=valid')
  after = json.loads((run / 'result.json').read_text())
  assert after['metrics'] == pytest.approx(before['metrics'], rel=1e-6)


def test_few_shot_needs_no_training_and_shows_its_demonstrations(tmp_path):
  verb('evaluate', *BASE, *as_flags(ROWS), '--config.strategy.shots=1', '--split=valid', f'--workdir={tmp_path}/shots')
  result = json.loads((tmp_path / 'shots' / 'result.json').read_text())
  assert result['strategy'] == 'few_shot' and result['cost']['trainable_params'] == result['steps'] == 0
  for row in assert_measured_again(tmp_path / 'shots', 'valid'):
    assert row['prompt'].count('Review: ') == 2 and row['prompt'].endswith(f'Review: {row["row"]["text"]}\nSentiment:')


def test_generate_prints_text_and_fills_a_file(run, tmp_path):
  assert verb('generate', *BASE, '--prompt=Once upon', '--max_new_tokens=4', by=helpers.process).strip()
  (tmp_path / 'in.jsonl').write_text('{"prompt": "Once upon", "n": 1}\n{"text": "Good."}\n')
  flags = [f'--workdir={run}', f'--input={tmp_path}/in.jsonl', f'--output={tmp_path}/out.jsonl', '--max_new_tokens=4']
  verb('generate', *flags)
  one, two = map(json.loads, (tmp_path / 'out.jsonl').read_text().splitlines())
  assert (one['n'], two['text']) == (1, 'Good.') and one['prediction'] and two['prediction']


def test_what_was_learned_elsewhere_is_evaluated_and_asked_without_training_rows(run, tmp_path):
  """On a person's own test file alone, whatever the config says of training."""
  test = {name: value for name, value in ROWS.items() if name not in ('task__train', 'task__valid')}
  flags = ['--config=configs/default.py', *as_flags({
      **test, 'model__source': 'random:llama-tiny', 'strategy__init_from': run, 'task__rows': 5, 'training__epochs': 2.0,
      'training__best_metric': 'accuracy'})]
  verb('evaluate', *flags, f'--workdir={tmp_path}/here')
  verb('evaluate', f'--workdir={run}')
  here, there = (json.loads((folder / 'result.json').read_text()) for folder in (tmp_path / 'here', run))
  found = {name: value for name, value in there['metrics'].items() if name.startswith('test/')}
  assert here['metrics'] == pytest.approx(found, rel=1e-6) and len(found) == 3
  assert verb('generate', *flags, '--prompt=Once upon', '--max_new_tokens=4').strip()


def test_a_run_is_used_on_devices_that_do_not_divide_its_batch(run):
  with mesh.use_abstract({'data': 1, 'fsdp': 8, 'tensor': 1}):
    assert restore.of_run(run).settings.training.batch_size == 4
