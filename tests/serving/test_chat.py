"""A conversation in the terminal: each turn is answered as `generate` answers its prompt, with all turns before it."""

import copy
import os
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from fcntl import ioctl

import pytest
from helpers import ROOT, by_heart, verb
from serving import fleets
from serving.fleets import LORA, run

from research.errors import InputError
from research.evaluation import decode
from research.evaluation.decoding import Decoding
from research.runs.train import train_one
from research.serving import chat
from research.serving.chat import Asked

TEMPLATE = ("{% for m in messages %}{% if m['role'] == 'system' and 'no' in m['content'] %}"
            "{{ raise_exception('No, not that') }}{% endif %}"
            "{{ '[' + m['role'][0] + ']' + m['content'] }}{% endfor %}{% if add_generation_prompt %}[a]{% endif %}")


def with_template(one):
  hf = copy.deepcopy(one.exp.tokenizer.hf)
  hf.chat_template = TEMPLATE
  return one._replace(exp=one.exp._replace(tokenizer=one.exp.tokenizer._replace(hf=hf)))


@pytest.fixture(scope='module')
def runs():
  return [with_template(run(name, seed=seed, **LORA)) for seed, name in enumerate('ab', 1)]


def talked(runs, lines, stops_at=None, context=128, **asked):
  """What is put after each line, the greeting first; Ctrl-C is pressed while line number `stops_at` is answered."""
  said, pressed = [''], []

  def typed():
    for line in lines:
      said.append('')
      if line is None:
        raise KeyboardInterrupt
      yield line

  def put(text):
    said[-1] += text
    if stops_at == len(said) - 1 and not pressed:
      pressed.append(1)
      raise KeyboardInterrupt
  engine = fleets.engine(runs, slots=1, context=context)
  with chat.answering(engine):
    chat.talk(engine, Asked(**{'decoding': {}, 'max_new_tokens': 8, **asked}), typed(), put)
  fleets.assert_nothing_is_lost(engine)
  return said


def written(one, text, **decoding):
  """What `generate` writes to a prompt."""
  model, tokenizer = one.exp.model, one.exp.tokenizer
  ends = (*tokenizer.ends, tokenizer.end_of_turn()) if tokenizer.hf.chat_template else tokenizer.ends
  [ids] = decode.generate(model, one.variables, [tokenizer.prompt(text)], 8, ends, 1, Decoding(**decoding))
  return tokenizer.decode(ids)


def test_a_turn_is_answered_with_the_turns_before_it_until_they_are_forgotten(runs):
  a, b = runs
  first = written(a, '[u]hi[a]')
  said = talked(runs, ['hi', '', 'more', '/model b', 'and?', '/reset', 'hi', '/quit', 'never'])
  assert said[0].startswith("a: a chat in the model's template, with its history.\n/help")
  assert said[1] == first + '\n' and said[2] == ''
  second = written(a, f'[u]hi[a]{first}[u]more[a]')
  assert said[3] == second + '\n' and said[4].startswith('b: a chat')
  assert said[5] == written(b, f'[u]hi[a]{first}[u]more[a]{second}[u]and?[a]') + '\n'
  assert said[6:8] == ['a new conversation\n', written(b, '[u]hi[a]') + '\n'] and said[8] == '' and len(said) == 9


def test_a_system_turn_comes_first_and_one_that_the_template_refuses_is_not_kept(runs):
  said = talked(runs, ['/system Be kind', 'hi', '/reset', '/system no', 'hi', '/system', '/reset', 'hi'])
  kind = written(runs[0], '[s]Be kind[u]hi[a]') + '\n'
  assert said[1] == 'the system turn is kept\n' and said[2] == said[5] == kind
  assert said[3] == 'a new conversation, with the same system turn\n'
  assert said[4].startswith("error: the model's chat template refuses these turns (system, user): No, not that")
  assert said[6] == 'no system turn\n' and said[8] == written(runs[0], '[u]hi[a]') + '\n\n'      # the end of the input


def test_commands_are_told_and_unknown_ones_named(runs):
  said = talked(runs, ['/help', '/what is this', '/model c', '/model', ' /help'])
  assert all(command in said[1] for command in chat.COMMANDS) and max(map(len, said[1].splitlines())) <= 80
  assert said[2] == '/what: no such command (commands: /help, /model NAME, /quit, /reset, /system TEXT)\n'
  assert said[3] == "no model is called 'c' (models: a, b)\n" and said[4] == 'a (models: a, b)\n'
  assert said[5] == written(runs[0], '[u]/help[a]') + '\n\n'


def test_ctrl_c_stops_an_answer_and_at_the_prompt_the_conversation(runs):
  said = talked(runs, ['hi', 'more', None, 'never'], stops_at=1)
  begun = said[1].removesuffix('\n(stopped)\n')
  assert said[1] != begun != written(runs[0], '[u]hi[a]') and written(runs[0], '[u]hi[a]').startswith(begun)
  assert said[2] == written(runs[0], f'[u]hi[a]{begun}[u]more[a]') + '\n' and said[3:] == ['\n']


