"""Metrics of a person's own: a function by its file, with all that can be wrong in it."""

import re

import numpy as np
import pytest

from research.data import tasks
from research.errors import InputError
from research.evaluation import harness, intervals, metrics, own
from research.evaluation.metrics import Scored
from research.studies import statistics

pytestmark = pytest.mark.quick

MINE = '''
def length(prediction, row):
  return len(prediction) - row['expected']

def half(prediction, row):
  return 0.5

def nothing(prediction, row):
  return None

def endless(prediction, row):
  return float('inf')

def text(prediction, row):
  return 'good'

def strict(prediction, row):
  if prediction == 'b':
    raise ValueError('no\\nsuch thing')
  return True
'''


@pytest.fixture
def mine(tmp_path):
  (tmp_path / 'mine.py').write_text(MINE)
  return f'{tmp_path}/mine.py'


SCORED = [Scored(p, 'a', 1.0, 3, (), row={'expected': 1}) for p in ('a', 'abc', 'b', 'ab')]


def refused(name, match, scored=SCORED):
  with pytest.raises(InputError, match=match) as e:
    metrics.get(name).sums(scored)
  assert '\n' not in str(e.value)


def test_the_score_is_the_mean_of_the_functions_numbers(mine):
  metric = metrics.get(f'{mine}:length')
  sums = metric.sums(SCORED)
  assert metric.score(sums.sum(0)) == np.mean([0, 2, 0, 1]) and metric.each(sums).tolist() == [0, 2, 0, 1]
  low, high = intervals.interval(metric, sums)
  assert 0 <= low < 0.75 < high <= 2


def test_what_the_score_is_like_stands_in_the_name(mine):
  find = lambda options: metrics.get(f'{mine}:half{options}')
  names = '', ':lower', ':0..1', ':lower:-2..2.5', ':0..'
  assert [(m.higher_is_better, m.least, m.most, m.limited) for m in map(find, names)] == [
      (True, -np.inf, np.inf, False), (False, -np.inf, np.inf, False), (True, 0, 1, True), (False, -2, 2.5, True),
      (True, 0, np.inf, False)]
  assert find(':lower:-2..2.5').worst(SCORED).tolist() == [[2.5, 1.0]] * 4
  for options in (':higher', ':1..0', ':0..1:lower', ':x..y', ':'):
    refused(f'{mine}:half{options}', r'must be FILE\.py:FUNCTION')


def test_what_goes_wrong_is_told_in_one_line_with_its_row(mine, tmp_path):
  refused(f'{tmp_path}/none.py:f', r'none\.py: cannot be read \(No such file or directory\)')
  refused(f'{mine}:gone', r'mine\.py has no function gone\(\)')
  refused(f'{mine}:nothing', r'row 0: nothing\(\) gives None, which is no finite number')
  refused(f'{mine}:text', r"row 0: text\(\) gives 'good', which is no finite number")
  refused(f'{mine}:endless', r'row 0: endless\(\) gives inf, which is no finite number')
  refused(f'{mine}:strict', r'row 2: strict\(\) raised ValueError: no such thing')
  refused(f'{mine}:half:0..0.25', r'row 0: half\(\) gives 0\.5, which is not within 0\.\.0\.25, as the name says')
  (tmp_path / 'broken.py').write_text('def f(:\n')
  refused(f'{tmp_path}/broken.py:f', r'broken\.py cannot be read \(SyntaxError')


def test_a_task_is_refused_before_anything_is_trained(mine, tmp_path):
  fields = dict(prompt='{text}', target=' {label}', test=f'{tmp_path}/t.jsonl', metrics=(f'{mine}:length',))
  (tmp_path / 't.jsonl').write_text('{"text": "x", "label": "a"}\n')
  with pytest.raises(InputError, match=r"row 0: length\(\) raised KeyError: 'expected'"):
    metrics.check(tasks.make('files', fields))
  metrics.check(tasks.make('files', fields), trains=False)


def test_numbers_that_were_kept_are_taken_without_the_file():
  name = 'gone.py:f'
  rows = [{'id': i, 'target': 'b', 'prediction': 'a', 'loss': 2.5, 'tokens': 2, name: x} for i, x in enumerate((0.5, -1))]
  metric = metrics.get(name)
  assert metric.score(metric.sums(harness.scored_rows(rows)).sum(0)) == -0.25
  with pytest.raises(InputError, match=r'gone\.py: cannot be read'):
    metric.sums([s._replace(judged=None) for s in harness.scored_rows(rows)])


def test_scores_below_0_have_intervals_around_them():
  rng = np.random.default_rng(0)
  of = lambda least: metrics.get('a.py:f')._replace(least=least, most=np.inf if least == -np.inf else 1.0)
  for metric in (of(-np.inf), of(-1.0)):
    sums = {arm: [np.stack([np.clip(rng.normal(-0.4, 0.2, 200), -1, 1), np.ones(200)], 1) for _ in range(3)] for arm in 'ab'}
    found = statistics.mean(statistics.scores(metric, sums, ('a', 'b')), 'a')
    assert -1 < found.low < found.mean < found.high < 0 and found.high - found.low < 0.3
    gap = statistics.gap(statistics.scores(metric, sums, ('a', 'b')), 'a', 'b')
    assert gap.low < 0 < gap.high


def test_the_file_is_read_again_where_it_has_changed(mine, tmp_path):
  name = f'{mine}:half'
  before = own.fingerprint(name)
  (tmp_path / 'mine.py').write_text(re.sub(r'0\.5', '0.75', MINE))
  assert metrics.get(name).sums(SCORED)[0, 0] == 0.75 and own.fingerprint(name) != before
