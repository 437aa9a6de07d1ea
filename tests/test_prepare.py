"""From raw files to a prepared folder: what is planted is found, nothing good is lost, and a second time it is the same."""

import json
import random
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from helpers import verb
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from research import run_files, shipped
from research.data import formats, sources, tasks
from research.errors import InputError
from research.preparation import clean, figures, splits
from research.preparation import settings as typed
from research.preparation.prepare import prepare
from research.preparation.words import SHINGLE, Words, hashes, shingles, split, stretches
from research.studies import study_file

pytestmark = pytest.mark.quick
SPLITS = ('train', 'valid', 'test')


def made(**fields):
  """configs/prepare.py with other values, checked; `split__test=0.2` sets split.test."""
  config = study_file.load(shipped.path('config', 'prepare'), 'get_config')
  config.update_from_flattened_dict({name.replace('__', '.'): value for name, value in fields.items()})
  return typed.read(config)


def written(folder, rows, name='in.jsonl'):
  run_files.write_jsonl(folder / name, rows)
  return str(folder / name)


def read(folder):
  """Split -> its rows, and what went."""
  found = {name: [json.loads(line) for line in (folder / f'{name}.jsonl').open()] if (folder / f'{name}.jsonl').exists() else []
           for name in SPLITS}
  return found, [json.loads(line) for line in (folder / 'dropped.jsonl').open()]


def prepared(tmp_path, rows, **fields):
  report = prepare(made(**fields), [written(tmp_path, rows)], tmp_path / 'out')
  return report, *read(tmp_path / 'out')


def sentences(count, words=30, seed=0):
  """Texts of words that are made up, none like another."""
  rng = random.Random(seed)
  vocabulary = [''.join(rng.choices('abcdefghijklmnopqrstuvwxyz', k=6)) for _ in range(3000)]
  return [' '.join(rng.choices(vocabulary, k=words)) for _ in range(count)]


def jaccard(a, b):
  sets = [{tuple(w[i:i + SHINGLE]) for i in range(len(w) - SHINGLE + 1)} for w in (split(a), split(b))]
  return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def test_planted_near_duplicates_are_found_and_no_others(tmp_path):
  texts, rng = sentences(600), random.Random(1)
  alike, unlike = [], []
  for text in texts[:400]:
    changed = text.split()
    for at in rng.sample(range(len(changed)), rng.choice((1, 1, 2, 4, 8))):
      changed[at] = 'x' * rng.randint(3, 9)
    other = ' '.join(changed)
    (alike if jaccard(text, other) >= 0.8 else unlike).append((other, jaccard(text, other)))
  assert len(alike) > 100 and sum(found < 0.5 for _, found in unlike) > 50
  rows = [{'text': text} for text in [*texts, *(text for text, _ in alike), *(text for text, _ in unlike)]]
  report, kept, dropped = prepared(tmp_path, rows)
  gone = {one['row']['text'] for one in dropped if one['reason'] == 'near_duplicate'}
  assert len(gone & {text for text, _ in alike}) >= 0.98 * len(alike) and gone <= {text for text, _ in alike}
  assert report['rows']['read'] == len(rows) == report['rows']['kept'] + len(dropped) == sum(map(len, kept.values())) + len(dropped)


def test_a_row_stays_where_only_what_went_was_like_it(tmp_path):
  """a ~ b ~ c, but not a ~ c: b goes, and c stays."""
  base = sentences(1)[0].split()
  b, c = ([*base[:-n], *('y' * 5, 'z' * 5, 'w' * 5)[:n]] for n in (1, 2))
  a, b, c = (' '.join(x) for x in (base, b, [*c[:1], 'qqqqq', *c[2:]]))
  assert jaccard(a, b) >= 0.8 and jaccard(a, c) < 0.8
  _, kept, dropped = prepared(tmp_path, [{'text': t} for t in (a, b, c)], split__valid=0.0, split__test=0.0)
  assert [row['text'] for row in kept['train']] == [a, c] and [one['row']['text'] for one in dropped] == [b]


def test_exact_duplicates_go_but_for_the_first(tmp_path):
  rows = [{'text': 'Good  value', 'label': 'a'}, {'text': 'good value', 'label': 'a'}, {'text': 'GOOD VALUE', 'label': 'b'},
          {'text': 'good value!', 'label': 'a'}]
  _, kept, dropped = prepared(tmp_path, rows, label='label', split__valid=0.0, split__test=0.0,
                              near__drop=False)
  assert [row['text'] for row in kept['train']] == ['Good value', 'good value!']
  assert [one['reason'] for one in dropped] == ['exact_duplicate'] * 2
  assert [one['detail'] for one in dropped] == [f'of {tmp_path}/in.jsonl:1'] * 2


