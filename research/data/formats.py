"""Rows out of the files that people have: JSON lines and arrays, CSV and TSV, Parquet, Arrow, text; compressed or not.

`read` streams a file and says of everything that is no row where it stands and why; `rows` refuses the first of these.
"""

import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from research import json_text
from research.data import delimited
from research.data.rows import Found, Row
from research.errors import InputError

COMPRESSED = {'.gz': 'gzip', '.zst': 'zstd', '.bz2': 'bz2'}      # suffix -> pyarrow's name
TEXT = ('.txt', '.md')
# How files begin that a person may take for another format, and what to do.
MAGIC = {b'PAR1': ('Parquet', 'name it .parquet'), b'ARROW1': ('Arrow', 'name it .arrow'),
         b'\x1f\x8b': ('compressed (gzip)', 'end its name in .gz'),
         b'\x28\xb5\x2f\xfd': ('compressed (zstd)', 'end its name in .zst'),
         b'PK\x03\x04': ('a zip archive or an Excel table', 'unpack it, or save the table as CSV'),
         b'%PDF': ('a PDF', 'save its text'), b'\xff\xfe': ('UTF-16 text', 'save it as UTF-8'),
         b'\xfe\xff': ('UTF-16 text', 'save it as UTF-8')}


def read(path: Path, suffix: str | None = None) -> Iterator[Found]:
  """Everything in a file, in its order, a batch in memory at a time.

  Args:
    path: of a file, or of a folder: one of `datasets.save_to_disk`, or one of text files.
    suffix: of the format, a key of `READERS`; None: what its name says.
  Raises:
    InputError: there is no such file, its format is not known or not the one that its name says, or it breaks off.
  """
  reader: Callable[[Path], Iterator[Found]]
  if path.is_dir() and suffix is None:
    reader = _saved if (path / 'state.json').exists() else _folder
  else:
    suffix = suffix or _suffix(path)
    check(path, suffix)
    if suffix not in READERS:
      raise InputError(f'{path}: files that end in {suffix or "no suffix"} are not read ({", ".join(READERS)} are, each also '
                       f'with {", ".join(COMPRESSED)})')
    reader = READERS[suffix]
  try:
    yield from reader(path)
  except InputError:
    raise
  except Exception as e:      # a damaged file makes the readers of tables raise what they like
    raise InputError(f'{path}: cannot be read ({type(e).__name__}: {" ".join(str(e).split()):.200})') from None


def places(path: Path) -> int:
  """About how many places `read` finds in a file: its lines, or of a table or folder its rows; 0 where nobody can say."""
  try:
    if path.is_dir():
      return len(_loaded(path)) if (path / 'state.json').exists() else sum(1 for _ in _inside(path))
    if _suffix(path) == '.parquet':
      import pyarrow.parquet as pq
      return int(pq.ParquetFile(path).metadata.num_rows)
    if _suffix(path) == '.arrow':
      return sum(batch.num_rows for batch in _record_batches(path))
    with _bytes(path) as f:
      return sum(block.count(b'\n') for block in iter(lambda: f.read(2 ** 20), b'')) + 1
  except Exception:      # what is damaged or not there is told where it is read
    return 0


def rows(path: Path, suffix: str | None = None) -> list[Row]:
  """All rows of a file.

  Args:
    path: as for `read`.
    suffix: as for `read`.
  Raises:
    InputError: something in it is no row, or there is none; names the line.
  """
  found = []
  for one in read(path, suffix):
    if one.row is None:
      raise InputError(f'{path}: line {one.place} {one.wrong}')
    found.append(one.row)
  if not found:
    raise InputError(f'{path}: holds no rows')
  return found


def _suffix(path: Path) -> str:
  """The last suffix that is not a compression's, in lower case."""
  suffixes = [s.lower() for s in path.suffixes]
  return next((s for s in reversed(suffixes) if s not in COMPRESSED), '')


def check(path: Path, suffix: str) -> None:
  """Refuses what is no file, and a file whose first bytes are those of another format.

  Args:
    path: of the file.
    suffix: of the format that it is taken for, such as `.csv`.
  Raises:
    InputError: says what it is, and what to do.
  """
  if path.is_dir():
    raise InputError(f'{path}: is a folder; name a file in it')
  if not path.is_file():
    raise InputError(f'{path}: no such file')
  with open(path, 'rb') as f:
    begins = f.read(6)
  kind, remedy = next((said for magic, said in MAGIC.items() if begins.startswith(magic)), ('', ''))
  is_packed = path.suffix.lower() in COMPRESSED and kind.startswith('compressed')
  if kind and not is_packed and kind != {'.parquet': 'Parquet', '.arrow': 'Arrow'}.get(suffix):
    raise InputError(f'{path}: is {kind}; {remedy}')


def _bytes(path: Path) -> Any:
  """The file's bytes as a stream, unpacked where its name says that they are packed."""
  if path.suffix.lower() not in COMPRESSED:
    return open(path, 'rb')      # the caller closes it
  import pyarrow as pa
  return io.BufferedReader(pa.input_stream(str(path), compression=COMPRESSED[path.suffix.lower()]))


def _not_utf8(place: int, e: UnicodeDecodeError) -> Found:
  return Found(place, None, f'is not UTF-8 text ({e.reason}); save the file as UTF-8')


