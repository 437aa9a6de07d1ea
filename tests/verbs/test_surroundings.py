"""What the machine does to a verb ends it in one line, with what was saved still there."""

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time

import pytest
from helpers import ROOT, as_flags, process, reviews, verb

from research.training.metrics_log import MetricsLog
from research.training.signals import Interrupts, Stopped

ROWS = reviews(train=8, valid=4)
TINY = ['--config=configs/default.py', *as_flags({
    'model__source': 'random:llama-tiny', 'training__steps': 4, 'training__batch_size': 4, 'training__eval_every': 2,
    'training__checkpoint_every': 2, 'check_memory': False, **ROWS})]
SHOTS = ['--config=configs/default.py', '--config.model.source=random:llama-tiny', '--config.strategy.name=few_shot']


def one_line(said, *parts):
  assert said.returncode == 2 and 'Traceback' not in said.stderr, said.stderr
  line = said.stderr.splitlines()[-1]
  assert line.startswith('error: ') and all(part in line for part in parts), line
  return line


@pytest.mark.quick
@pytest.mark.parametrize('name', ['a[b]', 'a*', 'a?', 'a\\b', 'x]'])
def test_a_workdir_whose_name_is_a_pattern_is_refused_before_anything_is_made(tmp_path, name):
  one_line(verb('train', *TINY, f'--workdir={tmp_path}/{name}/run'), 'in the path of a workdir')
  assert not any(tmp_path.iterdir())


def test_a_workdir_within_a_file_is_refused(tmp_path):
  (tmp_path / 'file').write_text('mine')
  for name, flags in (('train', TINY), ('evaluate', [*SHOTS, '--split=valid'])):
    one_line(verb(name, *flags, f'--workdir={tmp_path}/file/sub/run'), f'{tmp_path}/file is a file')
  assert (tmp_path / 'file').read_text() == 'mine'


@pytest.mark.parametrize('output, says', [('.', 'is a folder'), ('file/sub', 'cannot be written')])
def test_an_output_that_cannot_be_written_is_refused_before_anything_is_computed(tmp_path, output, says):
  (tmp_path / 'file').write_text('mine')
  (tmp_path / 'in.jsonl').write_text('{"prompt": "x"}\n')
  began = time.monotonic()
  one_line(verb('generate', *SHOTS, f'--input={tmp_path}/in.jsonl', f'--output={tmp_path}/{output}'), says)
  assert time.monotonic() - began < 20 and (tmp_path / 'file').read_text() == 'mine'


def test_a_full_disk_ends_a_run_in_one_line_and_the_same_command_goes_on(tmp_path, monkeypatch):
  write, full = MetricsLog.write, [True]

  def on_a_full_disk(self, rows):
    if full[0] and rows[-1]['step'] > 2:
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
    write(self, rows)
  monkeypatch.setattr(MetricsLog, 'write', on_a_full_disk)
  given = [*TINY, f'--workdir={tmp_path}/run']
  one_line(verb('train', *given), 'metrics.jsonl: No space left on device; the same command resumes from the last checkpoint')
  full[0] = False
  said = verb('train', *given)
  assert said.returncode == 0 and 'resumes after step 2' in said.stderr
  assert [json.loads(line)['step'] for line in (tmp_path / 'run' / 'metrics.jsonl').open()] == [1, 2, 3, 4]


def test_files_that_may_not_grow_end_a_run_in_one_line(tmp_path):
  limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
  said = process('train', *TINY, f'--workdir={tmp_path}/run', preexec_fn=limit,
                 env={**os.environ, 'JAX_ENABLE_COMPILATION_CACHE': 'false'})
  assert said.returncode == 2 and 'Traceback' not in said.stderr and said.stderr.splitlines()[-1].startswith('error: ')


def test_a_workdir_that_is_deleted_meanwhile_ends_the_run_in_one_line(tmp_path, monkeypatch):
  write = MetricsLog.write

  def after_somebody_deleted_it(self, rows):
    shutil.rmtree(tmp_path / 'run')
    write(self, rows)
  monkeypatch.setattr(MetricsLog, 'write', after_somebody_deleted_it)
  one_line(verb('train', *TINY, f'--workdir={tmp_path}/run'), 'No such file or directory')


def test_output_that_nobody_reads_to_its_end_is_no_error():
  """As `| head` does it."""
  started = subprocess.Popen([sys.executable, '-m', 'research.generate', *SHOTS, '--prompt=x', '--max_new_tokens=2'], cwd=ROOT,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
  started.stdout.close()
  said = started.stderr.read()
  assert started.wait() == 128 + signal.SIGPIPE and said == ''


def test_a_second_signal_changes_nothing(tmp_path):
  given = [*(flag for flag in TINY if 'steps' not in flag), f'--workdir={tmp_path}/run', '--config.training.steps=4000']
  started = subprocess.Popen([sys.executable, '-m', 'research.train', *given], cwd=ROOT, stdout=subprocess.DEVNULL,
                             stderr=subprocess.PIPE, text=True)
  metrics = tmp_path / 'run' / 'metrics.jsonl'
  while not (metrics.exists() and len(metrics.read_text().splitlines()) > 20):
    assert started.poll() is None, started.stderr.read()
    time.sleep(0.1)
  for _ in range(4):
    started.send_signal(signal.SIGTERM)
    time.sleep(0.02)
  said = started.communicate()[1]
  assert started.returncode == 143 and 'Traceback' not in said
  assert said.splitlines()[-1] == 'stopped; the same command resumes from here'


@pytest.mark.quick
def test_a_second_signal_within_garbage_collection_waits_for_the_step():
  class Freed:
    def __del__(self):
      signal.raise_signal(signal.SIGTERM)
  with Interrupts() as interrupts:
    signal.raise_signal(signal.SIGTERM)
    Freed()                                           # an exception there would be printed, and lost
    assert interrupts.asked() == signal.SIGTERM
    with pytest.raises(Stopped):
      signal.raise_signal(signal.SIGTERM)


@pytest.mark.quick
@pytest.mark.parametrize('flags, says', [
    (['--config=configs/t5.py'], '--config is given 2 times; give it once, and change its fields by --config.FIELD=VALUE'),
    (['--config.training.steps=1', '--config.training.steps=2'], '--config.training.steps is given 2 times; give it once')])
def test_a_flag_that_is_given_twice_is_refused(tmp_path, flags, says):
  one_line(verb('train', '--config=configs/default.py', *flags, f'--workdir={tmp_path}/run'), says)
