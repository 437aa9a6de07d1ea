"""Two processes that train one run together: what they come to, and what happens to both when something happens to one."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from helpers import ROOT, WORDS, verb, write_pairs

from research.distributed import processes
from research.errors import InputError

STEPS, EVERY = 24, 4
FIELDS = {
    'model.source': 'random:llama-tiny', 'strategy.dropout': 0.1, 'task.name': 'files', 'task.prompt': '{a}:',
    'task.target': ' {b}', 'task.metrics': "('exact_match',)", 'task.max_new_tokens': 4, 'training.best_metric': 'exact_match',
    'training.schedule': 'constant', 'training.warmup': 0.0, 'training.learning_rate': 1e-3, 'training.batch_size': 8,
    'training.steps': STEPS, 'training.eval_every': 12, 'training.log_every': 1, 'training.checkpoint_every': EVERY,
    'check_memory': False}


def unused_port():
  with socket.socket() as free:
    free.bind(('localhost', 0))
    return free.getsockname()[1]


def config_of(folder):
  rows = [f'--config.task.{split}={folder}/{split}.jsonl' for split in ('train', 'valid')]
  return ['--config=configs/default.py', *rows, *(f'--config.{field}={value}' for field, value in FIELDS.items())]


def alone(folder, workdir):
  """The run in this process, on its one device."""
  done = verb('train', f'--workdir={folder / workdir}', *config_of(folder))
  assert done.returncode == 0, done.stderr


class Command:
  """A verb in so many processes on this machine, each with so many devices."""

  def __init__(self, folder, workdir, processes, devices, *flags, of_process=lambda number: [], verb='train'):
    port = unused_port()
    environment = {n: v for n, v in os.environ.items() if n != 'PYTEST_XDIST_WORKER'}
    environment |= {'JAX_PLATFORMS': 'cpu',
                    'XLA_FLAGS': f'{os.environ.get("XLA_FLAGS", "")} --xla_force_host_platform_device_count={devices}'}
    given = [sys.executable, '-m', f'research.{verb}', f'--workdir={folder / workdir}']
    if verb == 'train':
      given += config_of(folder)
    given += flags
    several = [f'--coordinator=localhost:{port}', f'--processes={processes}']
    self.all = [subprocess.Popen(given + ([*several, f'--process={number}'] if processes > 1 else []) + of_process(number),
                                 cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
                for number in range(processes)]

  def ends(self, within=None):
    """(exit status, what was said) of each process."""
    said = [process.communicate(timeout=within)[1] for process in self.all]
    return [(process.returncode, text) for process, text in zip(self.all, said)]

  def well(self):
    for status, said in self.ends():
      assert status == 0, said


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp('hosts')
  pairs = [(a, b) for a in WORDS[:6] for b in WORDS[6:]]
  write_pairs(folder / 'train.jsonl', pairs[:28])
  write_pairs(folder / 'valid.jsonl', pairs[28:])
  return folder


def lines(workdir):
  path = workdir / 'metrics.jsonl'
  whole = [line for line in path.read_text().splitlines(keepends=True) if line.endswith('\n')] if path.exists() else []
  return [*map(json.loads, whole)]


def losses(workdir):
  found = lines(workdir)
  assert [line['step'] for line in found] == [*range(1, STEPS + 1)]
  return [line['train/loss'] for line in found]


def reaches(command, workdir, step):
  while len(lines(workdir)) < step:
    assert all(process.poll() is None for process in command.all), command.ends()
    time.sleep(0.01)


def test_two_processes_are_one_run(folder):
  """The losses of one device; stopped by SIGTERM to either they go on bit for bit, on other devices to 1e-5."""
  alone(folder, 'one')
  mesh = ['--config.mesh.fsdp=2']
  Command(folder, 'two', 2, 2, *mesh).well()
  assert losses(folder / 'two') == pytest.approx(losses(folder / 'one'), rel=1e-5)
  assert losses(folder / 'one')[-1] < losses(folder / 'one')[0]
  one, two = (json.loads((folder / name / 'result.json').read_text()) for name in ('one', 'two'))
  assert two['metrics'] == pytest.approx(one['metrics'], rel=1e-4) and two['best_step'] == one['best_step']
  Command(folder, 'two', 2, 2, '--split=valid', verb='evaluate').well()
  assert json.loads((folder / 'two' / 'result.json').read_text())['metrics'] == pytest.approx(one['metrics'], rel=1e-4)
  command = Command(folder, 'two', 2, 2, '--prompt=amber:', '--max_new_tokens=4', verb='generate')
  assert [process.wait() for process in command.all] == [0, 0]
  of_one = verb('generate', f'--workdir={folder}/one', '--prompt=amber:', '--max_new_tokens=4').stdout.rstrip('\n')
  told = [process.communicate()[0].splitlines() for process in command.all]
  assert of_one and of_one in told[0] and of_one not in told[1]

  command = Command(folder, 'stopped', 2, 2, *mesh)
  reaches(command, folder / 'stopped', 5)
  command.all[1].send_signal(signal.SIGTERM)
  assert [status for status, _ in command.ends(within=180)] == [143, 143]
  at = len(lines(folder / 'stopped'))
  assert 5 <= at < STEPS
  for name in ('here', 'on one', 'on four'):
    shutil.copytree(folder / 'stopped', folder / name)
  Command(folder, 'here', 2, 2, *mesh).well()
  alone(folder, 'on one')
  Command(folder, 'on four', 1, 4, *mesh).well()
  assert losses(folder / 'here') == losses(folder / 'two')
  for name in ('on one', 'on four'):
    assert losses(folder / name) == pytest.approx(losses(folder / 'two'), rel=1e-5), name
    assert losses(folder / name)[:at] == losses(folder / 'two')[:at]      # it did not begin anew


@pytest.mark.parametrize('victim', [0, 1])
def test_where_one_process_is_killed_the_other_ends(victim, folder):
  """Within a minute, and the next start loses no more than the steps since the last checkpoint that was whole."""
  workdir = folder / f'killed {victim}'
  kept = lambda: max(int(path.name) for path in (workdir / 'checkpoints' / 'latest').iterdir() if path.name.isdecimal())
  command = Command(folder, workdir.name, 2, 1)
  reaches(command, workdir, 2 * EVERY + 1)
  while kept() < 2 * EVERY:      # it is written beside the steps that follow
    time.sleep(0.01)
  command.all[victim].send_signal(signal.SIGKILL)
  found = command.ends(within=60)
  status, said = found[1 - victim]
  assert status not in (0, None) and ('resumes from the last checkpoint' in said or 'another task died' in said), said
  assert 2 * EVERY <= kept() <= len(lines(workdir)) < STEPS
  command, at = Command(folder, workdir.name, 2, 1), kept()
  assert f'resumes after step {at}' in command.ends()[0][1]
  assert len(losses(workdir)) == STEPS


def test_processes_of_different_configs_are_refused(folder):
  own = lambda number: [f'--config.training.clip={1 + number}.0', f'--config.training.eps={1 + number}e-8']
  for status, said in Command(folder, 'different', 2, 1, of_process=own).ends(within=180):
    assert status == 2
    assert said.splitlines()[-1].startswith('error: the processes were started differently: ')
    assert 'config.training.clip=1.0 in process 0, 2.0 in process 1' in said
  assert not (folder / 'different').exists()


@pytest.mark.parametrize('flags, says', [
    (['--coordinator=localhost:1', '--processes=2'], 'give all three'),
    (['--coordinator=localhost', '--processes=2', '--process=0'], 'must be host:port'),
    (['--coordinator=localhost:99999', '--processes=2', '--process=0'], 'must be host:port'),
    (['--coordinator=localhost:1', '--processes=2', '--process=2'], 'must be 0 to 1'),
    (['--coordinator=localhost:1', '--processes=2', '--process=1'],
     'nobody said there, within 30 s, that all processes have come'),
], ids=['incomplete', 'no port', 'no such port', 'no such process', 'unreachable'])
def test_processes_that_cannot_begin_say_so_within_a_minute(flags, says, folder):
  assert processes.JOIN_TIMEOUT < 45                 # to which Python's own start comes
  [(status, said)] = Command(folder, 'never', 1, 1, *flags).ends(within=120)
  assert status == 2 and says in said and said.splitlines()[-1].startswith('error: ')


def meet(count, coming, monkeypatch, others=()):
  """What each of these processes, by number, was refused with (None: with nothing); process 0 is there from the beginning.

  Args:
    others: what else happens at the port meanwhile, one after the other: functions of it.
  """
  monkeypatch.setattr(processes, 'JOIN_TIMEOUT', 4)
  port = unused_port()

  def one(number):
    try:
      processes._come('localhost', port, number) if number else processes._gather(port, count)
    except InputError as e:
      return str(e)
  with ThreadPoolExecutor(len(coming) + 1) as threads:
    found = [threads.submit(one, 0)]
    for other in others:
      other(port)
    found += [threads.submit(one, number) for number in coming]
    return [each.result() for each in found]


def comes_and_goes(said=b''):
  """Somebody who says this, if anything, and leaves."""
  def other(port):
    while True:
      try:
        with socket.create_connection(('localhost', port)) as there:
          there.sendall(said)
          time.sleep(0.3)
        return
      except ConnectionRefusedError:      # process 0 is not there yet
        time.sleep(0.05)
  return other


def test_processes_begin_once_all_have_come(monkeypatch):
  assert meet(3, [2, 1], monkeypatch) == [None] * 3
  assert meet(3, [1, 2], monkeypatch, [comes_and_goes(), comes_and_goes(b'GET / HTTP/1.1\n')]) == [None] * 3


def test_a_process_that_left_and_comes_again_is_one(monkeypatch):
  assert meet(3, [1, 2], monkeypatch, [comes_and_goes(b'1\n')]) == [None] * 3


def test_where_one_does_not_come_or_does_not_stay_all_others_are_told(monkeypatch):
  first, other = meet(4, [2], monkeypatch, [comes_and_goes(b'3\n')])
  assert 'after 4 s process 1, 3 did not come' in first
  assert 'nobody said there, within 4 s, that all processes have come' in other
  assert 'said to two processes' in meet(3, [1, 1], monkeypatch)[0]


@pytest.mark.parametrize('environment, joins', [
    ({}, False),
    ({'SLURM_STEP_NUM_TASKS': '4'}, True),
    ({'SLURM_STEP_NUM_TASKS': '1'}, False),
    ({'OMPI_COMM_WORLD_SIZE': '2'}, True),
    ({'KUBERNETES_SERVICE_HOST': '10.0.0.1', 'JOB_COMPLETION_INDEX': '0'}, True),
    ({'KUBERNETES_SERVICE_HOST': '10.0.0.1'}, False),
    ({'TPU_WORKER_HOSTNAMES': 'a.internal,b.internal'}, True),
    ({'TPU_WORKER_HOSTNAMES': 'WARNING: could not determine TPU worker hostnames, please set it'}, False),
])
def test_surroundings_that_tell_of_other_processes_are_joined(environment, joins, monkeypatch):
  for name in ('SLURM_STEP_NUM_TASKS', 'OMPI_COMM_WORLD_SIZE', 'KUBERNETES_SERVICE_HOST', 'TPU_WORKER_HOSTNAMES'):
    monkeypatch.delenv(name, raising=False)
  for name, value in environment.items():
    monkeypatch.setenv(name, value)
  joined = []
  monkeypatch.setattr(processes.jax.distributed, 'initialize', lambda **given: joined.append(given))
  processes.begin()
  assert [one['coordinator_address'] for one in joined] == ([None] if joins else [])
  assert processes.told_of_others() == joins
  processes.begin(processes=1)                  # alone, whatever they tell
  assert len(joined) == joins


def test_surroundings_that_tell_too_little_are_an_error(monkeypatch):
  """Where several are told of, none goes on alone in silence."""
  monkeypatch.setenv('SLURM_STEP_NUM_TASKS', '4')

  def refuse(**_):
    raise ValueError('coordinator_address should be defined.')
  monkeypatch.setattr(processes.jax.distributed, 'initialize', refuse)
  with pytest.raises(InputError, match=r'the processes cannot begin .*--processes=1 to run alone'):
    processes.begin()
