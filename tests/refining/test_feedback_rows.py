"""Rows from feedback: what was right becomes the label, and what cannot be learned from is counted with its reason."""

import copy

import pytest
from helpers import config

from research import run_files
from research.errors import InputError
from research.experiment.assemble import assemble
from research.refining import rows
from research.serving import log

SECONDS = {'queued': 0.0, 'first': 0.1, 'total': 0.2}
TEMPLATE = 'Topic of "{text}" ({kind}):'
OLD = [{'text': 'My card is gone', 'kind': 'mail', 'topic': 'cards'},
       {'text': 'I cannot log in', 'kind': 'call', 'topic': 'access'}]


def request(id, prompt='', **fields):
  return {'id': id, 'time': 1.0, 'model': 'lora', 'workdir': 'runs/lora', 'endpoint': 'choices', 'prompt': prompt,
          'answer': 'access', 'tokens': {'prompt': 3, 'answer': 1}, 'seconds': SECONDS, 'ended': 'stop', **fields}


def written(folder, *said):
  """A log of pairs (request, feedback)."""
  writer = log.Writer(folder / 'log.jsonl')
  for number, (asked, feedback) in enumerate(said):
    writer.request(**asked)
    if feedback is not None:
      writer.feedback(id=asked['id'], time=100.0 + number, **feedback)
  writer.close()
  return log.read(folder / 'log.jsonl')


def experiment(folder, old=OLD, **fields):
  run_files.write_jsonl(folder / 'old.jsonl', old)
  return assemble(config(task__name='files', task__train=str(folder / 'old.jsonl'), **fields), abstract=True)


@pytest.fixture
def exp(tmp_path):
  return experiment(tmp_path, task__prompt=TEMPLATE, task__target=' {topic}', task__choices=('cards', 'access'))


def made(exp, folder, *said, called=('lora',)):
  return rows.from_log(written(folder, *said), exp, folder / 'log.jsonl', called)


def prompt(text, kind='mail'):
  return TEMPLATE.format(text=text, kind=kind)


def test_labels_and_answers_rated_right_become_rows_the_newest_first(exp, tmp_path):
  found = made(exp, tmp_path, (request('a', prompt('Lost my card')), {'label': ' cards '}),
               (request('b', prompt('No login')), {'rating': 1}),
               (request('c', row={'text': 'PIN', 'kind': 'call'}), {'label': 'cards'}),
               (request('d', f'<bos>{prompt("Locked")}'), {'label': 'access', 'rating': 0}))
  assert found.rows == [{'text': 'Locked', 'kind': 'mail', 'topic': 'access'},
                        {'text': 'PIN', 'kind': 'call', 'topic': 'cards'},
                        {'text': 'No login', 'kind': 'mail', 'topic': 'access'},
                        {'text': 'Lost my card', 'kind': 'mail', 'topic': 'cards'}]
  assert found.labelled == 3 and found.left_out == {}


def test_what_gives_no_row_is_counted_with_its_reason(exp, tmp_path):
  good = (request('good', prompt('Fine')), {'label': 'cards'})
  found = made(
      exp, tmp_path, good, (request('half', prompt('A')), {'rating': 0.5}), (request('wrong', prompt('B')), {'rating': 0}),
      (request('other', prompt('C')), {'label': 'weather'}), (request('prompt', 'Hello'), {'label': 'cards'}),
      (request('twice', 'Topic of "x" (y" (z):'), {'label': 'cards'}),
      (request('cut', prompt('D'), ended='length'), {'rating': 1}),
      (request('range', prompt('E')), {'rating': 7}), (request('long', prompt('F' * 600)), {'label': 'cards'}),
      (request('columns', row={'text': 'x'}), {'label': 'cards'}), (request('silent', prompt('G')), None))
  assert [row['text'] for row in found.rows] == ['Fine']
  assert found.left_out == {rows.UNRATED: 2, rows.CHOICE: 1, rows.NO_MATCH: 1, rows.SEVERAL: 1, rows.CUT_OFF: 1, rows.RANGE: 1,
                            rows.LONG: 1, rows.COLUMNS: 1}


def test_of_one_question_that_was_asked_twice_the_later_correction_counts(exp, tmp_path):
  found = made(exp, tmp_path, (request('a', prompt('Lost')), {'label': 'access'}),
               (request('b', prompt('LOST')), {'label': 'cards'}))
  assert [row['topic'] for row in found.rows] == ['cards'] and found.left_out == {rows.AGAIN: 1}


def test_of_several_models_in_a_log_the_others_are_left_out(exp, tmp_path):
  theirs = (request('a', prompt('Lost'), model='base'), {'label': 'cards'})
  found = made(exp, tmp_path, theirs, (request('b', prompt('Locked')), {'label': 'access'}))
  assert [row['text'] for row in found.rows] == ['Locked'] and found.left_out == {rows.OTHERS: 1}
  found = made(exp, tmp_path, theirs, (request('b', prompt('Locked')), {'label': 'access'}), called=('something',))
  assert len(found.rows) == 2


def test_a_log_without_anything_to_learn_from_is_one_error(exp, tmp_path):
  with pytest.raises(InputError, match=r'log\.jsonl: holds 1 requests, and no feedback on any; nothing can be learned'):
    made(exp, tmp_path, (request('a', prompt('Lost')), None))
  (tmp_path / 'log.jsonl').unlink()
  with pytest.raises(InputError, match='none of the 2 answers with feedback gives a row: 2 no right answer is known'):
    made(exp, tmp_path, (request('a', prompt('Lost')), {'rating': 0}), (request('b', prompt('Locked')), {'rating': 0.9}))