def test_the_oldest_turns_are_left_out_where_the_context_is_full_and_a_turn_that_is_too_long_is_refused(runs):
  said = talked(runs, ['one', 'x' * 80, 'two', 'y' * 125, 'z'])
  first = written(runs[0], '[u]one[a]')
  long = written(runs[0], f'[u]one[a]{first}[u]{"x" * 80}[a]')
  assert said[2] == long + '\n'
  room = 128 - 8 - len(f'[u]{"x" * 80}[a]{long}[u]two[a]'.encode()) - 1
  assert 0 <= room < len(f'[u]one[a]{first}'.encode())      # so that just the first turn has to go
  notice = '(the oldest 2 turns are left out: the conversation is over the context)\n'
  two = written(runs[0], f'[u]{"x" * 80}[a]{long}[u]two[a]')
  assert said[3] == notice + two + '\n'
  assert said[4] == ('error: this turn has 132 tokens; with 8 to come that is over the context of 128; say less, or give a '
                     'smaller --max_new_tokens\n')
  assert two in said[3] and 'error' not in said[5]


def test_without_a_template_each_line_is_a_prompt_by_itself(runs):
  plain, of_task = run('plain', seed=1, **LORA), run('task', seed=2, **LORA)
  of_task = of_task._replace(exp=of_task.exp._replace(task=of_task.exp.task._replace(prompt='Review: {text}\nSo:', chat=False)))
  plain = plain._replace(exp=plain.exp._replace(task=plain.exp.task._replace(prompt='{a} {b}', chat=False)))
  said = talked([plain, of_task], ['hi', 'hi', '/system x', '/model task', 'hi'])
  assert 'Each line by itself is continued as it is' in said[0] and said[1] == said[2] == written(plain, 'hi') + '\n'
  assert said[3].startswith("error: the model's tokenizer carries no chat template")
  assert "the task's prompt as {text}" in said[4] and said[5] == written(of_task, 'Review: hi\nSo:') + '\n\n'
  assert max(len(line) for text in (said[0], said[4]) for line in text.splitlines()) <= 80


def test_answers_are_drawn_as_is_asked_each_by_a_seed_of_its_own_and_with_what_cannot_be_refused(runs):
  said = talked(runs, ['hi', '/reset', 'hi'], decoding={'temperature': 1.5, 'seed': 3})
  assert said[1] == written(runs[0], '[u]hi[a]', temperature=1.5, seed=3) + '\n'
  assert said[3] == written(runs[0], '[u]hi[a]', temperature=1.5, seed=4) + '\n\n'
  with pytest.raises(InputError, match=r'--chat: repetition_penalty=1\.5: an answer is written token by token'):
    chat.decoding_of(Asked({'repetition_penalty': 1.5}), runs[0].exp)


@pytest.mark.parametrize('given, says', [
    (['--chat'], '--chat talks with finished runs'), (['--chat', '--workdir=x', '--prompt=y'], 'and no --config'),
    (['--study=x', '--prompt=y'], '--study=x: goes with --chat'),
    (['--chat', '--workdir=nowhere'], 'nowhere/config.json: no such')])
def test_what_does_not_go_together_is_refused(given, says):
  said = verb('generate', *given)
  assert said.returncode == 2 and says in said.stderr and said.stderr.count('\n') == 1


def test_a_conversation_at_a_terminal(tmp_path):
  """80 columns wide: answered as it is typed, an answer stopped by Ctrl-C, ended by Ctrl-D."""
  train_one(by_heart(tmp_path, training__steps=2, training__eval_every=2, task__max_new_tokens=200), tmp_path / 'run')
  terminal, theirs = os.openpty()
  ioctl(theirs, termios.TIOCSWINSZ, struct.pack('HHHH', 24, 80, 0, 0))
  command = [sys.executable, '-m', 'research.generate', f'--workdir={tmp_path}/run', '--chat']
  shown = ''

  def wait(condition):
    nonlocal shown
    before, until = len(shown), time.monotonic() + 120
    while not condition(shown[before:]) and time.monotonic() < until:
      if select.select([terminal], [], [], 1)[0]:
        shown += os.read(terminal, 10_000).decode(errors='replace')
    assert condition(shown[before:]), shown
    return shown[before:]
  with subprocess.Popen(command, cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True) as process:
    try:
      wait(lambda text: text.endswith('> '))
      assert 'run: the model has no chat template.\r\nEach line by itself is put into the task\'s prompt as {a}' in shown
      os.write(terminal, b'amber\n')
      wait(lambda text: len(text) > len('amber\r\n') + 3)
      process.send_signal(signal.SIGINT)
      wait(lambda text: text.endswith('> '))
      os.write(terminal, b'/what\n')
      assert '/what: no such command' in wait(lambda text: text.endswith('> '))
      os.write(terminal, b'\x04')
      assert process.wait(60) == 0 and 'Traceback' not in shown and 'error' not in shown
    finally:
      process.kill()
  os.close(theirs)
  os.close(terminal)
