"""Rows out of every format that people have them in, and what is none of them, by line."""

import bz2
import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from research.data import formats, tasks
from research.errors import InputError

pytestmark = pytest.mark.quick

ROWS = [{'text': 'Grün, "sehr"\nschön; ja', 'label': 'a'}, {'text': ' 1.50', 'label': ''}, {'text': 'x|y\tz', 'label': 'ü'}]


def as_csv(rows, delimiter=',', end='\r\n'):
  quoted = lambda x: '"' + x.replace('"', '""') + '"' if any(c in x for c in f'"{delimiter}\r\n') else x
  return ''.join(delimiter.join(map(quoted, line)) + end for line in ([*rows[0]], *([*row.values()] for row in rows)))


def packed(path, data):
  """The file, in the way that its name says."""
  if path.suffix == '.zst':
    import pyarrow as pa
    with pa.output_stream(str(path), compression='zstd') as f:
      f.write(data)
  else:
    path.write_bytes({'.gz': gzip.compress, '.bz2': bz2.compress}.get(path.suffix, bytes)(data))
  return path


LINES = ''.join(json.dumps(row) + '\n' for row in ROWS)
WRITTEN = {
    'a.jsonl': LINES, 'a.ndjson': LINES, 'a.json': json.dumps(ROWS, indent=2), 'b.json': LINES,
    'a.csv': as_csv(ROWS), 'b.csv': '\ufeff' + as_csv(ROWS, end='\n'), 'c.csv': as_csv(ROWS, ';'), 'a.tsv': as_csv(ROWS, '\t'),
    'd.csv': as_csv(ROWS, '|'), 'A.CSV': as_csv(ROWS)}


@pytest.mark.parametrize('packing', ['', '.gz', '.zst', '.bz2'])
@pytest.mark.parametrize('name', WRITTEN)
def test_a_file_gives_its_rows_packed_or_not(tmp_path, name, packing):
  assert formats.rows(packed(tmp_path / f'{name}{packing}', WRITTEN[name].encode())) == ROWS


def test_tables_of_arrow_give_their_rows(tmp_path):
  import datasets
  import pyarrow as pa
  import pyarrow.parquet as pq
  rows = [{**row, 'turns': [{'role': 'user', 'content': 'x'}]} for row in ROWS]
  table = pa.Table.from_pylist(rows)
  pq.write_table(table, tmp_path / 'a.parquet')
  for name, open_as in (('a.arrow', pa.ipc.new_file), ('b.arrow', pa.ipc.new_stream)):
    with open_as(str(tmp_path / name), table.schema) as f:
      f.write_table(table, 2)
  datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / 'saved'))
  for name in ('a.parquet', 'a.arrow', 'b.arrow', 'saved'):
    assert formats.rows(tmp_path / name) == rows, name


def test_a_folder_of_texts_gives_a_row_a_file(tmp_path):
  (tmp_path / 'in').mkdir()
  (tmp_path / 'in' / 'b.md').write_text('# B\n\nb')
  (tmp_path / 'a.txt').write_text('a')
  (tmp_path / 'c.bin').write_bytes(b'\0')
  assert formats.rows(tmp_path) == [{'text': 'a', 'file': 'a.txt'}, {'text': '# B\n\nb', 'file': 'in/b.md'}]
  (tmp_path / 'd.txt').write_bytes(b'a\nb\xff')
  assert [one.wrong for one in formats.read(tmp_path)][1].startswith('d.txt: line 2 is not UTF-8 text')


@given(st.lists(st.fixed_dictionaries({'a': st.text(st.characters(blacklist_categories=['Cs'])),
                                       'b': st.text(st.characters(blacklist_categories=['Cs']))}), min_size=1, max_size=5),
       st.sampled_from(',;\t|'))
