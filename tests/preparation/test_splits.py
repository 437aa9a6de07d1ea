"""How rows are shared out into splits."""


import numpy as np
import pytest
from preparing import SPLITS, made, prepared, read, sentences, written

from research.data import tasks
from research.errors import InputError
from research.preparation import splits
from research.preparation.prepare import prepare

pytestmark = pytest.mark.quick


def test_splits_have_their_size_and_each_label_its_share(tmp_path):
  rows = [{'text': text, 'label': 'abc'[min(i % 10, 2)]} for i, text in enumerate(sentences(200))]
  rows.append({'text': 'Alone.', 'label': 'd'})
  report, kept, _ = prepared(tmp_path, rows, label='label', split__test=0.15, split__valid=0.1)
  assert [len(kept[name]) for name in SPLITS] == [151, 20, 30]
  assert report['labels']['splits']['test'] == {'c': 24, 'a': 3, 'b': 3}
  assert report['labels']['splits']['train']['d'] == 1
  assert tasks.make('files', {'path': str(tmp_path / 'out')}).choices == ('a', 'b', 'c', 'd')


def test_a_group_is_never_of_two_splits_and_one_larger_than_a_split_is_trained_on(tmp_path):
  rows = [{'text': text, 'who': 'big' if i < 60 else f'customer {i // 3}'} for i, text in enumerate(sentences(150))]
  _, kept, _ = prepared(tmp_path, rows, group='who')
  of = {name: {row['who'] for row in kept[name]} for name in SPLITS}
  assert not of['train'] & of['test'] and not of['train'] & of['valid'] and not of['valid'] & of['test']
  assert 'big' in of['train'] and [len(kept[name]) for name in SPLITS] == [120, 15, 15]


def test_by_time_the_latest_rows_are_test(tmp_path):
  days = [f'2024-{month:02}-{day:02}T10:00:00+0{day % 3}:00' for month in (3, 1, 2) for day in (1, 20)]
  rows = [{'text': text, 'when': day} for text, day in zip(sentences(6), days)]
  _, kept, _ = prepared(tmp_path, rows, time='when', split__by='time', split__test=1 / 3, split__valid=1 / 6)
  assert [row['when'][:10] for row in kept['test']] == ['2024-03-01', '2024-03-20']
  assert kept['valid'][0]['when'][:10] == '2024-02-20'
  with pytest.raises(InputError, match=r"none of the 1 rows .*: 1 column \(the first: time 'soon' is no number and no date"):
    prepare(made(time='when'), [written(tmp_path, [{'text': 'x', 'when': 'soon'}])], tmp_path / 'more')


def test_by_seed_the_splits_are_others(tmp_path):
  s = made().split
  drawn = [splits.at_random([None] * 50, [None] * 50, s, seed) for seed in (0, 0, 1)]
  assert (drawn[0] == drawn[1]).all() and (drawn[0] != drawn[2]).any() and np.bincount(drawn[0]).tolist() == [5, 5, 40]


def test_splits_that_the_files_or_a_column_say_are_kept(tmp_path):
  texts = sentences(9)
  for at, name in enumerate(('a-train.jsonl', 'a-valid.jsonl', 'a-test.jsonl')):
    written(tmp_path, [{'text': text} for text in texts[3 * at:3 * at + 3]], name)
  report = prepare(made(), [str(tmp_path / '*.jsonl')], tmp_path / 'out')
  assert report['splits'] == {'train': 3, 'valid': 3, 'test': 3}
  assert [row['text'] for row in read(tmp_path / 'out')[0]['valid']] == texts[3:6]
  rows = [{'text': text, 'part': part} for text, part in zip(texts, ['Train', 'dev', 'test'] * 3)]
  (tmp_path / 'two').mkdir()
  report, kept, dropped = prepared(tmp_path / 'two', [*rows, {'text': 'Other.', 'part': 'extra'}], split__column='part')
  assert [row['text'] for row in kept['valid']] == texts[1::3] and dropped[0]['reason'] == 'column'
