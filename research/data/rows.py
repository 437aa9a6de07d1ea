"""A row, and what stands at one place of a file."""

from typing import Any, NamedTuple

Row = dict[str, Any]


class Found(NamedTuple):
  """What stands at one place of a file: a row, or why it is none."""
  place: int               # the line on which it begins, from 1; of Parquet, Arrow and folders the row
  row: Row | None
  wrong: str = ''
