"""Metrics of free answers through the verbs: several references, signatures, losses, and a function of a person's own."""

import json
import shutil

import pytest
from helpers import as_flags, config, verb

from research.evaluation import harness, metrics
from research.runs.train import train_one
from research.studies import carry_out, outcomes, registration

ROWS = [{'a': a, 'b': [b, b[::-1]]} for a, b in (('amber', 'knoll'), ('birch', 'Öl'), ('cedar', 'ember'), ('delta', 'fjord'))]
OWN = 'mine.py:length:lower:0..'


@pytest.fixture
def task(tmp_path, monkeypatch):
  """Fields of a task whose rows have two right answers, in a folder with a metric."""
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'mine.py').write_text('def length(prediction, row):\n  return len(prediction) + len(row["b"])\n')
  for split in ('train', 'valid', 'test'):
    (tmp_path / f'{split}.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in ROWS))
  return {'task__name': 'files', 'task__prompt': '{a}:', 'task__target': ' {b}', 'task__max_new_tokens': 4,
          'task__metrics': ('exact_match', 'bleu', 'token_f1', 'bits_per_byte', 'perplexity', OWN),
          **{f'task__{split}': str(tmp_path / f'{split}.jsonl') for split in ('train', 'valid', 'test')}}


def test_a_run_records_what_its_scores_are_made_of(task, tmp_path):
  run = tmp_path / 'run'
  result = train_one(config(**task, training__best_metric='bits_per_byte'), run)
  assert verb('evaluate', f'--workdir={run}', '--split=test', cwd=tmp_path).returncode == 0
  result = json.loads((run / 'result.json').read_text())
  assert result['signatures'].keys() == {'valid/bleu', 'test/bleu'}
  assert result['signatures']['test/bleu'].startswith('nrefs:2|case:mixed|eff:no|tok:13a|smooth:exp|version:')
  lines = [json.loads(line) for line in (run / 'predictions' / 'test.jsonl').read_text().splitlines()]
  assert lines[1]['references'] == ['Öl', 'lÖ'] and [line['bytes'] for line in lines] == [6, 4, 6, 6]
  for line in lines:
    assert line[OWN] == len(line['prediction']) + 2
    assert line['bits_per_byte'] == pytest.approx(line['loss'] / 0.6931471805599453 / line['bytes'])
  for name in task['task__metrics']:
    metric = metrics.get(name)
    again = float(metric.score(metric.sums(harness.scored_rows(lines)).sum(0)))
    assert result['metrics'][f'test/{name}'] == pytest.approx(again, rel=1e-6)
    low, high = result['intervals'][f'test/{name}']
    assert low <= again <= high
  steps = [json.loads(line) for line in (run / 'metrics.jsonl').read_text().splitlines()]
  assert steps[-1].keys() >= {'valid/loss', 'valid/bits_per_byte', 'valid/perplexity'}
  assert 'valid/bleu' not in steps[-1], 'nothing is generated to choose by a loss'
  assert json.loads((run / 'provenance.json').read_text())['metrics'].keys() == {OWN}

  (tmp_path / 'mine.py').write_text('def length(prediction, row):\n  return 1\n')
  said = verb('evaluate', f'--workdir={run}', cwd=tmp_path)
  assert said.returncode == 2 and f'changed since the run began: the file of {OWN} (' in said.stderr
  (tmp_path / 'mine.py').write_text('def length(prediction, row):\n  return 1 / (row["a"] != "delta")\n')
  said = verb('evaluate', f'--workdir={run}', '--allow_changed', cwd=tmp_path)
  assert said.returncode == 2 and 'row 3: length() raised ZeroDivisionError: division by zero' in said.stderr
  assert json.loads((run / 'result.json').read_text()) == result


def test_a_plain_text_is_measured_in_bits_per_byte(tmp_path):
  (tmp_path / 'a.txt').write_text('Größe, and some more words.')
  flags = as_flags({'model__source': 'random:llama-tiny', 'strategy__name': 'few_shot', 'strategy__shots': 0,
                    'task__name': 'text', 'task__test': tmp_path / 'a.txt', 'task__metrics': "('bits_per_byte',)"})
  said = verb('evaluate', '--config=default', f'--workdir={tmp_path}/w', *flags)
  assert said.returncode == 0, said.stderr
  result = json.loads((tmp_path / 'w' / 'result.json').read_text())['metrics']
  [line] = map(json.loads, (tmp_path / 'w' / 'predictions' / 'test.jsonl').read_text().splitlines())
  assert line['bytes'] == len('Größe, and some more words.'.encode()) and line['prediction'] == ''
  assert result['test/bits_per_byte'] == pytest.approx(line['loss'] / 0.6931471805599453 / line['bytes'])


def test_a_study_by_ones_own_metric_is_reported_without_its_runs_and_without_the_file(task, tmp_path):
  fields = {name.removeprefix('task__'): value for name, value in task.items()}
  (tmp_path / 'studies').mkdir()
  (tmp_path / 'studies' / 's.py').write_text(f'''
def get_study(variant=''):
  return {{'question': 'Which?', 'base': 'quickstart', 'models': ('random:llama-tiny',), 'tasks': ({fields!r},),
          'arms': {{'zero': {{'strategy': {{'name': 'few_shot', 'shots': 0}}}}, 'lora': {{'strategy': {{'name': 'lora'}}}}}},
          'seeds': (0, 1), 'budget': {{'steps': 2, 'eval_every': 2}}, 'select': 'valid/loss', 'report': 'test/{OWN}',
          'baseline': 'zero', 'extend': 0}}
''')
  said = verb('study', f'--study={tmp_path}/studies/s.py', f'--workdir={tmp_path}/w', cwd=tmp_path)
  assert said.returncode == 0, said.stderr
  before = json.loads((tmp_path / 'w' / 'comparison.json').read_text())
  assert f'Lowest test/{OWN}: ' in (tmp_path / 'w' / 'report.md').read_text()
  (tmp_path / 'mine.py').unlink()
  (tmp_path / 'kept').mkdir()
  for name in (registration.PLAN, registration.RESULTS, outcomes.FILE, 'provenance.json'):
    shutil.copy(tmp_path / 'w' / name, tmp_path / 'kept' / name)
  carry_out.write_report(registration.planned(tmp_path / 'kept'), tmp_path / 'kept', None)
  after = json.loads((tmp_path / 'kept' / 'comparison.json').read_text())
  means = lambda found: [(a['arm'], a['mean'], a['low'], a['high']) for c in found['comparisons'] for a in c['arms']]
  assert means(after) == means(before) and len(means(after)) == 2
