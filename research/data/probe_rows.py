"""What rows of every bias probe are read by: each must have its columns, and what is wrong is told with file and line."""

from collections.abc import Iterator
from pathlib import Path

from research.data import formats
from research.data.rows import Found, Row
from research.data.templates import not_text
from research.errors import InputError

COLUMN = 'probe'      # of a row, and of a prediction: the words by which `evaluation.bias` measures it


def with_columns(path: Path, columns: tuple[str, ...], read: Iterator[Found] | None = None) -> Iterator[tuple[str, Row]]:
  """(where it stands, row) of every row of a file, each of which has text in these columns, also where it was a number.

  Args:
    path: of the file.
    columns: those that must be there.
    read: what was found in the file; None: by its name.
  Raises:
    InputError: some line holds none.
  """
  count = 0
  for one in read or formats.read(path):
    where = f'{path}: line {one.place}'
    if one.row is None:
      raise InputError(f'{where} {one.wrong}')
    for column in columns:
      wrong = not_text(one.row.get(column)) if column in one.row else 'is missing'
      if wrong or not str(one.row[column]).strip():
        raise InputError(f'{where}: column {column!r} {wrong or "is empty"}')
    count += 1
    yield where, {**one.row, **{column: str(one.row[column]) for column in columns}}
  if not count:
    raise InputError(f'{path}: holds no rows')


def one_of(where: str, row: Row, column: str, known: tuple[str, ...]) -> str:
  """A column's value, which must be one of those that are known.

  Args:
    where: the row stands.
    row: has the column.
    column: its name.
    known: what it can be.
  Raises:
    InputError: it is another.
  """
  value = str(row[column]).strip()
  if value not in known:
    raise InputError(f'{where}: {column}={value!r:.60}: must be one of {", ".join(known)}')
  return value


def different(where: str, texts: list[str]) -> list[str]:
  """Sentences or answers of a row, as they are.

  Raises:
    InputError: two are the same.
  """
  if len({text.strip() for text in texts}) < len(texts):
    raise InputError(f'{where}: two of its sentences or answers are the same: {" | ".join(texts):.200}')
  return texts


def text_of(path: Path) -> str:
  """A text file as a whole.

  Raises:
    InputError: it is not UTF-8.
  """
  raw = path.read_bytes()
  try:
    return raw.decode('utf-8-sig')
  except UnicodeDecodeError as e:
    line = raw[:e.start].count(b'\n') + 1
    raise InputError(f'{path}: line {line} is not UTF-8 text ({e.reason}); save the file as UTF-8') from None
