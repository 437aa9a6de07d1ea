"""After training: evaluate and generate, by the command line."""

import json
import shutil

import helpers
import pytest
from helpers import as_flags, config, reviews

from research import run_files
from research.distributed import mesh
from research.evaluation import clusters, harness, intervals, metrics
from research.experiment import restore
from research.runs.train import train_one

BASE = ['--config=configs/default.py', '--config.model.source=random:llama-tiny', '--config.strategy.name=few_shot']
COUNTS = {'train': 8, 'valid': 6, 'test': 9}


def verb(name, *given, by=helpers.verb):
  done = by(name, *given)
  assert done.returncode == 0, done.stderr
  return done.stdout


def said(name, *given):
  """What a verb told a person on its way."""
  done = helpers.verb(name, *given)
  assert done.returncode == 0, done.stderr
  return done.stderr


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
  assert before['cost'].pop('prompt_tokens') and after['cost'].pop('prompt_tokens')      # of the test rows, once they are there
  assert after == before and after['scoring'] == 'sum'
  assert json.loads((run / 'config.json').read_text())['task']['scoring'] is None      # as before there was one
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


@pytest.fixture
def prepared(tmp_path):
  """A function that makes a prepared folder, or makes it anew, in which training is said to hold these rows."""
  def made(**leaked):
    folder = tmp_path / 'data'
    folder.mkdir(exist_ok=True)
    for split in COUNTS:
      shutil.copy(ROWS[f'task__{split}'], folder)
    (folder / 'task.json').write_text(json.dumps({
        'prompt': ROWS['task__prompt'], 'target': ROWS['task__target'], 'choices': ROWS['task__choices'],
        'splits': [*COUNTS], **({'leaked': leaked} if leaked else {})}))
    return folder
  return made


def accuracy(workdir, split, without=()):
  """The share of right answers by a predictions file, some rows left out."""
  lines = map(json.loads, (workdir / 'predictions' / f'{split}.jsonl').read_text().splitlines())
  kept = [row['accuracy'] for row in lines if row['id'] not in without]
  return pytest.approx(sum(kept) / len(kept))


def test_a_run_on_a_prepared_folder_is_scored_with_and_without_what_training_holds(prepared, tmp_path, capsys):
  read, run = lambda: json.loads((run / 'result.json').read_text()), tmp_path / 'run'
  fields = {'task__name': 'files', 'task__path': str(prepared(valid=[1], test=[0, 4, 5])), 'training__steps': 2}
  train_one(config(**fields), run)
  assert 'without the 1 of 6 valid rows that training holds: valid/loss ' in capsys.readouterr().err
  result = read()
  assert result['leaked'] == {'valid': 1} and result['metrics']['valid/accuracy'] == accuracy(run, 'valid')
  assert result['metrics']['valid/accuracy_without_leaked'] == accuracy(run, 'valid', without=[1])
  steps = [json.loads(line) for line in (run / 'metrics.jsonl').read_text().splitlines()]
  assert steps[-1].keys() >= {'valid/loss', 'valid/loss_without_leaked', 'valid/accuracy_without_leaked'}

  whole, apart = said('evaluate', f'--workdir={run}').splitlines()[-2:]
  assert whole.startswith('evaluate: test/loss ') and '_without_leaked' not in whole + apart
  assert apart.startswith('evaluate: without the 3 of 9 test rows that training holds: test/loss ')
  result = read()
  assert result['leaked'] == {'valid': 1, 'test': 3} and result['metrics'].keys() == result['intervals'].keys()
  low, high = result['intervals']['test/accuracy_without_leaked']
  assert result['metrics']['test/accuracy_without_leaked'] == accuracy(run, 'test', without=[0, 4, 5])
  assert f'test/accuracy {result["metrics"]["test/accuracy_without_leaked"]:.4f} [{low:.4f}, {high:.4f}]' in apart

  # The rows are the same, so the run is used as before: each evaluation says what is known when it is made.
  prepared(test=[*range(9)])
  assert 'training holds all 9 test rows, so there is no score without them' in said('evaluate', f'--workdir={run}')
  assert read()['leaked'] == {'valid': 1, 'test': 9} and 'test/accuracy_without_leaked' not in read()['metrics']
  prepared()
  for split in ('valid', 'test'):
    assert 'training holds' not in said('evaluate', f'--workdir={run}', f'--split={split}')
  result = read()
  assert 'leaked' not in result and not [name for name in result['metrics'] if name.endswith('_without_leaked')]
  assert result['metrics'].keys() == result['intervals'].keys()
  prepared(test=[0])
  assert train_one(config(**fields), run) == result


