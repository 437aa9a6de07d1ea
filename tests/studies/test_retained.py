"""What arms forget: tasks that none trains on, measured on the base and on the chosen runs."""

import json
import shutil

import numpy as np
import pytest
from helpers import reviews, verb

from research import run_files
from research.evaluation import harness
from research.runs.evaluate import evaluate_one
from research.studies import grid, retained, study_file

STUDY = '''
def get_study():
  return {study!r}
'''


@pytest.fixture(scope='module')
def ran(tmp_path_factory):
  """(folder of a study that retains two tasks and ran whole, the folder of its files)."""
  folder = tmp_path_factory.mktemp('retained')
  fields = {name.removeprefix('task__'): value for name, value in reviews(train=16, valid=8, test=8).items()}
  (folder / 'text.txt').write_text('Some prose that nobody trains on.\n\nAnd a second paragraph of it.\n\nAnd a third.')
  other = {**fields, 'label': 'websites', 'target': ' {domain}', 'choices': ('amazon', 'imdb', 'yelp')}
  study = {
      'question': 'What is forgotten?', 'base': 'configs/quickstart.py', 'models': ['random:llama-tiny'], 'tasks': [fields],
      'arms': {'base': {'strategy': {'name': 'few_shot', 'shots': 0}},
               'lora': {'strategy': {'name': 'lora'}, 'grid': {'training.learning_rate': [1e-2]}},
               'prompt': {'strategy': {'name': 'prompt', 'slots': 3}, 'grid': {'training.learning_rate': [1e-1]}}},
      'seeds': [0, 1], 'budget': {'steps': 4, 'eval_every': 2}, 'select': 'valid/accuracy', 'report': 'test/accuracy',
      'baseline': 'base', 'extend': 0, 'retain': [other,
                                                 {'name': 'text', 'label': 'prose', 'test': str(folder / 'text.txt'),
                                                  'metrics': ('bits_per_byte',), 'rows': 2}]}
  (folder / 'study.py').write_text(STUDY.format(study=study))
  said = verb('study', f'--study={folder}/study.py', f'--workdir={folder}/w', '--cohorts=off')
  assert said.returncode == 0, said.stderr
  return folder / 'w', folder


def predictions(workdir, key, name):
  return [json.loads(line) for line in (workdir / 'runs' / key / 'predictions' / 'retain' / f'{name}.jsonl').open()]


def share(lines):
  return np.mean([x['accuracy'] for x in lines])


def bits_per_byte(lines):
  return sum(x['loss'] for x in lines) / np.log(2) / sum(x['bytes'] for x in lines)


def test_every_trained_run_and_the_base_are_measured_on_the_same_rows(ran):
  workdir, _ = ran
  [c] = run_files.read_json(workdir / 'comparison.json')['comparisons']
  assert [(r['name'], r['metric'], r['examples']) for r in c['retained']] == [
      ('websites', 'accuracy', 8), ('prose', 'bits_per_byte', 2)]
  trained = [json.loads(line) for line in (workdir / 'results.jsonl').open()]
  for r in c['retained']:
    base = predictions(workdir, 'base@llama-tiny', r['name'])
    value = share if r['metric'] == 'accuracy' else bits_per_byte
    assert r['base']['mean'] == pytest.approx(value(base))
    assert [a['arm'] for a in r['arms']] == ['lora', 'prompt']
    for a in r['arms']:
      runs = [predictions(workdir, row['key'], r['name']) for row in trained if row['arm'] == a['arm']]
      assert len(runs) == 2 and all([x['target'] for x in run] == [x['target'] for x in base] for run in runs)
      assert a['mean'] == pytest.approx(np.mean([value(run) for run in runs]), abs=1e-5)
      assert a['change']['mean'] == pytest.approx(a['mean'] - r['base']['mean'])
      assert a['change']['low'] <= a['change']['mean'] <= a['change']['high']
  for row in (row for row in trained if row['arm'] == 'lora'):
    result = run_files.read_result(workdir / 'runs' / row['key'])
    assert {'retain/websites/accuracy', 'retain/websites/loss', 'retain/prose/loss'} <= result['metrics'].keys()
    assert 'retain/prose/loss' in result['intervals']


def test_the_base_is_the_model_without_demonstrations_on_that_task(ran, tmp_path):
  workdir, folder = ran
  [cell, *_] = study_file.read(f'{folder}/study.py').cells
  study = study_file.read(f'{folder}/study.py').study
  _, config = retained.base_of([cell], cell.model)
  config['task'] = retained.tasks(study, config['task'])['websites']
  result = evaluate_one(tmp_path / 'alone', 'test', config)
  found = run_files.read_result(workdir / 'runs' / 'base@llama-tiny')['metrics']
  assert found['retain/websites/loss'] == pytest.approx(result['metrics']['test/loss'], rel=1e-6)


def test_the_report_tells_it_and_is_written_again_without_the_runs(ran, tmp_path):
  workdir, _ = ran
  markdown = (workdir / 'report.md').read_text()
  assert '| websites [95 %] |' in markdown and '### What was forgotten' in markdown
  assert '![Learned against forgotten](figures/retained.png)' in markdown
  shutil.copytree(workdir, tmp_path / 'kept', ignore=shutil.ignore_patterns('runs'))
  assert verb('study', '--report_only', f'--workdir={tmp_path}/kept').returncode == 0
  kept, before = (run_files.read_json(folder / 'comparison.json')['comparisons'][0]['retained']
                  for folder in (tmp_path / 'kept', workdir))
  assert json.dumps(kept, indent=1) == json.dumps(before, indent=1) or all(
      a['mean'] == pytest.approx(b['mean'], rel=1e-5) for r, s in zip(kept, before) for a, b in zip(r['arms'], s['arms']))


def test_what_was_measured_is_not_measured_again(ran, monkeypatch):
  workdir, folder = ran
  monkeypatch.setattr(harness, 'evaluate_all', None)
  said = verb('study', f'--study={folder}/study.py', f'--workdir={workdir}', '--cohorts=off')
  assert said.returncode == 0, said.stderr


@pytest.mark.quick
@pytest.mark.parametrize('retain, says', [
    (['domain', 'domain'], "retain: 'domain': two tasks have this name"),
    ([{'name': 'domain', 'label': 'a/b'}], 'letters, digits'), ([None], 'retain: None: must be'),
    ('domain', 'must be a list of tasks'), ([{'name': 'domain', 'what': 1}], 'task.what')])
def test_a_study_that_cannot_retain_is_refused(retain, says, tmp_path):
  study = {'question': '?', 'base': 'configs/quickstart.py', 'models': ['random:llama-tiny'],
           'arms': {'lora': {'strategy': {'name': 'lora'}}}, 'select': 'valid/accuracy', 'report': 'test/accuracy',
           'baseline': 'lora', 'retain': retain}
  (tmp_path / 'study.py').write_text(STUDY.format(study=study))
  said = verb('study', f'--study={tmp_path}/study.py', f'--workdir={tmp_path}/w')
  assert said.returncode == 2 and says in said.stderr.splitlines()[-1]
  assert grid.FIELDS['retain'] == ()