@pytest.mark.parametrize('near', [True, False])
def test_training_rows_that_the_test_split_holds_go(tmp_path, near):
  texts = sentences(40)
  copied, near_copy = texts[0], texts[1] + ' and more'
  part = ' '.join([*sentences(1, 40, 5)[0].split(), *texts[2].split()[5:19]])      # 14 words of a test row
  short = ' '.join([*sentences(1, 40, 6)[0].split(), *texts[3].split()[5:16]])     # 11 words of one
  for name, rows in (('train.jsonl', [*texts[20:], copied, near_copy, part, short]), ('test.jsonl', texts[:20])):
    written(tmp_path, [{'text': text} for text in rows], name)
  prepare(made(split__by='given', near__drop=near), [str(tmp_path / '*.jsonl')], tmp_path / 'out')
  kept, dropped = read(tmp_path / 'out')
  assert [row['text'] for row in kept['test']] == texts[:20]
  assert [row['text'] for row in kept['train']] == [*texts[20:], short]
  gone = {one['row']['text']: one['reason'].split(':')[0] for one in dropped}
  assert gone == dict.fromkeys((copied, near_copy, part), 'leak')
  assert {one['file'] for one in dropped} == {str(tmp_path / 'train.jsonl')}


def test_leaks_stay_where_that_is_wished(tmp_path):
  for name in ('train.jsonl', 'test.jsonl'):
    written(tmp_path, [{'text': text} for text in sentences(5)], name)
  prepare(made(split__by='given', leaks='keep'), [str(tmp_path / '*.jsonl')], tmp_path / 'out')
  assert len(read(tmp_path / 'out')[0]['train']) == 5


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


@pytest.mark.parametrize('before, after, fields', [
    ('cafÃ©\u0000 e\u0301', 'café é', {}), ('a \t b\r\n\n\n\n c ', 'a b\n\nc', {}), ('“so” ﬁne', '“so” ﬁne', {}),
    ('<p>A &amp; <b>B</b></p><script>x</script> 1 < 2', 'A & B 1 < 2', {'clean__markup': True}),
    ('a &lt; b', 'a < b', {'clean__markup': True}),
    ('<b> a', '<b> a', {}), (' a ', ' a ', {'clean__whitespace': False})])
def test_texts_are_cleaned(before, after, fields):
  s = made(**fields).clean
  assert clean.text(before, s) == after == clean.text(after, s)
  assert clean.clean({'x': [{'y': before}], 'n': 1}, s) == {'x': [{'y': after}], 'n': 1}


def test_rows_go_by_length_and_language_and_what_no_file_holds(tmp_path):
  rows = [{'text': 'Short'}, {'text': 'This sentence is written in English, I believe.'},
          {'text': 'Dieser Satz ist auf Deutsch geschrieben.'}, {'text': 'This one is written in English too. ' * 9}, {'text': ''}]
  (tmp_path / 'more.jsonl').write_text('{"text": "half a pair \\ud800 is here"}\n')
  report = prepare(made(characters__min=6, characters__max=200, languages=('en',), clean__unicode=False, split__test=0.0,
                        split__valid=0.0), [written(tmp_path, rows), str(tmp_path / 'more.jsonl')], tmp_path / 'out')
  assert report['rows'] == {'read': 6, 'kept': 1, 'dropped': {'short': 1, 'language': 1, 'long': 1, 'empty': 1, 'parse': 1}}


VALUES = st.one_of(st.text(max_size=30), st.integers(), st.none(), st.lists(st.text(max_size=5), max_size=2))
OBJECTS = st.dictionaries(st.sampled_from(('text', 'label', 'x')), VALUES).map(json.dumps)
LINES = st.lists(st.one_of(OBJECTS, st.text(max_size=20)), min_size=1, max_size=12)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(lines=LINES, labelled=st.booleans(), strict=st.booleans())
def test_whatever_comes_in_is_kept_or_told_and_a_second_time_gives_the_same_bytes(lines, labelled, strict):
  with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
    folder = Path(folder)
    patch.setattr(figures, 'draw', lambda *given: {})      # they are looked at elsewhere, and take longer than all else
    (folder / 'in.jsonl').write_text('\n'.join(lines), encoding='utf-8', errors='surrogatepass')
    fields = made(**({'label': 'label'} if labelled else {}))
    try:
      came = [*formats.read(folder / 'in.jsonl')]
      report = prepare(fields, [str(folder / 'in.jsonl')], folder / 'out', strict)
    except InputError as e:
      assert str(e) and not (folder / 'out').exists()
      return
    kept, dropped = read(folder / 'out')
    assert report['rows']['read'] == len(came) == sum(map(len, kept.values())) + len(dropped)
    assert not strict or all(one.row is not None for one in came)
    assert {one['reason'] for one in dropped} <= {'exact_duplicate', 'near_duplicate', 'leak', 'empty', 'parse', 'label'}
    prepare(fields, [str(folder / 'in.jsonl')], folder / 'again', strict)
    for file in (folder / 'out').iterdir():
      assert file.read_bytes() == (folder / 'again' / file.name).read_bytes()


