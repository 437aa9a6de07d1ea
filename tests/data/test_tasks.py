"""Tasks: built in, and a person's own files with all that can be wrong in them."""

import json

import numpy as np
import pytest

from research.data import few_rows, prompts, sources, tasks, templates
from research.data.prompts import examples
from research.data.tokenizer import of_bytes
from research.errors import InputError

pytestmark = pytest.mark.quick

ROWS = [{'text': f'text {i}', 'label': ('no', 'yes')[i % 2]} for i in range(9)]
FIELDS = {'prompt': '{text}', 'target': ' {label}', 'choices': ('no', 'yes')}


def write(path, rows):
  path.write_text(''.join((row if isinstance(row, str) else json.dumps(row)) + '\n' for row in rows), encoding='utf-8')
  return str(path)


def refused(match, name='files', **fields):
  with pytest.raises(InputError, match=match) as e:
    tasks.make(name, {**FIELDS, **fields})
  return str(e.value)


@pytest.mark.parametrize('name, counts', [('sentiment', (2200, 300, 479)), ('domain', (2200, 300, 479)),
                                          ('translation', (2400, 200, 400)), ('summary', (934, 100, 200))])
def test_built_in_tasks_bring_their_rows_and_no_row_is_in_two_splits(name, counts):
  task = tasks.make(name, {})
  assert tuple(len(task.rows(split)) for split in sources.SPLITS) == counts
  asked = [{task.prompt.format(**row) for row in task.rows(split)} for split in sources.SPLITS]
  assert not asked[0] & asked[1] and not asked[0] & asked[2] and not asked[1] & asked[2]


def test_fewer_training_rows_are_drawn_by_the_seed_and_more_of_them_hold_those():
  task = tasks.make('sentiment', {})
  few, more, other = (few_rows.subsample(task, count, seed).rows('train') for count, seed in ((16, 0), (64, 0), (16, 1)))
  texts = lambda rows: {row['text'] for row in rows}
  assert len(few) == 16 and texts(few) < texts(more) < texts(task.rows('train')) and texts(few) != texts(other)
  assert few_rows.subsample(task, 16, 0).rows('test') == task.rows('test')
  with pytest.raises(InputError, match=r'task.rows=2201: must be 0 \(all\) or up to 2200'):
    few_rows.subsample(task, 2201, 0)


def test_own_files_give_their_rows_in_order_and_blank_lines_do_not_count(tmp_path):
  task = tasks.make('files', {**FIELDS, 'test': write(tmp_path / 'a.jsonl', [ROWS[0], '', *ROWS[1:], '  '])})
  assert task.splits == {'test': ROWS} and task.metrics == ('accuracy', 'macro_f1')
  with pytest.raises(InputError, match=r'task files has no train split \(it has test\)'):
    task.rows('train')


def test_a_file_with_a_byte_order_mark_is_read(tmp_path):
  (tmp_path / 'a.jsonl').write_bytes(b'\xef\xbb\xbf' + json.dumps(ROWS[0]).encode() + b'\r\n')
  assert sources.read_jsonl(tmp_path / 'a.jsonl') == ROWS[:1]


def test_a_saved_data_set_gives_its_rows(tmp_path):
  import datasets
  datasets.DatasetDict({'train': datasets.Dataset.from_list(ROWS), 'validation': datasets.Dataset.from_list(ROWS[:2])}
                       ).save_to_disk(str(tmp_path))
  task = tasks.make('datasets', {**FIELDS, 'path': str(tmp_path)})
  assert task.splits == {'train': ROWS, 'valid': ROWS[:2]}
  refused(r'task.train=a: .* no such split', 'datasets', path=str(tmp_path), train='a', valid='b', test='c')


def test_a_data_set_that_is_not_there(tmp_path):
  refused('task.path=.*nothing', 'datasets', path=str(tmp_path / 'nothing'))
  (tmp_path / 'empty').mkdir()
  refused('task.path=.*empty', 'datasets', path=str(tmp_path / 'empty'))


def test_a_file_that_is_not_there(tmp_path):
  assert str(tmp_path / 'no.jsonl') in refused('no such file', test=str(tmp_path / 'no.jsonl'))
  assert str(tmp_path) in refused('is a folder without .txt or .md files', test=str(tmp_path))


@pytest.mark.parametrize('rows', [[], ['', '  ']])
def test_a_file_without_rows(tmp_path, rows):
  refused('a.jsonl: holds no rows', train=write(tmp_path / 'a.jsonl', rows))