def test_a_prompt_of_any_of_several_templates_is_read_back(tmp_path):
  exp = experiment(tmp_path, [{'a': 'x', 'b': 'y'}], task__prompts=('Say {a}:', 'What is {a}?'), task__target=' {b}')
  found = made(exp, tmp_path, (request('one', 'What is rain?'), {'label': 'water'}),
               (request('two', 'Say sun:'), {'label': 'light'}))
  assert found.rows == [{'a': 'sun', 'b': 'light'}, {'a': 'rain', 'b': 'water'}]


def test_a_label_fills_the_columns_of_the_target(tmp_path):
  exp = experiment(tmp_path, [{'a': 'x', 'b': 'y', 'c': 'z'}], task__prompt='{a}:', task__target=' {b} because {c}.',
                   task__metrics=('exact_match',))
  found = made(exp, tmp_path, (request('one', 'rain:'), {'label': 'wet because water.'}),
               (request('two', 'sun:'), {'label': 'bright'}))
  assert found.rows == [{'a': 'rain', 'b': 'wet', 'c': 'water'}] and found.left_out == {rows.TARGET: 1}


def test_a_label_is_written_as_other_rows_write_theirs(tmp_path):
  exp = experiment(tmp_path, [{'a': 'x', 'n': 0}, {'a': 'y', 'n': 1}], task__prompt='{a}:', task__target=' {n}',
                   task__choices=('no', 'yes'))
  assert made(exp, tmp_path, (request('one', 'rain:'), {'label': 'yes'})).rows == [{'a': 'rain', 'n': 1}]
  (tmp_path / 'log.jsonl').unlink()
  own = [{'a': 'x', 'options': ['b', 'c'], 'right': 'A'}, {'a': 'x', 'options': ['b', 'c', 'd'], 'right': 'C'}]
  exp = experiment(tmp_path, own, task__prompt='{a}:', task__target=' {right}', task__choices=('{options}',))
  asked = request('one', row={'a': 'rain', 'options': ['dry', 'wet']})
  assert made(exp, tmp_path, (asked, {'label': 'wet'})).rows == [{'a': 'rain', 'options': ['dry', 'wet'], 'right': 'B'}]


def test_a_row_without_the_column_that_examples_belong_to_stands_for_itself(tmp_path):
  old = [{'a': 'x', 'b': 'y', 'case': '1'}]
  exp = experiment(tmp_path, old, task__prompt='{a}:', task__target=' {b}', task__cluster='case')
  found = made(exp, tmp_path, (request('one', 'rain:'), {'label': 'wet'}),
               (request('two', row={'a': 'c', 'case': '9'}), {'label': 'd'}))
  assert [row['case'] for row in found.rows] == ['9', 'request one']


def in_chats(exp):
  hf = copy.deepcopy(exp.tokenizer.hf)
  hf.chat_template = ('{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}'
                      '{% if add_generation_prompt %}[assistant]{% endif %}')
  return exp._replace(tokenizer=exp.tokenizer._replace(hf=hf))


def test_a_chat_ends_with_the_right_answer_and_its_turns_stay_one_conversation(tmp_path):
  user, assistant = ({'role': role, 'content': text} for role, text in (('user', 'Hello?'), ('assistant', 'Hi.')))
  exp = in_chats(experiment(tmp_path, [{'messages': [user, assistant]}]))
  more = [user, assistant, {'role': 'user', 'content': 'And?'}]
  found = made(exp, tmp_path, (request('a', '[user]Hello?[assistant]', messages=[user]), {'label': 'Good day.'}),
               (request('b', '…', messages=more, answer='Well.'), {'rating': 1}),
               (request('c', '…', messages=[{'role': 'user', 'content': 'Who?'}]), {'label': 'I.'}))
  assert [row['messages'] for row in found.rows] == [
      [{'role': 'user', 'content': 'Who?'}, {'role': 'assistant', 'content': 'I.'}],
      [*more, {'role': 'assistant', 'content': 'Well.'}], [user, {'role': 'assistant', 'content': 'Good day.'}]]
  who, second, first = (row[rows.CONVERSATION] for row in found.rows)
  assert first == second != who
  (tmp_path / 'log.jsonl').unlink()
  theirs = request('d', row={'conversations': [{'from': 'human', 'value': 'Hello?'}, {'from': 'gpt', 'value': 'Go away.'}]})
  [row] = made(exp, tmp_path, (theirs, {'label': 'Welcome.'})).rows
  assert row == {'messages': [user, {'role': 'assistant', 'content': 'Welcome.'}], rows.CONVERSATION: first}


def test_a_template_within_a_chat_template_is_read_back(tmp_path):
  exp = in_chats(experiment(tmp_path, [{'a': 'x', 'b': 'y'}], task__prompt='Say {a}!', task__target='{b}'))
  exp = exp._replace(task=exp.task._replace(chat=True))
  assert made(exp, tmp_path, (request('a', '[user]Say rain![assistant]'), {'label': 'wet'})).rows == [{'a': 'rain', 'b': 'wet'}]
