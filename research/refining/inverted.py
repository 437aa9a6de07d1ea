"""Templates read backwards: the columns that a text was made of, where one row alone makes it."""

import string
from bisect import bisect_left
from collections.abc import Iterator
from functools import lru_cache

from research.data.rows import Row

MOST = 1000      # readings that are looked at, of a template that names a column more than once
NO_MATCH, SEVERAL = "its prompt is none that the task's template makes", 'its prompt can be read in several ways'
FORMATTED = "the task's template takes columns apart or formats them, so that prompts cannot be read back"


class NoRow(Exception):
  """Why something gives no row, in words that many share."""


def columns_of(template: str, text: str) -> Row:
  """The row of texts of which the template makes this text.

  Args:
    template: over the columns, as `templates.fill` takes it.
    text: what it was filled in to.
  Raises:
    NoRow: no row makes the text, several do, or the template says other than a column's own text.
  """
  literals, fields = _parts(template)
  found: Row | None = None
  if not text.startswith(literals[0]):
    raise NoRow(NO_MATCH)
  for looked_at, values in enumerate(_readings(literals[1:], text, len(literals[0])) if fields else _constant(literals, text)):
    row: Row = {}
    if looked_at == MOST:
      raise NoRow(SEVERAL)
    if all(row.setdefault(field, value) == value for field, value in zip(fields, values)):
      if found is not None:
        raise NoRow(SEVERAL)
      found = row
  if found is None:
    raise NoRow(NO_MATCH)
  return found


@lru_cache(maxsize=64)
def _parts(template: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
  """(literals, fields): the texts before, between and after the columns, and these.

  Raises:
    NoRow: as `columns_of`.
  """
  literals, fields, before = [], [], ''
  for literal, field, how, conversion in string.Formatter().parse(template):
    before += literal
    if field is not None:
      if how or conversion or not field or '[' in field or '.' in field:
        raise NoRow(FORMATTED)
      literals.append(before)
      fields.append(field)
      before = ''
  return (*literals, before), tuple(fields)


def _constant(literals: tuple[str, ...], text: str) -> list[tuple[str, ...]]:
  """The one reading of a template without columns, if the text is what it always says."""
  return [()] if text == literals[0] else []


def _readings(after: tuple[str, ...], text: str, start: int) -> Iterator[tuple[str, ...]]:
  """All ways to cut a text into as many values as there are literals, of which each stands after its value.

  Args:
    after: the literals; the last one ends the text.
    text: all of it.
    start: where the first value begins.
  """
  ends: list[list[int]] = [[]] * len(after)      # of each value, where it may end so that the rest can follow
  last = len(text) - len(after[-1])
  ends[-1] = [last] if text.endswith(after[-1]) and last >= start else []
  for number in range(len(after) - 2, -1, -1):
    most = max(ends[number + 1], default=-1) - len(after[number])
    ends[number] = [at for at in _places(after[number], text, start) if at <= most]

  def cut(number: int, begin: int) -> Iterator[tuple[str, ...]]:
    for end in ends[number][bisect_left(ends[number], begin):]:
      if number + 1 == len(after):
        yield (text[begin:end],)
      else:
        for rest in cut(number + 1, end + len(after[number])):
          yield (text[begin:end], *rest)
  return cut(0, start)


def _places(part: str, text: str, start: int) -> Iterator[int]:
  """Where a part stands in a text, from a place on."""
  at = text.find(part, start)
  while at >= 0:
    yield at
    at = text.find(part, at + 1) if at < len(text) else -1