@pytest.mark.parametrize('line, what', [('{"text": "x", "label": }', 'is not JSON'), ('{"text": "x"', 'is not JSON'),
                                        ('["x", "no"]', 'is not a JSON object'), ('7', 'is not a JSON object')])
def test_a_line_that_is_no_json_object(tmp_path, line, what):
  refused(f'a.jsonl: line 7 {what}', test=write(tmp_path / 'a.jsonl', [*ROWS[:6], line, *ROWS[6:]]))


def test_a_file_that_is_not_utf8(tmp_path):
  text = '{"text": "a", "label": "no"}\n{"text": "Größe", "label": "no"}\n'
  (tmp_path / 'a.jsonl').write_bytes(text.encode('latin-1'))
  refused('a.jsonl: line 2 is not UTF-8 text', test=str(tmp_path / 'a.jsonl'))


def test_a_row_that_lacks_a_column(tmp_path):
  file = write(tmp_path / 'a.jsonl', [*ROWS[:2], {'label': 'no', 'body': 1}])
  message = refused("test row 3: no column 'text'", test=file)
  assert 'columns: label, body' in message
  refused("test row 1: no column 'answer'", target=' {answer}', choices=None, test=write(tmp_path / 'a.jsonl', ROWS))


def test_a_label_outside_the_choices(tmp_path):
  rows = [*ROWS[:4], {'text': 'x', 'label': 'maybe'}]
  refused(r"valid row 5: label 'maybe' is not among the choices \(no, yes\)", valid=write(tmp_path / 'a.jsonl', rows))


def test_an_empty_target(tmp_path):
  rows = [ROWS[0], {'text': 'x', 'label': ' '}]
  refused('test row 2: the target is empty', choices=None, test=write(tmp_path / 'a.jsonl', rows))


@pytest.mark.parametrize('choices', [('no',), ('no', 'yes', 'no')])
def test_choices_that_are_no_choice(tmp_path, choices):
  refused('task.choices=.*two or more, each once', choices=choices, test=write(tmp_path / 'a.jsonl', ROWS))


def test_a_target_of_two_columns_cannot_be_ranked(tmp_path):
  refused('exactly one column', target=' {label}{text}', test=write(tmp_path / 'a.jsonl', ROWS))


@pytest.mark.parametrize('field, template', [('prompt', 'a { b'), ('target', ' {label'), ('prompt', '{text} {}'),
                                             ('prompt', '{text:d}'), ('prompt', '{text.nothing}'),
                                             ('target', ' {label!z}')])
def test_a_template_that_is_broken(tmp_path, field, template):
  with pytest.raises(InputError):
    tasks.make('files', {**FIELDS, field: template, 'choices': None, 'test': write(tmp_path / 'a.jsonl', ROWS)})


@pytest.mark.parametrize('messages', ['hi', [], [1], [{'role': 'user'}], [{'role': 'user', 'content': None}], None])
def test_messages_that_are_no_conversation(tmp_path, messages):
  rows = [{'messages': [{'role': 'user', 'content': 'hi'}], 'label': 'no'}, {'messages': messages, 'label': 'yes'}]
  tasks.make('files', {**FIELDS, 'test': write(tmp_path / 'a.jsonl', rows[:1])})
  refused('test row 2: messages', test=write(tmp_path / 'a.jsonl', rows))


def test_braces_written_twice_are_braces(tmp_path):
  task = tasks.make('files', {**FIELDS, 'prompt': '{{{text}}}', 'test': write(tmp_path / 'a.jsonl', ROWS)})
  assert examples(task, task.rows('test'), of_bytes())[0].prompt == '{text 0}'


def test_numbers_can_be_labels(tmp_path):
  rows = [{'text': 'a', 'label': 0}, {'text': 'b', 'label': 1}]
  task = tasks.make('files', {**FIELDS, 'choices': ('0', '1'), 'test': write(tmp_path / 'a.jsonl', rows)})
  assert [e.target for e in examples(task, rows, of_bytes())] == [' 0', ' 1']


@pytest.mark.parametrize('name, fields, match', [
    ('sentimant', {}, "task.name='sentimant': no such task .*sentiment"),
    ('files', {}, 'task.train, task.valid or task.test'),
    ('datasets', {}, 'task.path'), ('sentiment', {'test': 'x.jsonl'}, 'task.name=files'),
    ('files', {'prompt': None, 'test': 'x.jsonl'}, 'x.jsonl: no such file')])
