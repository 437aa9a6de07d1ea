"""What a person sees of a run, on a terminal of 80 columns and elsewhere."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest
from helpers import ROOT, config, reviews

from research import console
from research.console import ProgressLine, shortened, tracked
from research.runs.train import train_one

LABEL = '[6/13] domain-full-learning_rate=0.0003-seed=0'      # the quick start's
CODE = f"""
import time
from research.console import ProgressLine, tracked
progress = ProgressLine({LABEL!r}, 40)
for step in (8, 16, 24):
  time.sleep(0.2)
  progress.update(step, 'loss 0.1234  1,234 target tok/s')
for _ in tracked([8, 8, 8], {LABEL!r} + ': valid', size=lambda rows: rows):
  time.sleep(0.3)
progress.close()
"""


def on_a_terminal(columns, *command):
  """The lines that a command writes on a terminal of so many columns, one after the other, as they follow each other."""
  ours, theirs = pty.openpty()
  fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack('HHHH', 24, columns, 0, 0))
  environment = {name: value for name, value in os.environ.items() if name not in ('COLUMNS', 'LINES', 'NO_COLOR')}
  process = subprocess.Popen(command, stdout=theirs, stderr=theirs, cwd=ROOT, env={**environment, 'TERM': 'xterm'})
  os.close(theirs)
  said = b''
  while True:
    try:
      part = os.read(ours, 65536)
    except OSError:                                 # the other end is closed
      break
    said += part
  os.close(ours)
  assert process.wait() == 0, said.decode()
  return [line.rstrip() for line in re.split(r'[\r\n]+', re.sub(r'\x1b\[[0-9;?]*[a-zA-Z]', '', said.decode())) if line.strip()]


@pytest.mark.quick
def test_a_terminal_of_80_columns_shows_bar_count_facts_and_time_left():
  lines = on_a_terminal(80, sys.executable, '-c', CODE)
  assert max(map(len, lines)) <= 80 and all('left' in line and '━' in line for line in lines), lines
  for done in (16, 24):
    assert any(re.search(rf'^\[6/13\].*… ?.*━{{5,}}.* {done}/40 loss 0.1234  1,234 target tok/s left 0:00:0\d$', line)
               for line in lines), lines
  assert all('━' in line and 'left' in line for line in lines if '/40' in line), lines
  moves = [match[1] for match in (re.search(r'valid ━.* (\d+)/24 .*left', line) for line in lines) if match]
  assert {'8', '16'} <= {*moves}, lines                                             # while the run's own row still stands
  assert any('24/40' in line for line in lines[next(i for i, line in enumerate(lines) if ' 8/24' in line):])


class Clock:
  def __init__(self, monkeypatch):
    self.now = 1000.0
    monkeypatch.setattr(console.time, 'monotonic', lambda: self.now)


@pytest.mark.quick
def test_time_left_is_known_however_far_updates_are_apart_and_leaves_out_what_compiled(monkeypatch, capsys):
  clock = Clock(monkeypatch)
  progress = ProgressLine('run', 10, start=2)
  assert progress.seconds_left() is None
  for after, done, left in ((100, 3, 700), (60, 4, 360), (60, 5, 300)):
    clock.now += after
    progress.update(done, 'loss 1')
    assert progress.seconds_left() == pytest.approx(left)
  clock.now += 20
  assert progress.seconds_left() == pytest.approx(280)
  clock.now += 1000                                                                 # something else, such as validation
  assert progress.seconds_left() == pytest.approx(240)
  progress.close()
  assert capsys.readouterr().err.splitlines()[-1] == 'run  5/10  loss 1  300 s left'


@pytest.mark.quick
def test_without_a_terminal_progress_within_progress_is_told_only_where_it_lasts(monkeypatch, capsys):
  clock = Clock(monkeypatch)
  outer = ProgressLine('run', 10)
  for seconds in (0.1, 3.0):
    for _ in tracked(range(3), 'run: valid', size=lambda _: 8):
      clock.now += seconds
  assert capsys.readouterr().err.splitlines() == ['run: valid  16/24    3 s left']
  clock.now += 1
  outer.update(10)
  outer.close()
  for _ in tracked(range(2), 'alone'):
    pass
  assert [line.split('  ')[:2] for line in capsys.readouterr().err.splitlines()] == [['run', '10/10'], ['alone', '2/2']]


@pytest.mark.quick
@pytest.mark.parametrize('room, said', [(80, LABEL), (18, '[6/13] do…3-seed=0'), (2, '[…'), (1, '…'), (0, '')])
def test_a_label_keeps_its_beginning_and_its_end(room, said):
  assert shortened(LABEL, room) == said and len(said) <= max(room, 0)


def test_a_run_without_validation_says_at_its_end_that_its_last_step_was_kept(tmp_path, capsys):
  train_one(config(training__steps=2, **reviews(train=8)), tmp_path / 'run')
  assert capsys.readouterr().err.splitlines()[-1] == 'train: no validation split, so the last step was kept: 2 of 2'
