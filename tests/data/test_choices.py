"""Choices of each row's own, and which of them an answer names: the forms in which public data have them."""

import json

import pytest

from research.data import choices, demonstrations, prompts, tasks
from research.data.tokenizer import of_bytes
from research.errors import InputError

pytestmark = pytest.mark.quick

OPTIONS = ['the sun', 'a lamp', 'ice']


def made(tmp_path, rows, **fields):
  path = tmp_path / 'rows.jsonl'
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  fields = {'prompt': 'Question: {q}\nAnswer:', 'target': ' {answer}', 'choices': '{options}', 'test': str(path), **fields}
  return tasks.make('files', fields)


def labels(task):
  return [tasks.label_of(task, row) for row in task.rows('test')]


def of(answers, options=OPTIONS, column='options'):
  return [{'q': f'q{i}', column: options, 'answer': answer} for i, answer in enumerate(answers)]


@pytest.mark.parametrize('answers, expected', [
    ([0, 2, 1], [0, 2, 1]), ([1, 3, 2], [0, 2, 1]),              # from 1: none is 0, and one is as large as there are choices
    ([1, 2], [1, 2]), (['0', '2'], [0, 2]), (['1', '3'], [0, 2]),
    (['A', 'C', 'b'], [0, 2, 1]), (['A', '3', '1'], [0, 2, 0]),  # ARC: letters, and numbers from 1
    (['ice', 'the sun'], [2, 0]), ([' ice ', 'a lamp'], [2, 1])])
def test_an_answer_is_a_number_a_letter_or_a_text(tmp_path, answers, expected):
  task = made(tmp_path, of(answers))
  assert labels(task) == [OPTIONS[i] for i in expected] and task.metrics == ('accuracy',)


def test_answers_are_read_alike_in_all_rows_so_a_text_that_is_a_letter_is_no_text_elsewhere(tmp_path):
  blood = ['B', 'A', 'AB', 'O']
  assert labels(made(tmp_path, [*of(['A'], blood), *of(['C'])])) == ['B', 'ice']      # the letter of the first
  assert labels(made(tmp_path, of(['A', 'AB'], blood))) == ['A', 'AB']
  assert labels(made(tmp_path, of(['2', '7'], ['7', '2', '5']))) == ['2', '7']
  assert labels(made(tmp_path, of([2, 0], [3, 1, 0]))) == ['0', '3']                  # numbers that are no text are numbers


def test_rows_have_as_many_choices_as_they_like_and_each_is_a_target(tmp_path):
  rows = [{'q': 'x', 'options': ['a', 'b'], 'answer': 1}, {'q': 'y', 'options': ['c', 'd', 'e', 5], 'answer': 0}]
  found = prompts.examples(task := made(tmp_path, rows), task.rows('test'), of_bytes())
  assert [e.target for e in found] == [' b', ' c'] and [[*e.choices] for e in found] == [['a', 'b'], ['c', 'd', 'e', '5']]
  assert found[1].choices['d'] == [*b' d'] and found[0].prompt == 'Question: x\nAnswer:'
  assert found[1].lengths == ((1, 1),) * 4


@pytest.mark.parametrize('row, fields, expected', [
    ({'question': 'Hot?', 'choices': {'text': OPTIONS, 'label': ['A', 'B', 'C']}, 'answerKey': 'B'},      # ARC, QuaRTz
     {'prompt': '{question}', 'target': ' {answerKey}', 'choices': '{choices[text]}'}, ('Hot?', ' a lamp', OPTIONS)),
    ({'ctx': 'He', 'endings': OPTIONS, 'label': '2'},                                                     # HellaSwag
     {'prompt': '{ctx}', 'target': ' {label}', 'choices': ('{endings}',)}, ('He', ' ice', OPTIONS)),
    ({'goal': 'Warm up', 'sol1': 'ice', 'sol2': 'the sun', 'label': 1},                                   # PIQA
     {'prompt': '{goal}:', 'target': ' {label}', 'choices': ('{sol1}', '{sol2}')},
     ('Warm up:', ' the sun', ['ice', 'the sun'])),
    ({'question': 'Hot?', 'choices': OPTIONS, 'answer': 1},                                               # MMLU, by letters
     {'prompt': '{question}\nA. {choices[0]}\nB. {choices[1]}\nAnswer:', 'target': ' {answer}', 'choices': ('A', 'B', 'C')},
     ('Hot?\nA. the sun\nB. a lamp\nAnswer:', ' B', ['A', 'B', 'C'])),
    ({'question': 'Hot?', 'choices': OPTIONS, 'answer': 1},                                               # MMLU, by texts
     {'prompt': '{question}', 'target': ' {answer}', 'choices': '{choices}'}, ('Hot?', ' a lamp', OPTIONS))])
