"""Rows out of tables as text: CSV, TSV and their like."""

import csv
import io
import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from research.data.rows import Found
from research.errors import InputError

DELIMITERS = ',;\t|'
LONGEST = 2 ** 27      # characters of one field


def read(path: Path, opened: Callable[[], Any], delimiter: str | None) -> Iterator[Found]:
  """Everything in a table with a header; every value is text, as it stands there.

  Args:
    path: of the file, for errors.
    opened: opens its bytes.
    delimiter: between fields; None: the one of `DELIMITERS` that the header holds most often.
  Raises:
    InputError: it is not UTF-8.
  """
  csv.field_size_limit(LONGEST)
  with io.TextIOWrapper(opened(), 'utf-8-sig', newline='') as f:
    try:
      yield from _records(path, f, delimiter)
    except UnicodeDecodeError as e:
      raise InputError(f'{path}: {_line_not_utf8(opened)}is not UTF-8 text ({e.reason}); save the file as UTF-8') from None


def _line_not_utf8(opened: Callable[[], Any]) -> str:
  """The first line of a file that is not UTF-8, as words of an error."""
  with opened() as f:
    for number, raw in enumerate(f, 1):
      try:
        raw.decode()
      except UnicodeDecodeError:
        return f'line {number} '
  return ''


def _records(path: Path, f: Any, delimiter: str | None) -> Iterator[Found]:
  first, before = f.readline(), 0                                   # empty lines before the header
  while first and not first.strip():
    first, before = f.readline(), before + 1
  unquoted = re.sub(r'"(?:[^"]|"")*("|$)', '', first)                # a column's name may hold any of them
  delimiter = delimiter or max(DELIMITERS, key=lambda d: (unquoted.count(d), -DELIMITERS.index(d)))
  reader = csv.reader(itertools.chain([first], f), delimiter=delimiter, strict=True)
  try:
    header = next(reader, [])
  except csv.Error as e:
    raise InputError(f'{path}: line {before + 1}, the header, is not CSV ({e})') from None
  if not header:
    raise InputError(f'{path}: holds no rows')
  twice = [name for name in header if header.count(name) > 1 and name]
  if twice or not all(header):
    raise InputError(f'{path}: line {before + 1}, the header, ' + (f'names the column {twice[0]!r} twice' if twice else
                                                       'leaves a column without a name'))
  while True:
    begins = before + reader.line_num + 1
    try:
      record = next(reader, None)
    except csv.Error as e:
      yield Found(begins, None, f'is not CSV ({e})')
      continue
    if record is None:
      return
    if not record:                     # an empty line
      continue
    if len(record) != len(header):
      yield Found(begins, None, f'has {len(record)} fields and the header {len(header)}: put a field that holds {delimiter!r} '
                                'in quotes')
    else:
      yield Found(begins, dict(zip(header, record)))
