"""A study that is killed, or shared by two machines, comes to the table of one that ran undisturbed.

Its cells train in two cohorts: four of full fine-tuning and two of BitFit.
"""

import json
import random
import subprocess
import sys
import time

import pytest
from helpers import ROOT, reviews, without_times

BASE = """
from configs import default

def get_config():
  config = default.get_config()
  config.check_memory = False
  return config
"""
STUDY = """
def get_study():
  return {
      'question': 'Which?', 'base': '%(base)s', 'models': ('random:llama-tiny',), 'seeds': (0, 1),
      'tasks': ({'name': 'files', 'train': '%(rows)s', 'valid': '%(rows)s', 'test': '%(rows)s', 'prompt': '{text}',
                 'target': ' {label}', 'choices': ('negative', 'positive')},),
      'arms': {'full': {'strategy': {'name': 'full'}, 'grid': {'training.learning_rate': [1e-3, 1e-2]}},
               'bitfit': {'strategy': {'name': 'bitfit'}, 'grid': {'training.learning_rate': [1e-2]}}},
      'budget': {'steps': 12, 'batch_size': 4, 'eval_every': 4, 'checkpoint_every': 2}, 'select': 'valid/accuracy',
      'report': 'test/accuracy', 'baseline': 'bitfit', 'margin': 0.07, 'extend': 0}
"""


@pytest.fixture(scope='module')
def study(tmp_path_factory):
  """(study file, the seconds that it takes, its comparison) of a study that nothing disturbed."""
  folder = tmp_path_factory.mktemp('study')
  (folder / 'base.py').write_text(BASE)
  (folder / 'study.py').write_text(STUDY % {'base': folder / 'base.py', 'rows': reviews(train=16)['task__train']})
  began = time.monotonic()
  finish(start(folder / 'study.py', folder / 'whole'))
  return folder / 'study.py', time.monotonic() - began, table(folder / 'whole')


def start(study, workdir, *more):
  return subprocess.Popen([sys.executable, '-m', 'research.study', f'--study={study}', f'--workdir={workdir}', '--cohorts=4',
                           *more], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finish(process):
  _, said = process.communicate()
  assert process.returncode == 0, said
  return said


def table(workdir):
  """comparison.json without times, as bytes."""
  return json.dumps(without_times(json.loads((workdir / 'comparison.json').read_text())))


def test_killed_twice_at_random_moments_it_ends_with_the_same_comparison(study, tmp_path):
  file, seconds, expected = study
  for _ in range(2):
    process = start(file, tmp_path / 'w')
    time.sleep(random.uniform(0.15, 0.3) * seconds)
    assert process.poll() is None, process.stderr.read()      # it was still at work
    process.kill()
    process.wait()
  finish(start(file, tmp_path / 'w'))
  assert table(tmp_path / 'w') == expected


def test_two_shards_in_two_processes_give_the_table_of_one(study, tmp_path):
  file, _, expected = study
  said = [finish(process) for process in [start(file, tmp_path / 'w', f'--shard={i}/2') for i in (1, 2)]]
  assert any('report:' in one for one in said)
  assert table(tmp_path / 'w') == expected
  results = [json.loads(line) for line in (tmp_path / 'w' / 'results.jsonl').read_text().splitlines()]
  assert len(results) == 6 and sum(r['selected'] for r in results) == 4
  assert [r['result']['cost']['cohort_size'] for r in results] == [4] * 4 + [2] * 2