def test_a_run_that_was_stopped_goes_on_when_more_is_known_to_have_leaked(prepared, tmp_path):
  fields = {'task__name': 'files', 'task__path': str(prepared())}
  whole = train_one(config(**fields), tmp_path / 'whole')
  train_one(config(**fields), tmp_path / 'run')
  (tmp_path / 'run' / 'result.json').unlink()              # as if it had been stopped before its end
  prepared(valid=[0, 2])
  result = train_one(config(**fields), tmp_path / 'run')
  assert result['leaked'] == {'valid': 2} and result['best_step'] == whole['best_step']
  assert result['metrics'].items() >= whole['metrics'].items()
  assert result['metrics']['valid/accuracy_without_leaked'] == accuracy(tmp_path / 'run', 'valid', without=[0, 2])


def test_a_base_model_is_scored_without_them_too(prepared, tmp_path):
  task = as_flags({'task__name': 'files', 'task__path': prepared(test=[2])})
  told = said('evaluate', *BASE, *task, f'--workdir={tmp_path}/w')
  assert 'without the 1 of 9 test rows that training holds: test/loss ' in told
  result = json.loads((tmp_path / 'w' / 'result.json').read_text())
  assert result['leaked'] == {'test': 1}
  assert result['metrics']['test/accuracy_without_leaked'] == accuracy(tmp_path / 'w', 'test', without=[2])


def test_rows_with_choices_of_their_own_are_trained_on_and_their_calibration_is_scaled_by_validation(tmp_path):
  rows = [{'q': f'{a} or {b}', 'options': [a, b, 'none'][:2 + i % 2], 'answer': 'AB'[i % 2]}
          for i, (a, b) in enumerate(zip(helpers.WORDS, reversed(helpers.WORDS)))]
  for split in COUNTS:
    (tmp_path / f'{split}.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
  fields = {'task__name': 'files', **{f'task__{split}': f'{tmp_path}/{split}.jsonl' for split in COUNTS},
            'task__prompt': '{q}:', 'task__target': ' {answer}', 'task__metrics': "('accuracy','ece','log_loss')"}
  verb('train', '--config=default', f'--workdir={tmp_path}/run', *as_flags(fields), '--config.task.choices={options}',
       '--config.task.scoring=byte', '--config.model.source=random:llama-tiny', '--config.training.steps=2',
       '--config.check_memory=False')
  verb('evaluate', f'--workdir={tmp_path}/run', '--split=test')
  result = json.loads((tmp_path / 'run' / 'result.json').read_text())
  assert result['scoring'] == 'byte' and result['temperature'] > 0
  assert {'test/ece', 'test/ece_scaled', 'test/log_loss_scaled'} <= result['metrics'].keys() == result['intervals'].keys()
  assert result['metrics']['test/log_loss_scaled'] <= result['metrics']['test/log_loss']      # the splits hold the same rows
  said = json.loads((tmp_path / 'run' / 'config.json').read_text())['task']
  assert said['choices'] == ['{options}'] and said['scoring'] == 'byte'


def test_intervals_are_by_cluster_where_the_task_names_one(tmp_path):
  rows = [{'text': f'Row {i}', 'label': ('negative', 'positive')[i % 2], 'passage': i // 4} for i in range(12)]
  run_files.write_jsonl(tmp_path / 'test.jsonl', rows)
  task = [f'--config.task.{field}={value}' for field, value in {
      'name': 'files', 'test': tmp_path / 'test.jsonl', 'prompt': '{text}', 'target': ' {label}',
      'choices': "('negative','positive')"}.items()]
  for name, more in (('alone', []), ('by', ['--config.task.cluster=passage'])):
    verb('evaluate', *BASE, *task, *more, '--config.strategy.shots=0', f'--workdir={tmp_path}/{name}')
  alone, by = (json.loads((tmp_path / name / 'result.json').read_text()) for name in ('alone', 'by'))
  assert alone['metrics'] == by['metrics'] and alone['intervals'] != by['intervals']
  lines = [json.loads(line) for line in (tmp_path / 'by' / 'predictions' / 'test.jsonl').open()]
  assert [line['cluster'] for line in lines] == [str(i // 4) for i in range(12)]
  metric = metrics.get('macro_f1')
  summed = clusters.sums(metric.sums(harness.scored_rows(lines)), [line['cluster'] for line in lines])
  assert len(summed) == 3 and by['intervals']['test/macro_f1'] == intervals.interval(metric, summed, True)
  done = helpers.verb('evaluate', *BASE, *task, '--config.task.cluster=chapter', f'--workdir={tmp_path}/none')
  assert done.returncode == 2 and 'row 1: task.cluster=chapter: that column is missing' in done.stderr
