"""From raw files to a prepared folder: nothing good is lost, and a second time it is the same."""

import json
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from helpers import verb
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from preparing import SPLITS, made, prepared, read, sentences, written

from research.data import formats, sources, tasks
from research.errors import InputError
from research.preparation import figures, workers
from research.preparation.prepare import prepare

pytestmark = pytest.mark.quick


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
    (['--input=a.csv', '--config.label=kind'], 'is left: 2 label (the first: no kind), 1 parse (the first: has 1'),
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


def test_other_processes_give_the_same_bytes(tmp_path, monkeypatch):
  rows = [{'text': text, 'label': 'ab'[i % 2]} for i, text in enumerate(sentences(60))] * 2
  fields = made(label='label')
  prepare(fields, [written(tmp_path, rows)], tmp_path / 'alone')
  monkeypatch.setattr(workers, 'ALONE', 1)
  monkeypatch.setattr(workers, 'ROWS', 17)
  prepare(fields, [str(tmp_path / 'in.jsonl')], tmp_path / 'out')
  for file in (tmp_path / 'alone').rglob('*.*'):
    assert file.read_bytes() == (tmp_path / 'out' / file.relative_to(tmp_path / 'alone')).read_bytes()


def end(given, part):
  os._exit(1)


def test_a_process_that_is_ended_from_outside_is_one_line(monkeypatch):
  monkeypatch.setattr(workers, 'ALONE', 1)
  with pytest.raises(InputError, match='was ended from outside'):
    list(workers.mapped(end, None, [[1], [2], [3]]))


def test_the_report_says_what_happened_in_fields_that_stay(tmp_path):
  rows = [{'text': text, 'label': 'ab'[i % 2]} for i, text in enumerate(sentences(40))]
  report, kept, _ = prepared(tmp_path, [*rows, rows[0], {'text': ''}], label='label')
  assert report['rows'] == {'read': 42, 'kept': 40, 'dropped': {'exact_duplicate': 1, 'label': 1}}
  assert report['splits'] == {name: len(kept[name]) for name in SPLITS}
  assert report['duplicates']['exact'] == 1 and report['duplicates']['clusters'][0]['others'] == [f'{tmp_path}/in.jsonl:41']
  assert {'leaks', 'personal', 'suspects', 'groups'} <= report.keys()
  task = tasks.make('files', {'path': str(tmp_path / 'out')})
  assert report['fingerprints'] == {name: sources.fingerprint(task.rows(name)) for name in SPLITS}
  page = (tmp_path / 'out' / 'report.html').read_text()
  assert page.count('<img src="data:image/png;base64,') == len([*(tmp_path / 'out' / 'figures').iterdir()]) == 3
  assert 'http' not in page.replace('http-equiv', '')


@pytest.mark.parametrize('personal, kept, counted', [
    ('mask', ['Write to [EMAIL] or [EMAIL_2], not to [EMAIL]', 'Nothing'], 3), ('drop', ['Nothing'], 3),
    ('keep', ['Write to a@b.org or c@d.org, not to A@b.org', 'Nothing'], 3),
    ('off', ['Write to a@b.org or c@d.org, not to A@b.org', 'Nothing'], 0)])
def test_personal_data_is_masked_or_its_rows_go(tmp_path, personal, kept, counted):
  rows = [{'text': 'Write to a@b.org or c@d.org, not to A@b.org', 'who': 'x@y.org'}, {'text': 'Nothing', 'who': 'z@y.org'}]
  report, found, dropped = prepared(tmp_path, rows, personal=personal, group='who', split__test=0.0, split__valid=0.0)
  assert [row['text'] for row in found['train']] == kept and report['personal'].get('email', 0) == counted
  assert found['train'][-1]['who'] == 'z@y.org'      # whose a row is stays what it is
  assert [one['reason'] for one in dropped] == ['personal'] * (personal == 'drop')


def test_rows_are_shown_as_the_model_reads_them(tmp_path):
  rows = [{'text': text, 'label': 'ab'[i % 2]} for i, text in enumerate(sentences(4, words=5))]
  how = ('--config=prepare', f'--input={written(tmp_path, rows)}', '--config.split.valid=0', '--config.split.test=0',
         '--show=1')
  assert '--show needs --config.model' in verb('prepare', *how, f'--output={tmp_path}/none').stderr
  assert not (tmp_path / 'none').exists()
  for name, more, says in (
      ('asked', ('--config.label=label', '--config.prompt={text}?'), f'<bos>{rows[0]["text"]}?⟦ a<eos>⟧'),
      ('said', (), f'<bos>⟦{rows[0]["text"]}')):
    said = verb('prepare', *how, f'--output={tmp_path}/{name}', '--config.model=random:llama-tiny', *more)
    assert says in said.stdout, said.stdout + said.stderr


@pytest.mark.parametrize('personal', ['mask', 'drop', 'off'])
def test_what_is_masked_does_not_stand_among_what_went(tmp_path, personal):
  rows = [{'text': 'Write to me@here.org'}] * 2 + [{'text': 'Nobody is named here'}]
  prepared(tmp_path, rows, personal=personal, split__test=0.0, split__valid=0.0)
  holds = {file.name for file in (tmp_path / 'out').iterdir() if file.is_file() and 'me@here.org' in file.read_text()}
  assert holds == ({'dropped.jsonl', 'train.jsonl', 'report.json', 'report.md', 'report.html'} if personal == 'off' else set())