def _lines(path: Path) -> Iterator[Found]:
  """JSON lines; a file that begins as an array of objects is read as one."""
  with _bytes(path) as f:
    if f.peek(64).lstrip(b'\xef\xbb\xbf \t\r\n').startswith(b'['):
      yield from _array(f.read())
      return
    for number, raw in enumerate(f, 1):
      if not raw.strip():
        continue
      try:
        yield _object(number, json_text.loads(raw.decode('utf-8-sig' if number == 1 else 'utf-8')))
      except UnicodeDecodeError as e:
        yield _not_utf8(number, e)
      except json_text.Deep:
        yield Found(number, None, 'is nested too deeply for JSON to be read')
      except ValueError as e:      # also numbers of thousands of digits
        yield Found(number, None, f'is not JSON ({getattr(e, "msg", e)})')


_BETWEEN = re.compile(r'[ \t\r\n,]*')


def _object(number: int, value: Any) -> Found:
  return Found(number, value) if isinstance(value, dict) else Found(number, None, 'is not a JSON object')


def _array(raw: bytes) -> Iterator[Found]:
  """The objects of a JSON array, each with the line on which it begins."""
  try:
    text = raw.decode('utf-8-sig')
  except UnicodeDecodeError as e:
    yield _not_utf8(raw[:e.start].count(b'\n') + 1, e)
    return
  decoder, at, line = json.JSONDecoder(object_pairs_hook=json_text.once), text.index('[') + 1, 1
  counted, objects = 0, 0
  while True:
    between = _BETWEEN.match(text, at)
    assert between is not None      # it matches nothing too
    at = between.end()
    line, counted = line + text.count('\n', counted, at), at
    ends = text[at:at + 1] == ']'
    if between[0].count(',') != (objects > 0 and not ends):
      yield Found(line, None, 'is not JSON (one comma stands between two objects); the rest of the array is not read')
      return
    if ends:
      if text[at + 1:].strip():
        yield Found(line, None, 'goes on after the end of the array')
      return
    try:
      value, at = decoder.raw_decode(text, at)
    except RecursionError:
      yield Found(line, None, 'is nested too deeply for JSON to be read')
      return
    except ValueError as e:      # what follows cannot be told apart any more
      yield Found(line, None, f'is not JSON ({getattr(e, "msg", e)}); the rest of the array is not read')
      return
    objects += 1
    yield _object(line, value)


def _table(path: Path) -> Iterator[Found]:
  """CSV and TSV."""
  yield from delimited.read(path, lambda: _bytes(path), '\t' if _suffix(path) == '.tsv' else None)


def _parquet(path: Path) -> Iterator[Found]:
  import pyarrow.parquet as pq
  yield from _of_batches(path, pq.ParquetFile(path).iter_batches(1024))


def _arrow(path: Path) -> Iterator[Found]:
  yield from _of_batches(path, _record_batches(path))


def _record_batches(path: Path) -> Iterator[Any]:
  """The batches of Arrow's file format, or of its stream format."""
  import pyarrow as pa
  with pa.memory_map(str(path)) as source:
    try:
      file = pa.ipc.open_file(source)
    except pa.ArrowInvalid:
      source.seek(0)
      yield from pa.ipc.open_stream(source)
    else:
      yield from (file.get_batch(i) for i in range(file.num_record_batches))


def _of_batches(path: Path, batches: Iterator[Any]) -> Iterator[Found]:
  """The rows of a table's batches.

  Raises:
    InputError: two columns have one name.
  """
  number = 0
  for batch in batches:
    names = batch.schema.names
    if twice := [name for name in names if names.count(name) > 1]:
      raise InputError(f'{path}: has two columns {twice[0]!r}')
    for row in batch.to_pylist():
      number += 1
      yield Found(number, row)


def _saved(path: Path) -> Iterator[Found]:
  """A folder that `datasets.save_to_disk` wrote of one split."""
  for number, row in enumerate(_loaded(path), 1):
    yield Found(number, row)


def _loaded(path: Path) -> Any:
  import datasets
  return datasets.load_from_disk(str(path))


def _text(path: Path) -> Iterator[Found]:
  """A text file is one row."""
  with _bytes(path) as f:
    raw = f.read()
  try:
    text = raw.decode('utf-8-sig')
  except UnicodeDecodeError as e:
    yield _not_utf8(raw[:e.start].count(b'\n') + 1, e)
    return
  if text.lstrip()[:1] in ('{', '['):
    yield Found(1, None, 'begins like JSON, and a file that ends in .txt or .md is one row; name it .jsonl')
  elif text.strip():
    yield Found(1, {'text': text})


def _folder(path: Path) -> Iterator[Found]:
  """A folder of text files: a row each, with the file's name, in the order of their names.

  Raises:
    InputError: there is none in it.
  """
  inside = [*_inside(path)]
  files = sorted(file for file in inside if _suffix(file) in TEXT)
  others = sorted(file for file in inside if _suffix(file) in READERS and _suffix(file) not in TEXT)
  if not files or others:
    found = f'holds {others[0].relative_to(path)}' if others else f'is a folder without {" or ".join(TEXT)} files'
    raise InputError(f'{path}: {found}; name a file in it, or for a folder of several splits task.name=datasets')
  for number, file in enumerate(files, 1):
    for one in _text(file):
      named = f'{file.relative_to(path)}: line {one.place} {one.wrong}' if one.wrong else ''
      yield Found(number, None if one.row is None else {**one.row, 'file': str(file.relative_to(path))}, named)


def _inside(path: Path) -> Iterator[Path]:
  """The files in a folder that are not hidden."""
  return (file for file in path.rglob('*') if file.is_file() and not any(
      part.startswith('.') for part in file.relative_to(path).parts))


READERS: dict[str, Callable[[Path], Iterator[Found]]] = {
    '.jsonl': _lines, '.ndjson': _lines, '.json': _lines, '.csv': _table, '.tsv': _table, '.parquet': _parquet,
    '.arrow': _arrow, '.txt': _text, '.md': _text}
