"""Generation from a file of rows: checked before it begins, written as it goes on, and asked as the run has learned."""

import copy
import json
import os
import select
import sys
import tty

import pytest
from helpers import config, verb

from research import config as configs
from research import console, tree
from research.data import prompts
from research.errors import InputError
from research.evaluation import decode, harness
from research.evaluation.decoding import Decoding
from research.experiment import restore
from research.experiment.assemble import assemble
from research.runs import generate

SHOTS = ['--config=configs/default.py', '--config.model.source=random:llama-tiny', '--config.strategy.name=few_shot']
CHAT = ("{% for m in messages %}{{ '[' + m['role'] + ']' + m['content'] }}{% if m['role'] == 'system' %}"
        "{{ raise_exception('No system turn here') }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}")


def written(path, rows):
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  return path


def answered(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize('row, says', [
    ({'prompt': 3}, 'line 3: `prompt` is not text'), ({'prompt': None}, 'line 3: `prompt` is null'),
    ({'text': None}, "line 3: column 'text' is null"),
    ({'other': 'x'}, "line 3: has neither `prompt` nor the column 'text'"),
    ({'messages': []}, 'line 3: messages is not a list of turns'),
    ({'messages': [{'role': 'user', 'content': None}]}, 'line 3: messages, turn 1: content is null')])
def test_all_rows_are_checked_before_the_first_is_answered(tmp_path, row, says, monkeypatch):
  monkeypatch.setattr(decode, 'generate', pytest.fail)
  asked = written(tmp_path / 'in.jsonl', [{'prompt': 'a'}, {'text': 'b'}, row])
  said = verb('generate', *SHOTS, f'--input={asked}', f'--output={tmp_path}/out.jsonl')
  assert said.returncode == 2 and f'error: --input {says}' in said.stderr and said.stderr.count('\n') == 1
  assert not (tmp_path / 'out.jsonl').exists()


@pytest.mark.quick
def test_answers_go_into_no_pipe_that_nobody_reads_nor_into_the_prompts_themselves(tmp_path):
  asked = written(tmp_path / 'in.jsonl', [{'prompt': 'a'}])
  os.mkfifo(tmp_path / 'pipe')
  for output, says in (('pipe', 'cannot be written'), ('in.jsonl', 'is the --input')):
    said = verb('generate', *SHOTS, f'--input={asked}', f'--output={tmp_path / output}')
    assert said.returncode == 2 and says in said.stderr and said.stderr.count('\n') == 1
  assert answered(asked) == [{'prompt': 'a'}]


def test_answers_come_in_parts_and_are_those_of_all_at_once(monkeypatch):
  """Also where tokens are drawn."""
  exp = assemble(config(strategy__name='few_shot', strategy__shots=0))
  variables, texts = tree.join(*restore.variables(exp)), [f'{"word " * (i % 3)}{i}' for i in range(5)]
  whole = [*generate.answer_all(exp, variables, texts, 4, Decoding(1.0, seed=3))]
  monkeypatch.setattr(generate, 'AT_ONCE', 2)
  asked, before = [], decode.generate

  def watched(model, variables, ids, *args, **more):
    asked.append(len(ids))
    return before(model, variables, ids, *args, **more)
  monkeypatch.setattr(decode, 'generate', watched)
  answers = generate.answer_all(exp, variables, texts, 4, Decoding(1.0, seed=3))
  assert [next(answers), asked[:]] == [whole[0], [2]]      # the others are not computed yet
  assert [*answers] == whole[1:] and asked == [2, 2, 1]


@pytest.mark.quick
@pytest.mark.parametrize('stop', [(), ('STOP',), ('\n\n', 'xyz'), ('STO', 'TOP')])
def test_pieces_join_to_the_text_and_hold_back_what_may_be_a_stop_or_half_a_character(stop):
  whole = 'Größe 你好, STO and ST\n 🎉 STOP xyz\n\nmore'
  for step in (1, 2, 3, 7, 100):
    data = whole.encode()
    grown = [data[:end].decode(errors='replace') for end in [*range(step, len(data), step), len(data)]]
    pieces = [*generate.in_pieces(grown, stop)]
    assert ''.join(pieces) == harness.cut(whole, stop) and all(pieces) and generate.HALF not in ''.join(pieces)
    assert len(pieces) > 1 or step == 100
  assert [*generate.in_pieces([])] == [] and ''.join(generate.in_pieces(['a\ufffd'])) == 'a\ufffd'


def test_a_stream_tells_what_is_answered_at_once_and_a_prompt_read_before_is_looked_back_at():
  exp = assemble(config(strategy__name='few_shot', strategy__shots=0))
  variables, text = tree.join(*restore.variables(exp)), 'A prompt of more than sixteen tokens: '
  ids, ends = exp.tokenizer.prompt(text), exp.tokenizer.ends
  for how in (Decoding(), Decoding(0.9, top_p=0.9, repetition_penalty=1.5, seed=2), Decoding(beams=2, no_repeat_ngram=1)):
    [answer] = generate.answer_all(exp, variables, [text], 12, how)
    assert ''.join(generate.stream(exp, variables, text, 12, how)) == answer
    [apart] = decode.generate(exp.model, variables, [ids], 12, ends, 1, how)      # the prompt is not read before
    assert answer == exp.tokenizer.decode(apart)
    stop = answer[len(answer) // 2]
    [cut] = generate.answer_all(exp, variables, [text], 12, how, stops=[[stop]])
    assert stop not in cut and ''.join(generate.stream(exp, variables, text, 12, how, stop=[stop])) == cut


@pytest.mark.parametrize('terminal', [True, False])
def test_an_answer_comes_token_by_token_on_a_terminal_and_at_one_time_in_a_pipe(terminal, monkeypatch):
  """A pseudo-terminal, or a pipe, is read after every token."""
  exp = assemble(config(strategy__name='few_shot', strategy__shots=0))
  variables = tree.join(*restore.variables(exp))
  reader, writer = os.openpty() if terminal else os.pipe()
  if terminal:
    tty.setraw(writer)
  pieces, read = [], b''
  arrived = lambda: os.read(reader, 10_000) if select.select([reader], [], [], 0)[0] else b''

  def watched():
    nonlocal read
    for piece in generate.stream(exp, variables, 'A long answer:', 30, Decoding(1.0, seed=1)):
      pieces.append(piece)
      yield piece
      read += arrived()
      assert read.decode() == ''.join(pieces) * terminal
  with open(writer, 'w', encoding='utf-8') as out:
    monkeypatch.setattr(sys, 'stdout', out)
    console.put(watched())
    out.flush()
    read += arrived()
  os.close(reader)
  assert read.decode() == ''.join(pieces) + '\n' and len(pieces) > 10


@pytest.mark.parametrize('given, says', [
    (['--top_p=0.9'], '--top_p=0.9: is of drawing; give a temperature above 0 too'),
    (['--temperature=1', '--top_p=1.5'], '--top_p=1.5: a share of the probability'),
    (['--beams=4', '--temperature=1'], '--temperature=1.0: is of drawing, and beams=4 draws nothing'),
    (['--length_penalty=2'], '--length_penalty=2.0: is of beam search'), (['--no_repeat_ngram=-1'], 'must be 0 (tokens may'),
    (['--stop='], '--stop: is empty')])
def test_settings_that_cannot_be_are_refused_before_anything_is_loaded(given, says):
  said = verb('generate', '--workdir=nowhere', '--prompt=x', *given)
  assert said.returncode == 2 and says in said.stderr and said.stderr.count('\n') == 1


def test_flags_of_generate_stand_for_what_the_task_says(tmp_path):
  how = [*SHOTS, '--config.strategy.shots=0', '--config.task.name=translation', '--max_new_tokens=8', '--prompt=Turn it on']
  drawn = '--config.task.decoding=(("temperature",1.0),("seed",3))'
  ask = lambda *more: verb('generate', *how, *more).stdout
  greedy, of_task = ask(), ask(drawn)
  assert greedy != of_task == ask('--temperature=1', '--seed=3') != ask(drawn, '--seed=4')
  assert ask(drawn, '--temperature=0') == greedy and ask('--beams=3')
  assert ask(f'--stop={greedy[2]}').rstrip('\n') == greedy[:greedy.index(greedy[2])].rstrip('\n')


def test_a_tasks_decoding_is_recorded_and_its_scores_are_those_of_any_batch():
  settings = (('temperature', 1.0), ('top_k', 50))
  fields = {'strategy__name': 'few_shot', 'strategy__shots': 0, 'task__name': 'translation', 'task__max_new_tokens': 6}
  exp = assemble(config(**fields, task__decoding=settings))
  assert exp.settings.config()['task']['decoding'] == dict(settings)
  assert configs.read(exp.settings.config())._replace(check_memory=False) == exp.settings
  assert assemble(config(**fields)).settings.config()['task']['decoding'] is None
  with pytest.raises(InputError, match=r"task.decoding: no setting is called 'heat'"):
    assemble(config(**fields, task__decoding=(('heat', 1),)))
  with pytest.raises(InputError, match=r'task.decoding=.*: task sentiment generates no text'):
    assemble(config(**{**fields, 'task__name': 'sentiment'}, task__decoding=settings))
  variables, examples = tree.join(*restore.variables(exp)), exp.examples('test')[:5]
  of = lambda size: [p['prediction'] for p in harness.evaluate(
      exp.model, variables, exp.tokenizer, exp.task, examples, size).predictions]
  assert of(1) == of(4)


def test_a_column_called_prompt_is_put_into_the_tasks_template(tmp_path):
  rows = written(tmp_path / 'rows.jsonl', [{'prompt': 'I loved it', 'label': 'positive'}])
  exp = assemble(config(
      strategy__name='few_shot', strategy__shots=0, task__name='files', task__test=str(rows), task__target=' {label}',
      task__prompt='Review: {prompt}\nSentiment:'))
  assert generate.rendered(exp, answered(rows)) == ['Review: I loved it\nSentiment:']
  other = exp._replace(task=exp.task._replace(prompt='Review: {text}\nSentiment:'))
  assert generate.rendered(other, answered(rows)) == ['I loved it']


@pytest.fixture(scope='module')
def of_messages(tmp_path_factory):
  """An experiment whose rows are messages, with a template that takes no system turn."""
  folder = tmp_path_factory.mktemp('messages')
  turns = [{'role': 'user', 'content': 'Hello?'}, {'role': 'assistant', 'content': 'Hi.'}]
  rows = written(folder / 'rows.jsonl', [{'messages': turns}])
  exp = assemble(config(strategy__name='few_shot', strategy__shots=0, task__name='files', task__test=str(rows)))
  hf = copy.deepcopy(exp.tokenizer.hf)
  hf.chat_template = CHAT
  return exp._replace(tokenizer=exp.tokenizer._replace(hf=hf))


def test_a_run_that_has_learned_from_messages_is_asked_in_its_chat_template(of_messages):
  rows = [{'prompt': 'Hello?'}, {'messages': [{'role': 'user', 'content': 'Hello?'}]}, of_messages.task.rows('test')[0]]
  assert generate.in_chat(of_messages)
  assert generate.rendered(of_messages, rows) == ['[user]Hello?[assistant]'] * 3
  assert generate.asked(of_messages, 'Hello?') == '[user]Hello?[assistant]'


def test_a_chat_template_that_refuses_turns_is_quoted_with_the_row(of_messages):
  refused = [{'prompt': 'a'}, {'messages': [{'role': 'system', 'content': 'Be kind.'}, {'role': 'user', 'content': 'a'}]}]
  with pytest.raises(InputError, match=r'--input line 2: .* refuses these turns \(system, user\): No system turn here'):
    generate.rendered(of_messages, refused)
  with pytest.raises(InputError, match=r'row 0: .*No system turn here'):
    prompts.examples(of_messages.task, [{**refused[1], 'label': 'x'}], of_messages.tokenizer)
  broken = copy.deepcopy(of_messages.tokenizer.hf)
  broken.chat_template = '{% for m in messages %}{{ m }'
  with pytest.raises(InputError, match='refuses these turns'):
    of_messages.tokenizer._replace(hf=broken).chat(refused[1]['messages'])
