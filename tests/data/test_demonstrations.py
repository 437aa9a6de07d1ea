"""Which rows a prompt shows."""

from collections import Counter

import pytest

from research.data import demonstrations, tasks
from research.errors import InputError

pytestmark = pytest.mark.quick

WORDS = ('cheap phone', 'slow phone', 'good film', 'bad film', 'cheap film', 'warm soup', 'cold soup', 'warm bread',
         'old phone')
ROWS = [{'text': text, 'label': ('no', 'yes')[i % 2]} for i, text in enumerate(WORDS)]
NEW = {'text': 'new'}
TASK = tasks.Task('own', {'train': ROWS}, 'Q: {text}\nA:', ' {label}', ('no', 'yes'), ('accuracy',))


@pytest.mark.parametrize('shots', [1, 4, 7])
def test_balanced_rows_are_as_many_of_each_choice_and_the_same_for_all_rows(shots):
  choose = demonstrations.choose(TASK, shots, 'balanced', seed=1)
  shown = choose(NEW)
  counts = Counter(row['label'] for row in shown)
  assert sum(counts.values()) == shots and abs(counts['no'] - counts['yes']) <= 1
  assert choose({'text': 'newer'}) == shown and len({row['text'] for row in shown}) == shots
  assert demonstrations.choose(TASK, 4, 'balanced', seed=1)(NEW) != demonstrations.choose(TASK, 4, 'balanced', seed=2)(NEW)


def test_balanced_rows_end_with_a_label_that_the_seed_draws():
  last = [demonstrations.choose(TASK, shots, 'balanced', seed)(NEW)[-1]['label'] for seed in range(20) for shots in (2, 4)]
  assert min(Counter(last).values()) > 8


@pytest.mark.parametrize('selection', demonstrations.SELECTIONS)
def test_a_row_sees_neither_itself_nor_its_duplicate_from_another_split(selection):
  choose = demonstrations.choose(TASK, 4, selection, seed=0)
  for row in ROWS:
    for asked in (row, {**row, 'label': '?'}):
      shown = choose(asked)
      assert len(shown) == 4 and row['text'] not in {one['text'] for one in shown}


def test_where_too_few_others_are_left_the_row_is_named():
  choose = demonstrations.choose(TASK, 9, 'random', seed=0)
  assert len(choose(NEW)) == 9
  with pytest.raises(InputError, match=r"only 8 training rows of 9 can be shown before 'Q: bad film"):
    choose(ROWS[3])


def test_nearest_rows_share_the_most_words_the_last_one_most_and_never_the_row_itself():
  choose = demonstrations.choose(TASK, 2, 'nearest', seed=0)
  assert choose({'text': 'a warm soup'})[-1] == ROWS[5]
  assert {row['text'] for row in choose(ROWS[5])} <= {'cold soup', 'warm bread'}
  assert all(row is not ROWS[0] for row in choose(ROWS[0]))
  fewer, more = (demonstrations.choose(TASK, shots, 'nearest', seed=0)({'text': 'a cheap phone'}) for shots in (1, 3))
  assert more[-1:] == fewer and fewer[0]['text'] == 'cheap phone'


@pytest.mark.parametrize('task, shots, selection, says', [
    (TASK._replace(choices=()), 2, 'balanced', 'needs a task with choices'),
    (TASK._replace(splits={'train': ROWS[::2]}), 4, 'balanced', "too few rows of 'yes'"),
    (TASK, 9, 'nearest', 'only 9 rows'),
    (TASK._replace(splits={'train': [{'text': '?', 'label': 'no'}] * 3}), 2, 'nearest', 'no words')])
def test_rows_that_cannot_be_chosen_so_are_refused(task, shots, selection, says):
  with pytest.raises(InputError, match=says):
    demonstrations.choose(task, shots, selection, seed=0)