def test_fields_that_do_not_go_together(name, fields, match):
  refused(match, name, **fields)


def test_a_fingerprint_is_of_rows_and_their_order():
  assert sources.fingerprint(ROWS) == sources.fingerprint([dict(reversed(row.items())) for row in ROWS])
  assert sources.fingerprint(ROWS) != sources.fingerprint(ROWS[::-1])


def test_a_task_without_a_target_says_what_to_give(tmp_path):
  refused('test row 1: task.target is empty: give a template', target=None, choices=None,
          test=write(tmp_path / 'a.jsonl', ROWS))


@pytest.mark.parametrize('column', ['text', 'label'])
@pytest.mark.parametrize('raw, says', [
    ('null', 'is null'), ('NaN', 'is nan'), ('-Infinity', 'is -inf'), ('[1]', 'is a list'), ('{"a": 1}', 'is an object'),
    (r'"a \ud800 b"', r"'\\ud800', half of a surrogate pair")])
def test_only_text_numbers_and_truth_values_become_words(tmp_path, column, raw, says):
  """In the prompt and in the target; a row that is not asked of is left alone."""
  path = tmp_path / 'a.jsonl'
  values = {'text': '"x"', 'label': '"yes"', 'unused': 'null'} | {column: raw}
  path.write_text('{"text": "x", "label": "no"}\n{' + ', '.join(f'"{k}": {v}' for k, v in values.items()) + '}\n')
  refused(f"test row 2: column '{column}' .*{says}", test=str(path), choices=None)


@pytest.mark.parametrize('raw, text', [('3', '3'), ('-0.5', '-0.5'), ('true', 'True'), ('"ä"', 'ä'), ('1e3', '1000.0')])
def test_numbers_and_truth_values_are_written_as_python_writes_them(tmp_path, raw, text):
  path = tmp_path / 'a.jsonl'
  path.write_text(f'{{"text": "x", "label": {raw}}}\n')
  task = tasks.make('files', {**FIELDS, 'choices': None, 'test': str(path)})
  assert examples(task, task.rows('test'), of_bytes())[0].target == f' {text}'


@pytest.mark.parametrize('line, says', [
    ('{"text": "x", "label": ' + '1' * 5000 + '}', 'line 1 is not JSON'), ('[' * 100_000, 'line 1 is nested too deeply'),
    ('["x"]', 'line 1 is not a JSON object'), ('PAR1xxxx', 'is Parquet; name it .parquet'),
    ('text,label', 'line 1 is not JSON')])
def test_what_is_no_json_lines_is_named(tmp_path, line, says):
  (tmp_path / 'a.jsonl').write_text(line + '\n')
  refused(f'a.jsonl: {says}', test=str(tmp_path / 'a.jsonl'))


@pytest.mark.parametrize('template', [' {label:d}', ' {label:.2f}'])
def test_a_label_to_choose_is_put_in_as_text(tmp_path, template):
  path = write(tmp_path / 'a.jsonl', [{'text': 'x', 'label': 1}])
  refused('test row 1: template .* cannot be filled in', test=path, target=template, choices=('0', '1'))
  task = tasks.make('files', {**FIELDS, 'choices': None, 'target': template, 'test': path})      # a number that is written
  assert examples(task, task.rows('test'), of_bytes())[0].target in (' 1', ' 1.00')


def test_the_assistants_turn_that_messages_end_with_is_the_target(tmp_path):
  turns = [{'role': 'user', 'content': 'Hello?'}, {'role': 'assistant', 'content': 'Hi.'}]
  path = write(tmp_path / 'a.jsonl', [{'messages': turns}, {'messages': [*turns, *turns]}])
  task = tasks.make('files', {'test': path})

  class Chat:
    @staticmethod
    def chat(messages):
      return '|'.join(f'{turn["role"]}: {turn["content"]}' for turn in messages) + '|assistant:'

  rows = task.rows('test')
  assert [prompts.answer(task, row) for row in rows] == ['Hi.', 'Hi.']
  assert prompts.render(task, rows[0], Chat) == 'user: Hello?|assistant:'
  assert prompts.render(task, rows[1], Chat) == 'user: Hello?|assistant: Hi.|user: Hello?|assistant:'
  assert prompts.render(task, rows[0], Chat, [rows[0]]) == 'user: Hello?|assistant: Hi.|user: Hello?|assistant:'


