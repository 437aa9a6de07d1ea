"""Where arms disagree the report shows rows, whole or cut between words, in a table grouped by who is right."""

import json

import matplotlib.pyplot as plt
import pytest

from research import look
from research.studies import confused as parts
from research.studies import confusion_figure, disagreements, outcomes
from research.studies.findings import Part

pytestmark = pytest.mark.quick
TEXT = 'Loved it, and <b>would</b> | come again. '


def line(number, said, target='yes', **more):
  return {'prompt': f'Text: {number}', 'prediction': said, 'target': target, 'loss': 1.0, 'tokens': 1,
          'row': {'text': f'{number}: {TEXT}', 'label': target}, **more}


def found(workdir, arms):
  """arms: {name: its lines}."""
  for arm, lines in arms.items():
    folder = workdir / outcomes.RUNS / arm / 'predictions'
    folder.mkdir(parents=True)
    (folder / 'test.jsonl').write_text(''.join(json.dumps(one) + '\n' for one in lines))
  rows = [{'key': arm, 'arm': arm, 'selected': True} for arm in arms]
  return disagreements.found({'arms': [{'arm': arm} for arm in arms], 'split': 'test'}, rows, workdir)


def test_rows_stand_in_a_table_with_the_truth_marked_and_grouped_by_who_is_right(tmp_path):
  answers = {'one': ['yes'] * 8 + ['no', 'no'], 'other': ['no'] * 7 + ['yes', 'yes', 'no']}
  sentences, table = found(tmp_path, {arm: [line(n, one) for n, one in enumerate(of)] for arm, of in answers.items()})
  assert sentences == ['On 8 of 10 test examples some arm answers otherwise than another (the first seed of each).',
                       'Who is right there: one 7; other 1.']
  assert table[0] == ('right', 'text', 'truth', 'one', 'other')      # the label is the truth, and no column of its own
  assert len(table) == 1 + disagreements.SHOWN and [row[0] for row in table[1:]] == ['one'] * 5 + ['other']
  assert table[1][1:] == (f'0: {TEXT.strip()}', 'yes', '✓ yes', 'no') and table[-1][3:] == ('no', '✓ yes')


def test_every_group_is_shown_before_any_is_shown_twice(tmp_path):
  answers = {'a': ['x', 'yes', 'yes', 'yes', 'n'], 'b': ['y', 'no', 'no', 'yes', 'yes'], 'c': ['z', 'no', 'no', 'no', 'no']}
  _, table = found(tmp_path, {arm: [line(n, one) for n, one in enumerate(of)] for arm, of in answers.items()})
  assert [row[0] for row in table[1:]] == ['a', 'a', 'none', 'a, b', 'b']


def test_any_of_several_right_answers_is_right_and_several_columns_are_named(tmp_path):
  more = {'references': ['yes', 'yeah'], 'row': {'a': 'A', 'b': ['B', 1]}}
  _, table = found(tmp_path, {'one': [line(0, 'yeah', **more)], 'other': [line(0, 'no', **more)]})
  assert table == [('right', 'row', 'truth', 'one', 'other'), ('one', 'a: A · b: ["B", 1]', 'yes', '✓ yeah', 'no')]


def test_nothing_is_cut_in_mid_word():
  words = 'word ' * 100
  assert outcomes.cut(words) == 'word ' * 39 + 'word…' and outcomes.cut('short') == 'short'
  assert outcomes.cut('字' * 300) == '字' * (outcomes.TEXT - 1) + '…'      # no blanks: anywhere


def test_of_prompts_alone_the_demonstrations_that_others_have_too_are_left_out():
  shared = 'Review: good\nWebsite: imdb\n\n'
  lines = [{'prompt': f'{"iew: cut " * 60}\n\n{shared}Review: number {n}\nWebsite:', 'target': 'x'} for n in range(3)]
  assert [row['prompt'] for row in disagreements.rows_shown(lines)] == [f'Review: number {n}\nWebsite:' for n in range(3)]
  alike = [{'prompt': 'Say it.', 'target': 'x'}] * 2
  assert [row['prompt'] for row in disagreements.rows_shown(alike)] == ['Say it.', 'Say it.']


def test_rows_are_kept_where_runs_are_not(tmp_path):
  lines = [line(n, 'yes') for n in range(3)]
  (tmp_path / outcomes.RUNS / 'one' / 'predictions').mkdir(parents=True)
  (tmp_path / outcomes.RUNS / 'one' / 'predictions' / 'test.jsonl').write_text(''.join(json.dumps(x) + '\n' for x in lines))
  outcomes.write([{'key': 'one', 'model': 'm', 'task': 't', 'result': {}, 'selected': True}], tmp_path)
  (tmp_path / outcomes.RUNS).rename(tmp_path / 'gone')
  kept = outcomes.predictions(tmp_path, 'one', 'test')
  assert disagreements.rows_shown(kept) == disagreements.rows_shown(lines)
  assert disagreements.rows_shown(kept)[2] == {'text': f'2: {TEXT.strip()}'}


def confused(workdir, choices=('yes', 'no')):
  """(comparison, rows) of an arm that answers yes, yes, no and no class at all, where yes, no, no and no are right."""
  said, right = ('yes', 'yes', 'no', '?'), ('yes', 'no', 'no', 'no')
  folder = workdir / outcomes.RUNS / 'one' / 'predictions'
  folder.mkdir(parents=True)
  lines = [line(n, *one, choices=dict.fromkeys(choices, 0.0)) for n, one in enumerate(zip(said, right))]
  (folder / 'test.jsonl').write_text(''.join(json.dumps(x) + '\n' for x in lines))
  case = {'model': 'm', 'task': 't'}
  rows = [{**case, 'key': 'one', 'arm': 'one', 'selected': True}]
  return {**case, 'arms': [{'arm': 'one'}], 'split': 'test', 'seeds': [0]}, rows


def test_a_confusion_matrix_counts_by_right_class_and_answer(tmp_path):
  c, rows = confused(tmp_path)
  classes, found = confusion_figure.totals(c, rows, tmp_path)
  assert classes == ['yes', 'no'] and found['one'].tolist() == [[1, 0, 0], [1, 1, 1]]
  with plt.rc_context(look.STYLE):
    title, caption = confusion_figure.draw(c, rows, tmp_path, {'one': '#0072B2'})
    [axis] = plt.gcf().axes
    assert [text.get_text() for text in axis.get_xticklabels()] == ['yes', 'no', 'other']      # what is no class is not lost
    assert [text.get_text() for text in axis.texts] == ['1', '0', '0', '1', '1', '1']
    plt.close('all')
  [first, part, last] = parts.parts(c, rows, tmp_path, [Part('first', []), Part('last', [])])
  assert part.sentences == ['one: most often no is taken for yes (1 of its 3).'] and part.figure == 'confusion'


@pytest.mark.parametrize('choices', [(), ('yes',), [str(n) for n in range(13)]], ids=('none', 'one', 'too many'))
def test_where_there_are_no_classes_to_confuse_there_is_no_matrix(choices, tmp_path):
  c, rows = confused(tmp_path, choices)
  assert confusion_figure.draw(c, rows, tmp_path, {'one': '#0072B2'}) is None
  assert parts.parts(c, rows, tmp_path, [Part('last', [])]) == [Part('last', [])]
