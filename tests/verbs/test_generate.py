"""Generation from a file of rows: checked before it begins, written as it goes on, and asked as the run has learned."""

import copy
import json
import os

import pytest
from helpers import config, verb

from research import tree
from research.data import prompts
from research.errors import InputError
from research.evaluation import decode
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
  whole = [*generate.answer_all(exp, variables, texts, 4, 1.0, 3)]
  monkeypatch.setattr(generate, 'AT_ONCE', 2)
  asked, before = [], decode.generate

  def watched(model, variables, ids, *args, **more):
    asked.append(len(ids))
    return before(model, variables, ids, *args, **more)
  monkeypatch.setattr(decode, 'generate', watched)
  answers = generate.answer_all(exp, variables, texts, 4, 1.0, 3)
  assert [next(answers), asked[:]] == [whole[0], [2]]      # the others are not computed yet
  assert [*answers] == whole[1:] and asked == [2, 2, 1]


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
