"""The rows that are left so far, on disk, and those that went with the reason why."""

from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import numpy as np

from research import json_text
from research.data.rows import Row

SHOWN = 3      # rows of each reason that the report shows


class Corpus:
  """Cleaned rows in the order in which they came; each is known by its number."""

  def __init__(self, folder: Path, dropped: TextIO, hide: Callable[[bytes], bytes] | None = None):
    """
    Args:
      folder: where the rows are kept meanwhile; it exists.
      dropped: takes what went, a JSON object a line.
      hide: what of a row that goes, in JSON, is kept there; None: all.
    """
    self._file = open(folder / 'rows.jsonl', 'w+b')      # noqa: SIM115  # closed in `__exit__`
    self._starts, self._sizes, self._end = array('q'), array('i'), 0
    self._dropped, self._hide = dropped, hide
    self._file_of, self._place_of = array('i'), array('q')
    self._appending = True                        # whether the file's next byte is its end
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

  def add(self, line: bytes, file: int, place: int) -> None:
    """Keeps a row, for now.

    Args:
      line: the row in JSON.
      file: of `files`, its number.
      place: its line there.
    """
    self._starts.append(self._end)
    self._sizes.append(len(line))
    self._append(line)
    self._file_of.append(file)
    self._place_of.append(place)
    self.left.append(1)

  def change(self, number: int, line: bytes) -> None:
    """Puts another row in a row's place."""
    self._starts[number], self._sizes[number] = self._end, len(line)
    self._append(line)

  def _append(self, line: bytes) -> None:
    if not self._appending:      # to seek costs more than to write
      self._file.seek(self._end)
      self._appending = True
    self._file.write(line)
    self._end += len(line)

  def line(self, number: int) -> bytes:
    """A row in JSON, by its number."""
    self._appending = False
    self._file.seek(self._starts[number])
    return self._file.read(self._sizes[number])

  def row(self, number: int) -> Row:
    """A row by its number."""
    found: Row = json_text.loads(self.line(number).decode())
    return found

  def where(self, number: int) -> str:
    """A row's file and line."""
    return f'{self.file_of(number)}:{self._place_of[number]}'

  def file_of(self, number: int) -> str:
    """A row's file."""
    return self.files[self._file_of[number]]

  def file_numbers(self) -> np.ndarray:
    """[N] int32: of each row the number of its file."""
    return np.frombuffer(self._file_of, np.int32)

  def sizes(self) -> np.ndarray:
    """[N] int32: of each row its bytes in JSON."""
    return np.frombuffer(self._sizes, np.int32)

  def kept(self) -> np.ndarray:
    """[N] int64: the numbers of the rows that are left, in order."""
    return np.flatnonzero(np.frombuffer(self.left, np.uint8))

  def refuse(self, file: int, place: int, reason: str, line: bytes, detail: str = '') -> None:
    """Drops what was not kept.

    Args:
      file: of `files`, its number.
      place: its line there.
      reason: why, in a word that many rows share.
      line: what is left of it, in JSON; null where nothing could be read.
      detail: what the reason says of this row alone.
    """
    self._tell(self.files[file], place, reason, line, detail)

  def drop(self, number: int, reason: str, detail: str = '') -> None:
    """Drops a row that was kept so far.

    Args:
      number: the row's.
      reason: as for `refuse`.
      detail: as for `refuse`.
    """
    self.left[number] = 0
    self._tell(self.file_of(number), self._place_of[number], reason, self.line(number), detail)

  def _tell(self, file: str, place: int, reason: str, line: bytes, detail: str) -> None:
    line = self._hide(line) if self._hide else line
    about = {'file': file, 'line': place, 'reason': reason, **({'detail': detail} if detail else {})}
    self._dropped.write(f'{json_text.dumps(about)[:-1]}, "row": {line.decode()}}}\n')
    self.went[reason] += 1
    examples = self.examples.setdefault(reason, [])
    if len(examples) < SHOWN:
      examples.append({**about, 'row': json_text.loads(line.decode())})

  def rows(self) -> Iterator[tuple[int, Row]]:
    """The rows that are left, with their numbers."""
    for number in self.kept().tolist():
      yield number, self.row(number)
