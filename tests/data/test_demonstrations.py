"""Which rows a prompt shows."""

from collections import Counter

import pytest

from research.data import demonstrations, tasks
from research.errors import InputError

pytestmark = pytest.mark.quick

WORDS = ('cheap phone', 'slow phone', 'good film', 'bad film', 'cheap film', 'warm soup', 'cold soup', 'warm bread',
         'old phone')
ROWS = [{'text': text, 'label': ('no', 'yes')[i % 2]} for i, text in enumerate(WORDS)]
TASK = tasks.Task('own', {'train': ROWS}, 'Q: {text}\nA:', ' {label}', ('no', 'yes'), ('accuracy',))


@pytest.mark.parametrize('shots', [1, 4, 7])
def test_balanced_rows_are_as_many_of_each_choice_and_the_same_for_all_rows(shots):
  choose = demonstrations.choose(TASK, shots, 'balanced', seed=1)
  shown = choose(ROWS[0])
  counts = Counter(row['label'] for row in shown)
  assert sum(counts.values()) == shots and abs(counts['no'] - counts['yes']) <= 1
  assert choose(ROWS[1]) == shown and len({row['text'] for row in shown}) == shots
  assert demonstrations.choose(TASK, 4, 'balanced', seed=1)({}) != demonstrations.choose(TASK, 4, 'balanced', seed=2)({})


def test_nearest_rows_share_the_most_words_the_last_one_most_and_never_the_row_itself():
  choose = demonstrations.choose(TASK, 2, 'nearest', seed=0)
  assert choose({'text': 'a warm soup'})[-1] == ROWS[5]
  assert {row['text'] for row in choose(ROWS[5])} <= {'cold soup', 'warm bread'}
  assert all(row is not ROWS[0] for row in choose(ROWS[0]))
  fewer, more = (demonstrations.choose(TASK, shots, 'nearest', seed=0)({'text': 'cheap phone'}) for shots in (1, 3))
  assert more[-1:] == fewer and fewer[0]['text'] == 'cheap phone'


@pytest.mark.parametrize('task, shots, selection, says', [
    (TASK._replace(choices=()), 2, 'balanced', 'needs a task with choices'),
    (TASK._replace(splits={'train': ROWS[::2]}), 4, 'balanced', "too few rows of 'yes'"),
    (TASK, 9, 'nearest', 'only 9 rows'),
    (TASK._replace(splits={'train': [{'text': '?', 'label': 'no'}] * 3}), 2, 'nearest', 'no words')])
def test_rows_that_cannot_be_chosen_so_are_refused(task, shots, selection, says):
  with pytest.raises(InputError, match=says):
    demonstrations.choose(task, shots, selection, seed=0)
