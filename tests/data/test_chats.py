"""Chat logs of every form become the same messages."""

import json

import pytest

from research.data import tasks
from research.data.chats import as_messages
from research.errors import InputError

pytestmark = pytest.mark.quick

TURNS = [{'role': 'user', 'content': 'Hi'}, {'role': 'assistant', 'content': 'Hello.'}]


@pytest.mark.parametrize('row', [
    {'messages': TURNS},
    {'messages': [{**TURNS[0], 'content': [{'type': 'text', 'text': 'H'}, {'type': 'text', 'text': 'i'}]}, TURNS[1]]},
    {'conversations': [{'from': 'human', 'value': 'Hi'}, {'from': 'gpt', 'value': 'Hello.'}]},
    {'instruction': 'Hi', 'input': '', 'output': 'Hello.'}, {'instruction': 'Hi', 'output': 'Hello.'}])
def test_forms_of_a_chat_are_one(row):
  assert as_messages({**row, 'id': 3}) == {'messages': TURNS, 'id': 3}


def test_an_input_stands_below_its_instruction_and_a_system_turn_before():
  row = {'system': 'Be brief.', 'instruction': 'Translate.', 'input': 'Hi', 'output': 'Hallo'}
  said = [('system', 'Be brief.'), ('user', 'Translate.\n\nHi'), ('assistant', 'Hallo')]
  assert as_messages(row)['messages'] == [{'role': role, 'content': content} for role, content in said]


def test_a_system_prompt_of_sharegpt_is_the_first_turn():
  row = {'system': 'Be brief.', 'conversations': [{'from': 'human', 'value': 'Hi'}, {'from': 'gpt', 'value': 'Hello.'}]}
  assert as_messages(row) == {'messages': [{'role': 'system', 'content': 'Be brief.'}, *TURNS]}


def test_a_task_reads_a_log_unless_a_template_makes_the_prompt(tmp_path):
  (tmp_path / 'a.json').write_text(json.dumps([{'instruction': 'Hi', 'input': '', 'output': 'Hello.'}]))
  task = tasks.make('files', {'train': str(tmp_path / 'a.json')})
  assert task.rows('train') == [{'messages': TURNS}] and tasks.target_of(task, task.rows('train')[0]) == 'Hello.'
  task = tasks.make('files', {'train': str(tmp_path / 'a.json'), 'prompt': '{instruction}', 'target': '{output}'})
  assert task.rows('train')[0]['output'] == 'Hello.'


@pytest.mark.parametrize('row, says', [
    ({'messages': [TURNS[0], {'role': 'tool', 'content': '5'}]}, 'messages, turn 2: calls a tool'),
    ({'messages': [TURNS[0], {'role': 'assistant', 'content': None, 'tool_calls': [{}]}]}, 'messages, turn 2: calls a tool'),
    ({'messages': [{'role': 'user', 'content': [{'type': 'image_url'}]}]}, 'messages, turn 1: holds a part of type image_url'),
    ({'conversations': [{'role': 'user'}]}, 'conversations, turn 1: is not an object with `from` and `value`'),
    ({'conversations': [{'from': 'narrator', 'value': 'x'}]}, "conversations, turn 1: from='narrator'"),
    ({'conversations': [{'from': ['x'], 'value': 'x'}]}, 'conversations, turn 1: from=.*x'),
    ({'instruction': 'a', 'input': 5, 'output': 'b'}, 'input is not text'),
    ({'instruction': 'a', 'history': [['b', 'c']], 'output': 'b'}, 'history holds earlier turns'),
    ({'conversations': [], 'tools': '[{}]'}, 'tools are not read'),
    ({'messages': ['Hi']}, 'messages, turn 1: is not an object with `role` and `content`')])
def test_what_is_no_turn_is_named_with_its_row(tmp_path, row, says):
  (tmp_path / 'a.jsonl').write_text(json.dumps({'messages': TURNS}) + '\n' + json.dumps(row) + '\n')
  with pytest.raises(InputError, match=f'train row 2: {says}'):
    tasks.make('files', {'train': str(tmp_path / 'a.jsonl')})