@pytest.mark.parametrize('name', ['a.json', 'a.csv', 'a.parquet', 'a.JSON'])
def test_a_table_is_not_prose(tmp_path, name):
  (tmp_path / name).write_text('{"text": "x"}')
  with pytest.raises(InputError, match=f'{name}: .* is not prose; task text reads text'):
    tasks.make('text', {'test': str(tmp_path / name)})


def test_json_lines_are_known_by_their_ending_in_any_case(tmp_path):
  for name in ('a.JSONL', 'b.ndjson', 'c.jsonl'):
    (tmp_path / name).write_text('{"text": "x"}\n')
    assert tasks.make('text', {'test': str(tmp_path / name)}).rows('test') == [{'text': 'x'}]
  (tmp_path / 'd.md').write_text('one\n\ntwo')
  assert len(tasks.make('text', {'test': str(tmp_path / 'd.md')}).rows('test')) == 2


@pytest.mark.parametrize('written, meant', [
    (r'a\nb', 'a\nb'), (r'a\\nabla b', r'a\nabla b'), (r'\alpha \beta', r'\alpha \beta'), (r'a\tb', 'a\tb'), ('a\nb', 'a\nb'),
    (r'c:\\new', r'c:\new')])
def test_a_templates_backslashes_mean_what_they_mean_in_python(written, meant):
  assert templates.unescaped(written) == meant
  assert templates.unescaped(templates.escaped(meant)) == meant and '\n' not in templates.escaped(meant)


def test_a_template_of_a_config_file_is_taken_as_it_is(tmp_path):
  task = tasks.make('files', {**FIELDS, 'prompt': r'\nabla {text}', 'test': write(tmp_path / 'a.jsonl', ROWS)})
  assert examples(task, task.rows('test'), of_bytes())[0].prompt.startswith(r'\nabla ')


def test_an_answer_that_nothing_asks_for_is_refused(tmp_path):
  """The target would stand in its own prompt."""
  rows = [{'messages': [{'role': 'assistant', 'content': 'X'}]}]
  with pytest.raises(InputError, match="holds the assistant's turn alone"):
    tasks.make('files', {'test': write(tmp_path / 'a.jsonl', rows)})


def test_a_column_that_is_given_twice_is_refused(tmp_path):
  (tmp_path / 'a.jsonl').write_text('{"text": "x", "label": "no", "label": "yes"}\n')
  with pytest.raises(InputError, match=r"line 1 is not JSON .*'label' is given twice"):
    tasks.make('files', {'test': str(tmp_path / 'a.jsonl'), 'prompt': '{text}', 'target': '{label}'})


def prepared(folder, leaked, **said):
  """A folder as `prepare` leaves it, of 6, 2 and 3 rows."""
  folder.mkdir(exist_ok=True)
  for split, rows in (('train', ROWS[:6]), ('valid', ROWS[4:6]), ('test', ROWS[6:])):
    write(folder / f'{split}.jsonl', rows)
  told = {'splits': ['train', 'valid', 'test'], **FIELDS, **({} if leaked is None else {'leaked': leaked}), **said}
  (folder / 'task.json').write_text(json.dumps(told))
  return str(folder)


def test_a_prepared_folder_says_which_rows_training_holds(tmp_path):
  task = tasks.make('files', {'path': prepared(tmp_path / 'a', {'valid': [1, 0], 'test': [2]})})
  assert [task.leaked_rows(split) for split in sources.SPLITS] == [set(), {0, 1}, {2}]
  assert few_rows.subsample(task, 2, 0).leaked_rows('test') == {2}
  for none in (None, {}, {'test': []}):
    task = tasks.make('files', {'path': prepared(tmp_path / 'b', none)})
    assert not any(task.leaked_rows(split) for split in sources.SPLITS)


def test_what_leaked_is_said_of_the_prepared_files_alone(tmp_path):
  folder, other = prepared(tmp_path / 'a', {'valid': [0], 'test': [2]}), write(tmp_path / 'other.jsonl', ROWS[:1])
  def leaked(**named):
    return tasks.make('files', {'path': folder, **named}).leaked or {}
  assert leaked() == leaked(test=f'{folder}/../a/test.jsonl') == {'valid': {0}, 'test': {2}}
  assert leaked(test=other) == {'valid': {0}} and leaked(valid=other) == {'test': {2}}
  assert leaked(train=other) == {}                          # what is trained on then, nobody has looked at