def test_any_text_goes_through_csv(tmp_path_factory, rows, delimiter):
  path = tmp_path_factory.mktemp('csv') / ('a.tsv' if delimiter == '\t' else 'a.csv')
  with open(path, 'w', encoding='utf-8', newline='') as f:
    import csv
    writer = csv.DictWriter(f, ['a', 'b'], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
  assert formats.rows(path) == rows


@pytest.mark.parametrize('name, text, place, says', [
    ('a.jsonl', '{"a": 1}\n\n{"a": }\n', 3, 'is not JSON (Expecting value)'),
    ('a.jsonl', '{"a": 1}\n{"a": 1, "a": 2}', 2, "is not JSON ('a' is given twice)"),
    ('a.jsonl', '{"a": 1}\n5', 2, 'is not a JSON object'),
    ('a.jsonl', b'{"a": 1}\n{"a": "\xff"}', 2, 'is not UTF-8 text'),
    ('a.json', '[\n{"a": 1},\n\n 7]', 4, 'is not a JSON object'),
    ('a.json', '[{"a": 1},\n{"a": }, {"a": 3}]', 2, 'is not JSON (Expecting value); the rest of the array is not read'),
    ('a.json', '[{"a": 1},\n{"a": 2}', 2, 'is not JSON'),
    ('a.json', '[{"a": 1}]\n{"a": 2}', 1, 'goes on after the end of the array'),
    ('a.json', '[{"a": 1} {"a": 2}]', 1, 'one comma stands between'), ('a.json', '[{"a": 1},,{"a": 2}]', 1, 'one comma stands'),
    ('a.json', '[,{"a": 1}]', 1, 'one comma stands'), ('a.json', '[{"a": 1},]', 1, 'one comma stands'),
    ('a.md', '{"a": 1}\n', 1, 'begins like JSON'),
    ('a.csv', 'a,b\n1,2\n\n3\n', 4, 'has 1 fields and the header 2'),
    ('a.csv', 'a,b\n"1\n1",2\n3,4,5\n', 4, 'has 3 fields and the header 2'),
    ('a.csv', 'a,b\n"1" x,2\n3,4\n', 2, 'is not CSV'),
    ('a.csv', '\n\na,b\n1,2\n3\n', 5, 'has 1 fields'), ('a.csv', 'a,b\n1,"2\n3,4\n', 2, 'is not CSV (unexpected end of data)')])
def test_what_is_no_row_is_told_with_its_line_and_the_others_are_read(tmp_path, name, text, place, says):
  (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
  found = [*formats.read(tmp_path / name)]
  [bad] = [one for one in found if one.row is None]
  assert bad.place == place and says in bad.wrong and (name == 'a.json' or len(found) >= 1)
  with pytest.raises(InputError, match=rf'{name}: line {place} '):
    formats.rows(tmp_path / name)


@pytest.mark.parametrize('name, data, says', [
    ('a.csv', b'a,a\n1,2', "line 1, the header, names the column 'a' twice"),
    ('a.csv', b'a,,b\n1,2,3', 'leaves a column without a name'), ('a.csv', b'', 'holds no rows'),
    ('a.csv', b'"a" x,b\n1,2\n', 'line 1, the header, is not CSV'), ('a.csv', b'"a,b\n1,2\n', 'line 1, the header, is not CSV'),
    ('a.csv', b',,\n1,2,3', 'leaves a column without a name'), ('a.csv', b'a,b\n1,2\n1,\xe4', 'line 3 is not UTF-8 text'),
    ('a.csv', b'a,b\n', 'holds no rows'),
    ('a.csv', b'a,b\n1,\xe4', 'is not UTF-8 text'), ('a.csv', 'a,b'.encode('utf-16'), 'is UTF-16 text; save it as UTF-8'),
    ('a.json', b'[]', 'holds no rows'), ('a.json', b'', 'holds no rows'),
    ('a.csv', b'PK\x03\x04', 'is a zip archive or an Excel table'), ('a.parquet', b'PAR1 and no more', 'cannot be read'),
    ('a.parquet', b'a,b', 'cannot be read'), ('a.arrow', b'ARROW1 and no more', 'cannot be read'),
    ('a.jsonl.gz', b'{"a": 1}', 'cannot be read'), ('a.jsonl', b'\x1f\x8b', r'is compressed \(gzip\); end its name in .gz'),
    ('a.xlsx', b'x', 'files that end in .xlsx are not read'), ('a', b'{"a": 1}', 'files that end in no suffix are not read')])
def test_a_file_of_no_rows_is_one_line(tmp_path, name, data, says):
  (tmp_path / name).write_bytes(data)
  with pytest.raises(InputError, match=f'{name}: .*({says})|{name}: ({says})'):
    formats.rows(tmp_path / name)


@pytest.mark.parametrize('text, rows', [
    ('"Question, or prompt, or text";answer\nq;a\n', [{'Question, or prompt, or text': 'q', 'answer': 'a'}]),
    ('"a;b;c;d\ne",f\n1,2\n', [{'a;b;c;d\ne': '1', 'f': '2'}]), ('\n\na,b\n1,2\n', [{'a': '1', 'b': '2'}]),
    ('"say ""hi; you""",b\n1,2\n', [{'say "hi; you"': '1', 'b': '2'}])])
def test_a_delimiter_is_looked_for_outside_of_quotes(tmp_path, text, rows):
  (tmp_path / 'a.csv').write_text(text)
  assert formats.rows(tmp_path / 'a.csv') == rows


def test_damaged_tables_and_folders_are_one_line(tmp_path):
  import datasets
  import pyarrow as pa
  import pyarrow.parquet as pq
  pq.write_table(pa.table({'a': pa.array([2 ** 40], pa.timestamp('s'))}), tmp_path / 'time.parquet')
  pq.write_table(pa.Table.from_arrays([pa.array([1]), pa.array([2])], ['a', 'a']), tmp_path / 'twice.parquet')
  datasets.Dataset.from_list(ROWS).save_to_disk(str(tmp_path / 'saved'))
  (tmp_path / 'saved' / 'state.json').write_text('{bad')
  (tmp_path / 'mixed').mkdir()
  (tmp_path / 'mixed' / 'README.md').write_text('x')
  (tmp_path / 'mixed' / 'train.jsonl').write_text('{}')
  (tmp_path / 'hidden' / '.cache').mkdir(parents=True)
  (tmp_path / 'hidden' / '.cache' / 'a.txt').write_text('x')
  for name, says in (('time.parquet', 'cannot be read'), ('twice.parquet', "has two columns 'a'"), ('saved', 'cannot be read'),
                     ('mixed', 'holds train.jsonl; name a file in it'), ('hidden', 'is a folder without')):
    with pytest.raises(InputError, match=f'{name}: .*{says}'):
      formats.rows(tmp_path / name)


def test_the_case_of_a_suffix_does_not_matter(tmp_path):
  (tmp_path / 'a.JSONL.GZ').write_bytes(gzip.compress(LINES.encode()))
  assert formats.rows(tmp_path / 'a.JSONL.GZ') == ROWS


def test_a_task_of_files_takes_any_of_them(tmp_path):
  (tmp_path / 'a.csv').write_text('text;label\nGood.;positive\nBad.;negative\n')
  task = tasks.make('files', {'prompt': '{text}', 'target': ' {label}', 'choices': ('negative', 'positive'),
                              'train': str(tmp_path / 'a.csv')})
  assert task.rows('train')[1] == {'text': 'Bad.', 'label': 'negative'}
