"""Rows that are one, and rows that leak: what is planted is found, and no more."""

import json
import random

import pytest
from preparing import jaccard, made, prepared, read, sentences, written

from research.preparation.prepare import prepare
from research.preparation.words import Words, hashes, shingles, stretches

pytestmark = pytest.mark.quick


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
  assert report['rows']['read'] == len(rows) == sum(map(len, kept.values())) + len(dropped)


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


def test_hashes_of_words_are_those_of_their_stretches(tmp_path):
  with Words(tmp_path) as words:
    words.add(hashes(['Eins zwei drei vier', 'ZWEI, drei: vier!']))
    words.add(hashes(['日本語 x', '']))
    words.finish()
    one, two = words.of(0), words.of(1)
    assert one[1:].tolist() == two.tolist() and stretches(one, 3)[1] == stretches(two, 3)[0]
    assert words.similarity(0, 1) == 0.5 and len(words.of(2)) == 4 and len(words.of(3)) == 0 == words.similarity(3, 3)
    assert shingles(two[:1], 3).tolist() == stretches(two[:1], 1).tolist()


def test_leaks_that_are_kept_are_remembered_row_by_row(tmp_path):
  texts = sentences(30)
  part = ' '.join([*sentences(1, 40, 5)[0].split(), *texts[2].split()[5:19]])
  for name, rows in (('train.jsonl', [*texts[10:], texts[0], texts[1] + ' and more', part]), ('test.jsonl', texts[:10])):
    written(tmp_path, [{'text': text} for text in rows], name)
  report = prepare(made(leaks='keep'), [str(tmp_path / '*.jsonl')], tmp_path / 'out')
  assert report['leaks'] == {'exact': 1, 'near': 1, 'ngram': 1, 'kept': True, 'of': {'valid': 0, 'test': 3}}
  assert json.loads((tmp_path / 'out' / 'task.json').read_text())['leaked'] == {'test': [0, 1, 2]}
  assert report['splits']['train'] == 23