def test_forms_of_public_data(tmp_path, row, fields, expected):
  task = made(tmp_path, [row], **fields)
  [found] = prompts.examples(task, task.rows('test'), of_bytes())
  assert (found.prompt, found.target, [*found.choices]) == expected


@pytest.mark.parametrize('rows, fields, says', [
    (of(['x']), {}, r"test row 1: answer 'x': there are 3 choices"),
    (of(['ice', 'snow']), {}, r"test row 2: answer 'snow' is none of the row's choices \(the sun, a lamp, ice\)"),
    (of([0, 3]), {}, 'test row 2: answer 3: there are 3 choices, numbered from 0'),
    (of([-1]), {}, 'answer -1: there are 3'),
    (of([0], ['a']), {}, 'two or more choices, each once'),
    (of([0], ['a', ' a']), {}, 'two or more choices, each once'),
    (of([0], ['a', None]), {}, 'choice 2 of {options} is null'),
    (of([0], ['a', ' ']), {}, 'choice 2 of {options} is empty'),
    (of([0], 'a, b'), {}, "column 'options' is no list of choices"),
    (of([0]), {'choices': '{opts}'}, "no column 'opts'"),
    (of([0]), {'prompt': '{options[7]}'}, r"column 'options' holds nothing at \[7\]"),
    (of([0]), {'prompt': '{options[0].__class__}'}, "column 'options' holds nothing at"),
    (of([0]), {'prompt': '{options}'}, "column 'options' is a list"),
    (of([0]), {'metrics': ('accuracy', 'macro_f1')}, 'macro_f1 has no meaning where each row has choices of its own'),
    (of([0]), {'scoring': 'bytes'}, "task.scoring='bytes': must be one of sum, mean, char, byte, pmi"),
    (of([0]), {'choices': (), 'scoring': 'pmi', 'prompt': '{q}', 'target': '{q}'}, 'of a task with task.choices'),
    (of([0]), {'choices': (), 'metrics': ('ece',), 'target': '{q}'}, 'ece is of a task with task.choices')])
def test_what_cannot_be_is_refused_with_its_row(tmp_path, rows, fields, says):
  with pytest.raises(InputError, match=says):
    made(tmp_path, rows, **fields)


def test_demonstrations_show_the_answers_text(tmp_path):
  task = made(tmp_path, of(['C', 'A', 'B']))
  task = task._replace(splits={'train': task.rows('test')})
  [found] = prompts.examples(task, task.rows('train')[:1], of_bytes(), demonstrations.choose(task, 2, 'random', 0))
  assert sorted(found.prompt.split('\n\n')[:2]) == ['Question: q1\nAnswer: the sun', 'Question: q2\nAnswer: a lamp']
  with pytest.raises(InputError, match='needs a task with choices that are the same for all rows'):
    demonstrations.choose(task, 2, 'balanced', 0)


def test_choices_that_begin_alike_are_told_and_those_that_are_the_same_tokens_refused(tmp_path):
  task = made(tmp_path, of([0, 1], ['ice', 'ice cream', 'tea']))
  found = prompts.examples(task, task.rows('test'), of_bytes())
  assert 'in 2 of 2 rows (first: row 0) a choice is the beginning of another' in prompts.told(task, found, 'test')
  assert not prompts.told(task._replace(scoring='byte'), found, 'test')
  fixed = task._replace(choices=('ice', 'ice cream'), numbered=0)
  with pytest.raises(InputError, match='could never prefer the longer'):
    prompts.examples(fixed, task.rows('test'), of_bytes())
  assert len(prompts.examples(fixed._replace(scoring='mean'), task.rows('test'), of_bytes())) == 2


def test_the_neutral_prompt_has_the_templates_own_words_alone(tmp_path):
  task = made(tmp_path, of([0]), scoring='pmi', prompt='Q: {q} ({options[0]} or {options[2]})\nA:')
  [found] = prompts.examples(task, task.rows('test'), of_bytes())
  assert found.content_free == ([of_bytes().bos, *b'Q:  ( or )\nA:'],)
  assert choices.of_row(('{options}',), task.rows('test')[0]) == tuple(OPTIONS)


def test_lengths_are_of_the_choice_without_the_templates_blank(tmp_path):
  task = made(tmp_path, of([0], ['Öl', 'x y']), target=' {answer}.')
  [found] = prompts.examples(task, task.rows('test'), of_bytes())
  assert found.lengths == ((3, 4), (4, 4))
