"""The rows that are left so far, on disk, and those that went with the reason why."""

from array import array
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import numpy as np

from research import json_text
from research.data.rows import Row

SHOWN = 3      # rows of each reason that the report shows


class Corpus:
  """Cleaned rows in the order in which they came; each is known by its number."""

  def __init__(self, folder: Path, dropped: TextIO):
    """
    Args:
      folder: where the rows are kept meanwhile; it exists.
      dropped: takes what went, a JSON object a line.
    """
    self._file = open(folder / 'rows.jsonl', 'w+b')      # noqa: SIM115  # closed in `__exit__`
    self._starts, self._dropped = array('q', [0]), dropped
    self._file_of, self._place_of = array('i'), array('q')
    self.files: list[str] = []
    self.left = bytearray()                       # of each row 1 as long as it is kept
    self.came = 0                                 # rows in all, those that were none with them
    self.went: Counter[str] = Counter()           # reason -> how many
    self.examples: dict[str, list[dict[str, Any]]] = {}

  def __enter__(self) -> 'Corpus':
    return self

  def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
    self._file.close()

  def __len__(self) -> int:
    return len(self.left)

  def add(self, row: Row, place: int) -> int:
    """Keeps a row of the last of `files`, for now; gives its number."""
    self._file.seek(0, 2)
    self._file.write(json_text.dumps(row, default=str).encode() + b'\n')
    self._starts.append(self._file.tell())
    self._file_of.append(len(self.files) - 1)
    self._place_of.append(place)
    self.left.append(1)
    return len(self.left) - 1

  def row(self, number: int) -> Row:
    """A row by its number."""
    self._file.seek(self._starts[number])
    found: Row = json_text.loads(self._file.read(self._starts[number + 1] - self._starts[number]).decode())
    return found

  def where(self, number: int) -> str:
    """A row's file and line."""
    return f'{self.files[self._file_of[number]]}:{self._place_of[number]}'

  def file_of(self, number: int) -> str:
    """A row's file."""
    return self.files[self._file_of[number]]

  def kept(self) -> np.ndarray:
    """[N] int64: the numbers of the rows that are left, in order."""
    return np.flatnonzero(np.frombuffer(self.left, np.uint8))

  def refuse(self, place: int, reason: str, row: Any, detail: str = '') -> None:
    """Drops what stands in the last of `files` and was not kept.

    Args:
      place: its line.
      reason: why, in words that many rows share.
      row: what is left of it; None where nothing could be read.
      detail: what the reason says of this row alone.
    """
    self._tell(self.files[-1], place, reason, row, detail)

  def drop(self, number: int, reason: str, detail: str = '') -> None:
    """Drops a row that was kept so far.

    Args:
      number: the row's.
      reason: as for `refuse`.
      detail: as for `refuse`.
    """
    self.left[number] = 0
    self._tell(self.file_of(number), self._place_of[number], reason, self.row(number), detail)

  def _tell(self, file: str, place: int, reason: str, row: Any, detail: str) -> None:
    line = {'file': file, 'line': place, 'reason': reason, **({'detail': detail} if detail else {}), 'row': row}
    self._dropped.write(json_text.dumps(line, default=str) + '\n')
    self.went[reason] += 1
    examples = self.examples.setdefault(reason, [])
    if len(examples) < SHOWN:
      examples.append(line)

  def rows(self) -> Iterator[tuple[int, Row]]:
    """The rows that are left, with their numbers."""
    for number in self.kept().tolist():
      yield number, self.row(number)
