"""What a challenger learns from: the new rows and a share of the old, prepared, and nothing that a test row holds."""

import json
from collections import Counter

import pytest
from helpers import config
from preparing import sentences

from research import config as configs
from research import run_files
from research.data import sources, tasks
from research.errors import InputError
from research.preparation import figures
from research.refining import mixture
from research.refining.mixture import Shares
from research.refining.rows import CONVERSATION

pytestmark = pytest.mark.quick

TEXTS = sentences(200, words=16)
FIELDS = {'task__name': 'files', 'task__prompt': '{text}:', 'task__target': ' {label}', 'task__choices': ('a', 'b')}


@pytest.fixture(autouse=True)
def _without_figures(monkeypatch):
  monkeypatch.setattr(figures, 'draw', lambda *given: {})      # they are looked at elsewhere


def labelled(texts):
  return [{'text': text, 'label': 'ab'[number % 2]} for number, text in enumerate(texts)]


def reference(folder, needs_train=True, fields=FIELDS, **splits):
  splits = {'train': labelled(TEXTS[:60]), 'valid': labelled(TEXTS[60:70]), 'test': labelled(TEXTS[70:90])} | splits
  for split, rows in splits.items():
    if rows:
      run_files.write_jsonl(folder / 'ref' / f'{split}.jsonl', rows)
  run_files.write_json(folder / 'ref' / 'task.json', {'splits': [split for split, rows in splits.items() if rows]})
  return mixture.reference(folder / 'ref', configs.read(config(task__train='x', **fields)).task, needs_train)


def written(folder, new, old):
  record = mixture.write(folder / 'data', new, old, Shares(0.5, 0.3, 0), {'asked': {}}, folder / 'ref')
  return record, {split: sources.read_jsonl(folder / 'data' / f'{split}.jsonl') for split in sources.SPLITS
                  if (folder / 'data' / f'{split}.jsonl').exists()}


def test_new_rows_are_shared_out_and_as_many_old_ones_stand_beside_them(tmp_path):
  old, new = reference(tmp_path), labelled(TEXTS[100:150])
  record, found = written(tmp_path, new, old)
  assert record['rows'] == {'old': {'train': 30, 'valid': 5, 'test': 20}, 'new': {'train': 30, 'valid': 5, 'test': 15}}
  texts = {split: [row['text'] for row in rows] for split, rows in found.items()}
  assert sorted(text for split in texts for text in texts[split] if text in TEXTS[100:150]) == sorted(TEXTS[100:150])
  assert found['test'][:20] == old.splits['test'] and {*texts['train'][:30]} <= {*TEXTS[:60]}
  counts = Counter(row['label'] for row in found['train'][30:])
  assert abs(counts['a'] - counts['b']) <= 2
  assert not {'_split', '_place'} & {*found['train'][0], *found['test'][-1]}
  task = tasks.make('files', {'path': str(tmp_path / 'data')})      # anybody can train on it
  assert (task.prompt, task.choices, len(task.splits['test'])) == ('{text}:', ('a', 'b'), 35)


def test_the_same_seed_draws_the_same_and_the_share_of_old_rows_is_kept(tmp_path):
  old, new = reference(tmp_path), labelled(TEXTS[100:150])
  for name, shares, count in (('a', Shares(0.25, 0.3, 0), 10), ('b', Shares(0.25, 0.3, 0), 10), ('c', Shares(0, 0.3, 1), 0)):
    (tmp_path / name).mkdir()
    record = mixture.write(tmp_path / name / 'data', new, old, shares, {}, tmp_path / 'ref')
    assert record['rows']['old']['train'] == count and record['rows']['new']['train'] == 30
  files = {name: [(tmp_path / name / 'data' / f'{split}.jsonl').read_bytes() for split in sources.SPLITS] for name in 'abc'}
  assert files['a'] == files['b'] and files['a'] != files['c']


def test_a_correction_of_an_old_training_row_takes_its_place(tmp_path):
  old = reference(tmp_path)
  new = [{'text': row['text'].upper(), 'label': 'a' if row['label'] == 'b' else 'b'} for row in old.splits['train']]
  record, found = written(tmp_path, new, old)
  labels = {row['text'].casefold(): row['label'] for row in found['train']}
  assert len(found['train']) == len(labels) and record['rows']['new']['train'] == 36 == 60 - 6 - 18
  kept = [row for row in found['train'] if row in old.splits['train']]
  assert len(kept) == record['rows']['old']['train'] < 36      # of what was corrected none is learned as it was


