"""A run that was stopped, by a signal or without one, ends as if it never had been."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from helpers import ROOT, as_flags, reviews, without_times

from research import tree
from research.experiment import restore
from research.experiment.assemble import assemble
from research.training.checkpoint import Checkpoints

ROWS = [*as_flags(reviews(train=100, valid=8)), '--config.training.eval_batch_size=2', '--config.check_memory=False']
LORA = [*ROWS, '--config.model.source=random:llama-tiny', '--config.strategy.dropout=0.1', '--config.training.steps=40',
        '--config.training.batch_size=4', '--config.training.checkpoint_every=3', '--config.training.eval_every=5',
        '--config.training.learning_rate=3e-3']
# Large enough that a checkpoint takes a while to write.
FULL = [*ROWS, '--config.model.source=random:llama-small', '--config.strategy.name=full', '--config.training.steps=9',
        '--config.training.batch_size=2', '--config.training.checkpoint_every=2', '--config.training.eval_every=3']


def start(flags, workdir):
  return subprocess.Popen([sys.executable, '-m', 'research.train', '--config=configs/default.py',
                           f'--workdir={workdir}', *flags], cwd=ROOT, stderr=subprocess.PIPE, text=True)


def finish(flags, workdir):
  process = start(flags, workdir)
  _, said = process.communicate()
  assert process.returncode == 0, said
  return said


def until(process, holds):
  """Waits for something to be so while the process runs."""
  while not holds():
    assert process.poll() is None, process.stderr.read()
    time.sleep(0.002)


def lines(workdir):
  path = workdir / 'metrics.jsonl'
  return path.read_text().splitlines() if path.exists() else []


def reached(workdir, step):
  def holds():
    whole = [line for line in lines(workdir) if line.endswith('}')]
    return bool(whole) and json.loads(whole[-1])['step'] >= step
  return holds


def being_written(folder):
  return folder.exists() and [name for name in os.listdir(folder) if 'tmp' in name]


def left_behind(workdir):
  """All that a run ended with, apart from times."""
  exp = assemble(json.loads((workdir / 'config.json').read_text()))
  trainable, _ = restore.variables(exp)
  checkpoints = Checkpoints(workdir / 'checkpoints', exp.fingerprint)
  best = tree.leaves(checkpoints.restore_best(trainable))
  saved = checkpoints.step('best'), checkpoints.step('latest')
  checkpoints.close()
  return {'arrays': best, 'saved': saved, 'result': without_times(json.loads((workdir / 'result.json').read_text())),
          'metrics': [without_times(json.loads(line)) for line in lines(workdir)],
          'predictions': (workdir / 'predictions' / 'valid.jsonl').read_text()}


def assert_same(workdir, undisturbed):
  ours, theirs = left_behind(workdir), left_behind(undisturbed)
  assert [m['step'] for m in ours['metrics']] == list(range(1, ours['result']['steps'] + 1))
  for name, x in theirs.pop('arrays').items():
    np.testing.assert_array_equal(ours['arrays'][name], x, err_msg=name)
  del ours['arrays']
  assert ours == theirs


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('runs') / 'lora'
  finish(LORA, workdir)
  return workdir


def test_killed_at_random_moments_a_run_ends_as_if_it_had_not_been(undisturbed, tmp_path):
  rng, workdir = random.Random(0), tmp_path / 'run'
  for step in sorted(rng.sample(range(1, 38), 4)):
    process = start(LORA, workdir)
    until(process, reached(workdir, step))
    time.sleep(rng.uniform(0, 0.2))
    process.kill()
    process.communicate()
    assert not (workdir / 'result.json').exists()
  assert 'resumes after step' in finish(LORA, workdir)
  assert_same(workdir, undisturbed)
  assert 'is finished already' in finish(LORA, workdir)


def test_killed_while_a_checkpoint_is_written_a_run_ends_as_if_it_had_not_been(tmp_path):
  finish(FULL, tmp_path / 'undisturbed')
  workdir = tmp_path / 'run'
  for kind, step in (('latest', 2), ('best', 3), ('latest', 6)):
    folder = workdir / 'checkpoints' / kind
    process = start(FULL, workdir)
    until(process, reached(workdir, step))
    until(process, lambda folder=folder: being_written(folder))
    process.kill()
    process.communicate()
    assert being_written(folder)
  finish(FULL, workdir)
  assert not being_written(folder)
  assert_same(workdir, tmp_path / 'undisturbed')


def test_stopped_by_ctrl_c_and_by_sigterm_a_run_saves_and_goes_on(undisturbed, tmp_path):
  workdir = tmp_path / 'run'
  for number, status, step in ((signal.SIGINT, 130, 4), (signal.SIGTERM, 143, 20)):
    process = start(LORA, workdir)
    until(process, reached(workdir, step))
    process.send_signal(number)
    _, said = process.communicate()
    assert process.returncode == status and said.splitlines()[-1] == 'stopped; the same command resumes from here'
    done = json.loads(lines(workdir)[-1])['step']
    assert max(int(n) for n in os.listdir(workdir / 'checkpoints' / 'latest')) == done      # not a step is lost
  assert f'resumes after step {done}' in finish(LORA, workdir)
  assert_same(workdir, undisturbed)
