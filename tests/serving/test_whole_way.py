"""The whole way in its own processes: a run is served, watched, refined and served again."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import openai
import pytest
from helpers import ROOT, config, verb
from refining.test_refine import NEW, OLD, drawn

from research import run_files
from research.runs.train import train_one
from research.serving import log


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """A reference, and a run that has learned from it."""
  folder = tmp_path_factory.mktemp('way')
  rows = drawn(OLD, 140, 0)
  for split, some in (('train', rows[:80]), ('valid', rows[80:92]), ('test', rows[92:])):
    run_files.write_jsonl(folder / 'data' / f'{split}.jsonl', some)
  run_files.write_json(folder / 'data' / 'task.json', {'prompt': '{text}:', 'target': ' {label}', 'choices': ['warm', 'cold'],
                                                       'splits': ['train', 'valid', 'test']})
  train_one(config(task__name='files', task__path=str(folder / 'data'), strategy__name='full', training__steps=40,
                   training__batch_size=8, training__eval_every=40, training__checkpoint_every=0,
                   training__learning_rate=5e-3), folder / 'tickets')
  return folder


def started(folder, *given):
  """A server in a process of its own: (the process, a client)."""
  command = [sys.executable, '-m', 'research.serve', '--port=0', '--slots=1', '--context=64', *given]
  here = {**os.environ, 'PYTHONPATH': str(ROOT)}
  process = subprocess.Popen(command, cwd=folder, env=here, stderr=subprocess.PIPE, text=True)
  said = ''
  while ' at http' not in said:
    said = process.stderr.readline()
    assert said, process.stderr.read()
  return process, openai.OpenAI(base_url=re.search(r'http://\S+', said)[0], api_key='none', max_retries=0)


def ask(client, text):
  return client.post('/completions', body={'model': 'tickets', 'row': {'text': text}}, cast_to=object)


def test_served_watched_refined_and_served_again(folder):
  process, client = started(folder, '--workdir=tickets', '--log=traffic.jsonl', '--follow=tickets.versions/current.json')
  try:
    old, new = drawn(OLD, 20, 5), drawn(NEW, 60, 1)
    for row in old:
      assert ask(client, row['text'])['choices'][0]['text'] == row['label']
    wrong = 0
    for row in new:
      said = ask(client, row['text'])
      wrong += said['choices'][0]['text'] != row['label']
      client.post('/feedback', body={'id': said['id'], 'label': row['label']}, cast_to=object)
    assert wrong > 40
    until = time.monotonic() + 20
    while len(log.read(folder / 'traffic.jsonl').feedback) < 60 and time.monotonic() < until:
      time.sleep(.05)

    watched = verb('monitor', '--log=traffic.jsonl', '--reference=data', '--workdir=tickets', '--output=watch', cwd=folder)
    assert watched.returncode == 3, watched.stderr
    assert (folder / 'watch' / 'report.html').exists()
    refined = verb('refine', '--workdir=tickets', '--log=traffic.jsonl', '--reference=data', '--output=tickets-2',
                   '--margin=0.1', '--steps=150', cwd=folder)
    assert refined.returncode == 0, refined.stderr
    assert json.loads((folder / 'tickets-2' / 'promotion.json').read_text())['promoted']

    until = time.monotonic() + 60
    while not client.models.retrieve('tickets').root.endswith('tickets-2') and time.monotonic() < until:
      time.sleep(.1)
    fresh = drawn(NEW, 20, 7)
    right = sum(ask(client, row['text'])['choices'][0]['text'] == row['label'] for row in fresh)
    assert right > 15
    back = verb('refine', '--workdir=tickets-2', '--rollback', cwd=folder)
    assert back.returncode == 0, back.stderr
    until = time.monotonic() + 60
    while not client.models.retrieve('tickets').root.endswith('tickets') and time.monotonic() < until:
      time.sleep(.1)
    assert ask(client, fresh[0]['text'])['choices'][0]['text'] != fresh[0]['label']
  finally:
    process.send_signal(signal.SIGTERM)
    rest = process.stderr.read()
  assert process.wait(30) == 0 and 'tickets is version 2 now' in rest


@pytest.mark.parametrize('given, says', [
    (['--workdir=nothing'], 'nothing/config.json: no such file'),
    (['--workdir=tickets', '--host=0.0.0.0'], 'error: --host=0.0.0.0: whoever reaches that address could ask; give --api_keys'),
    (['--workdir=tickets', '--api_keys=keys'], 'error: --api_keys=keys line 1: the key has fewer than 16 characters'),
    (['--workdir=tickets', '--log=data/train.jsonl'], 'error: --log=data/train.jsonl line 1: not of a log'),
    (['--workdir=tickets,tickets'], "both would be the model 'tickets'"),
    (['--follow=none.json'], 'error: none.json: no such file'), ([], 'error: --workdir is missing')])
def test_what_cannot_be_served_is_one_line(folder, given, says):
  (folder / 'keys').write_text('short\n')
  said = verb('serve', '--port=0', *given, cwd=folder)
  assert said.returncode == 2 and says in said.stderr and said.stderr.count('\n') == 1


def test_a_port_in_use_is_one_line(folder):
  with socket.socket() as taken:
    taken.bind(('127.0.0.1', 0))
    taken.listen()
    said = verb('serve', f'--port={taken.getsockname()[1]}', '--workdir=tickets', cwd=folder)
  assert said.returncode == 2 and 'cannot be opened' in said.stderr and said.stderr.count('\n') == 1