def test_no_training_row_is_nearly_a_test_row_old_or_new(tmp_path):
  old = reference(tmp_path)
  leaking = [{'text': f'{row["text"]} indeed', 'label': 'a'} for row in old.splits['test']]
  new = [*leaking, *labelled(TEXTS[100:150])]
  record, found = written(tmp_path, new, old)
  assert record['dropped']['leak'] >= 8 and record['dropped']['near_duplicate'] >= 2      # of those that fell to test
  test = {row['text'] for row in found['test']}
  assert not any(row['text'].removesuffix(' indeed') in test for row in found['train'])
  reasons = [json.loads(line) for line in (tmp_path / 'data' / 'preparation' / 'dropped.jsonl').open()]
  assert {one['file'] for one in reasons} <= {'new_train.jsonl', 'new_held_out.jsonl', 'old_train.jsonl', 'old_valid.jsonl'}


def test_personal_data_is_masked_and_old_rows_stay_as_they_were(tmp_path):
  old = reference(tmp_path, train=[{'text': f'{text}  jane@example.org', 'label': 'a'} for text in TEXTS[:60]])
  new = [{'text': f'{text} joe@example.org', 'label': 'b'} for text in TEXTS[100:150]]
  _, found = written(tmp_path, new, old)
  told = json.dumps(found)
  assert 'joe@' not in told and told.count('[EMAIL]') == 50 and told.count('  jane@example.org') == 30


def test_the_turns_of_one_conversation_are_of_one_split(tmp_path):
  turn = lambda role, text: {'role': role, 'content': text}
  chat = lambda *texts: [turn(('user', 'assistant')[i % 2], text) for i, text in enumerate(texts)]
  old = reference(tmp_path, fields={'task__name': 'files'}, **{
      split: [{'messages': chat(text, 'Yes.')} for text in TEXTS[a:b]]
      for split, a, b in (('train', 0, 40), ('valid', 40, 45), ('test', 45, 60))})
  new = [{'messages': chat(TEXTS[100 + n], 'Yes.', *(x for k in range(part) for x in (TEXTS[120 + 3 * n + k], 'No.'))),
          CONVERSATION: f'{n:x}'} for n in range(20) for part in range(3)]
  _, found = written(tmp_path, new, old)
  splits = {}
  for split, rows in found.items():
    for row in rows:
      if CONVERSATION in row:
        splits.setdefault(row[CONVERSATION], set()).add(split)
  assert len(splits) == 20 and all(len(of) == 1 for of in splits.values()) and {'train', 'test'} <= set.union(*splits.values())


@pytest.mark.parametrize('splits, fields, says', [
    ({'test': [{'question': 'x', 'label': 'a'}]}, FIELDS, r"--reference=.*ref: its rows are not what the run has learned: task "
     r"files, test row 1: no column 'text'"),
    ({'train': [{'text': 'x', 'label': 'c'}]}, FIELDS, r"not what the run has learned: .*label 'c' is not among the choices"),
    ({'test': None}, FIELDS, 'has no test.jsonl, which the challenger is compared on'),
    ({'train': None}, FIELDS, r'has no train.jsonl, which .* is kept from forgetting by \(or give --old_share=0\)')])
def test_a_reference_of_other_rows_is_refused(tmp_path, splits, fields, says):
  with pytest.raises(InputError, match=says):
    reference(tmp_path, fields=fields, **splits)


def test_a_folder_that_prepare_has_not_made_is_no_reference(tmp_path):
  with pytest.raises(InputError, match=r'holds no task\.json; give a folder that research.prepare made'):
    mixture.reference(tmp_path, configs.read(config(**FIELDS)).task, True)


def test_where_nothing_is_left_to_train_on_no_folder_is_made(tmp_path):
  old = reference(tmp_path)
  with pytest.raises(InputError, match='none of the 2 new rows is left to train on: '):
    written(tmp_path, labelled(old.splits['test'][0]['text'] for _ in range(2)), old)
  assert not (tmp_path / 'data').exists()