@pytest.mark.parametrize('leaked, says', [
    ({'test': [3]}, 'leaked names row 3 of test, whose 3 rows are numbered from 0'), ({'valid': [0, -1]}, 'row -1 of valid'),
    ({'test': ['1']}, "entry 1 of test holds '1'"), ({'test': [True]}, 'entry 1 of test holds True'),
    ({'test': 1}, 'test holds 1, not a list'), ([1], 'leaked holds .1., not an object'),
    ({'train': [0]}, "leaked names 'train'"), ({'tset': [0]}, "leaked names 'tset'")])
def test_damaged_numbers_of_leaked_rows_are_refused_by_file(tmp_path, leaked, says):
  refused(f'a/task.json: is damaged: .*{says}', path=prepared(tmp_path / 'a', leaked))


ANSWERS = [{'q': 'Who?', 'a': ['Ada', 'Ada Lovelace']}, {'q': 'Where?', 'a': ['London']}, {'q': 'When?', 'a': 'in 1843'}]


def test_a_targets_column_may_be_a_list_of_right_answers(tmp_path):
  """The first is what training learns; rows have as many as they have."""
  task = tasks.make('files', {'prompt': '{q}', 'target': ' {a}', 'test': write(tmp_path / 'a.jsonl', ANSWERS)})
  assert [tasks.references_of(task, row) for row in ANSWERS] == [(' Ada', ' Ada Lovelace'), (' London',), (' in 1843',)]
  assert [e.target for e in examples(task, ANSWERS, of_bytes())] == [' Ada', ' London', ' in 1843']


@pytest.mark.parametrize('fields, row, says', [
    ({}, {'a': []}, r"row 2: column 'a' is a list, which must hold one text or more and nothing else"),
    ({}, {'a': ['x', 3]}, r"row 2: column 'a' is a list, which must hold one text"),
    ({}, {'a': ['x', ' ']}, 'row 2: the target is empty'),
    ({'target': ' {a} {q}'}, {'q': ['x'], 'a': ['x']}, "column 'q' is a list: only text"),
    ({'target': ' {a} {b}'}, {'a': ['x'], 'b': ['y']}, "columns 'a' and 'b' are lists"),
    ({'prompt': '{a}'}, {'a': ['x']}, "column 'a' is a list: only text"),
    ({'choices': ('Ada', 'Bob')}, {'a': ['Ada']}, "label \\['Ada'\\] is not among the choices"),
    ({'rejected': ' {a}', 'target': ' {q}'}, {'a': ['x']}, "column 'a' is a list: only text")])
def test_elsewhere_and_of_anything_else_a_list_is_refused(tmp_path, fields, row, says):
  rows = [{'q': 'Who?', 'a': 'Ada', 'b': 'c'}, {'q': 'Who?', 'b': 'c', **row}]
  refused(says, **{'prompt': '{q}', 'target': ' {a}', 'choices': None, 'test': write(tmp_path / 'a.jsonl', rows), **fields})


def test_plain_text_is_measured_by_its_loss_alone(tmp_path):
  (tmp_path / 'a.txt').write_text('Some words.')
  task = tasks.make('text', {'test': f'{tmp_path}/a.txt', 'metrics': ('bits_per_byte', 'perplexity')})
  assert task.metrics and not task.writes
  with pytest.raises(InputError, match=r'only its loss is measured, as task\.metrics also by perplexity and bits_per_byte'):
    tasks.make('text', {'test': f'{tmp_path}/a.txt', 'metrics': ('bleu',)})


def test_fewer_rows_that_are_scored_keep_clusters_whole_and_know_which_leaked():
  rows = [{'text': f't{n}', 'label': 'a', 'passage': n // 3} for n in range(30)]
  leaked = {'test': frozenset(range(0, 30, 3))}
  task = tasks.Task('files', {'test': rows}, '{text}', ' {label}', cluster='passage', leaked=leaked)
  few = few_rows.subsample(task, 10, 0, 'test')
  assert [row['passage'] for row in few.rows('test')] == sorted([*{row['passage'] for row in few.rows('test')}] * 3)
  assert len(few.rows('test')) == 12 and few.leaked_rows('test') == {0, 3, 6, 9}
  alone = few_rows.subsample(task._replace(cluster=''), 10, 0, 'test').rows('test')
  assert alone == [rows[n] for n in sorted(np.random.default_rng(0).permutation(30)[:10])]