def test_hashes_of_words_are_those_of_their_stretches(tmp_path):
  with Words(tmp_path) as words:
    words.add(hashes(['Eins zwei drei vier', 'ZWEI, drei: vier!']))
    words.add(hashes(['日本語 x', '']))
    words.finish()
    one, two = words.of(0), words.of(1)
    assert one[1:].tolist() == two.tolist() and stretches(one, 3)[1] == stretches(two, 3)[0]
    assert words.similarity(0, 1) == 0.5 and len(words.of(2)) == 4 and len(words.of(3)) == 0 == words.similarity(3, 3)
    assert shingles(two[:1], 3).tolist() == stretches(two[:1], 1).tolist()


@pytest.mark.parametrize('fields, says', [
    ({'split__by': 'luck'}, 'split.by=luck: must be one of'), ({'split__by': 'time'}, 'split.by=time: needs `time`'),
    ({'split__valid': 0.6, 'split__test': 0.5}, 'must be shares of the rows'),
    ({'near__threshold': 0.3}, 'between 0.5 and 1'),
    ({'characters__max': 1, 'characters__min': 3}, 'characters.max=1'), ({'ngram': -1}, 'ngram=-1'),
    ({'tokens__max': 5}, 'need `model`'), ({'personal': 'hide'}, 'personal=hide: must be one of'), ({'leaks': 'x'}, 'leaks=x'),
    ({'exact__drop': False}, 'set near.drop=False too')])
def test_a_config_that_cannot_be_is_refused(fields, says):
  with pytest.raises(InputError, match=says):
    made(**fields)


@pytest.mark.parametrize('given, says', [
    (['--input=nothing*.csv'], "--input=nothing*.csv: matches no file"),
    (['--input=a.csv', '--strict'], 'a.csv: line 3 has 1 fields'),
    (['--input=a.csv', '--config.label=topic', '--config.prompt={what}'],
     "none of the 3 rows of the input is left: 3 parse (the first: no column 'what', which the template names"),
    (['--input=a.csv', '--config.label=kind'], 'none of the 3 rows of the input is left: 2 label (the first: no kind), 1 parse (the first: has 1'),
    (['--input=a.csv', '--config.split.by=given'], 'split.by=given: the name of a.csv must say one of'),
    (['--input=a.csv', '--output=full'], '--output=full: exists and is not empty'), ([], '--input')])
def test_what_cannot_be_prepared_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, given, says):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'a.csv').write_text('question,topic\nWhere?,place\nbroken\nWhen?,time\n')
  (tmp_path / 'full').mkdir()
  (tmp_path / 'full' / 'x').touch()
  before = sorted(tmp_path.iterdir())
  said = verb('prepare', '--config=prepare', *([] if '--output=full' in given else ['--output=out']), *given, cwd=tmp_path)
  assert said.returncode != 0 and said.stderr.splitlines()[-1].startswith('error: ') and says in said.stderr.splitlines()[-1]
  assert 'Traceback' not in said.stderr and sorted(tmp_path.iterdir()) == before


def test_chat_logs_are_compared_by_what_is_said(tmp_path):
  rows = [{'conversations': [{'from': 'human', 'value': f'Hi {i % 3}'}, {'from': 'gpt', 'value': text}]}
          for i, text in enumerate(sentences(9))]
  report, kept, _ = prepared(tmp_path, [*rows, rows[0], {'conversations': [{'from': 'who', 'value': ''}]}])
  assert report['rows'] == {'read': 11, 'kept': 9, 'dropped': {'parse': 1, 'exact_duplicate': 1}}
  assert kept['train'][0]['messages'][0]['role'] == 'user'


def test_the_same_rows_in_other_formats_give_the_same_splits(tmp_path):
  rows = sources.sample('sentiment_sentences')['train'][:60]
  rows = [{name: str(value) for name, value in row.items()} for row in rows]
  found = []
  for name in ('a.csv', 'a.json', 'a.jsonl'):
    if name == 'a.csv':
      import csv
      with open(tmp_path / name, 'w', newline='') as f:
        writer = csv.DictWriter(f, [*rows[0]])
        writer.writeheader()
        writer.writerows(rows)
    else:
      (tmp_path / name).write_text(json.dumps(rows) if name == 'a.json' else ''.join(json.dumps(row) + '\n' for row in rows))
    prepare(made(label='label'), [str(tmp_path / name)], tmp_path / 'out')
    found.append(read(tmp_path / 'out')[0])
    shutil.rmtree(tmp_path / 'out')
  assert found[0] == found[1] == found[2] and all(found[0].values())


def test_by_seed_the_splits_are_others(tmp_path):
  s = made().split
  drawn = [splits.at_random([None] * 50, [None] * 50, s, seed) for seed in (0, 0, 1)]
  assert (drawn[0] == drawn[1]).all() and (drawn[0] != drawn[2]).any() and np.bincount(drawn[0]).tolist() == [5, 5, 40]
