"""Personal data of texts, found and masked: pure functions of a text or a row."""

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

from research.data.rows import Row
from research.preparation import recognizers
from research.preparation.phones import phones
from research.preparation.recognizers import Hit

KINDS = ('email', 'phone', 'card', 'iban', 'ip', 'key')
REGIONS = ('US', 'GB', 'DE', 'AT', 'CH', 'FR')      # whose numbers are known without their country's code
_MASK = re.compile(rf'\[({"|".join(KINDS).upper()})(?:_([1-9]\d{{0,8}}))?\]')


class Found(NamedTuple):
  """Personal data at one place of a text."""
  kind: str      # one of `KINDS`
  start: int
  end: int
  value: str     # the same for every way in which it may be written


def find(text: str, regions: Sequence[str] = REGIONS) -> list[Found]:
  """Personal data in order; where two kinds might be meant it is the first of key, email, iban, card, ip, phone.

  Masks that stand in the text are none.
  """
  order: tuple[tuple[str, Callable[[str], Iterator[Hit]]], ...] = (
      ('key', recognizers.keys), ('email', recognizers.emails), ('iban', recognizers.ibans), ('card', recognizers.cards),
      ('ip', recognizers.addresses), ('phone', partial(phones, regions=regions)))
  found: list[Found] = []
  if '[' in text:
    text = _MASK.sub(lambda mask: _blank(len(mask[0])), text)
  while True:      # what was taken away may leave a neighbour free, which is found the next time
    before = len(found)
    for kind, recognize in order:
      if hits := _apart([Found(kind, *hit) for hit in recognize(text)]):
        found += hits
        text = _replaced(text, hits, [_blank(hit.end - hit.start) for hit in hits])
    if len(found) == before:
      return sorted(found, key=lambda one: one.start)


def _apart(hits: Sequence[Found]) -> list[Found]:
  """Places in order; of those that lie on each other the first, and of two that begin together the longer."""
  apart: list[Found] = []
  for hit in sorted(hits, key=lambda one: (one.start, -one.end)):
    if not apart or hit.start >= apart[-1].end:
      apart.append(hit)
  return apart


def _replaced(text: str, hits: Sequence[Found], by: Sequence[str]) -> str:
  parts, at = [], 0
  for hit, new in zip(hits, by):
    parts += [text[at:hit.start], new]
    at = hit.end
  return ''.join([*parts, text[at:]])


def _blank(length: int) -> str:
  """As long as what stood there, with a mask's ends, and nothing that could be personal."""
  return '[' + '\0' * (length - 2) + ']'


def mask(row: Row, regions: Sequence[str] = REGIONS, leave: Collection[str] = ()) -> tuple[Row, Counter[str]]:
  """The row with a mask for all personal data in its texts, in lists and objects too, and how many of each kind.

  A value has one mask in a row: [EMAIL] the first of its kind, [EMAIL_2] the second; those that stand there are counted on.

  Args:
    row: of any depth; it stays as it is.
    regions: whose telephone numbers are known without their country's code.
    leave: names of columns that stay as they are.
  """
  counts: Counter[str] = Counter()
  numbers: dict[tuple[str, str], int] = {}
  last: Counter[str] = Counter()
  for name, value in row.items():
    if name not in leave:
      for text in _texts(value):
        for there in _MASK.finditer(text) if '[' in text else ():
          kind = there[1].lower()
          last[kind] = max(last[kind], int(there[2] or 1))

  def masked(value: Any) -> Any:
    if isinstance(value, str):
      return masked_text(value)
    if isinstance(value, list):
      return [*map(masked, value)]
    if isinstance(value, dict):
      return {name: masked(one) for name, one in value.items()}
    return value

  def masked_text(text: str) -> str:
    by, found = [], find(text, regions)
    for kind, _, _, value in found:
      counts[kind] += 1
      if (kind, value) not in numbers:
        last[kind] += 1
        numbers[kind, value] = last[kind]
      number = numbers[kind, value]
      by.append(f'[{kind.upper()}{f"_{number}" if number > 1 else ""}]')
    return _replaced(text, found, by)

  return {name: value if name in leave else masked(value) for name, value in row.items()}, counts


def _texts(value: Any) -> Iterator[str]:
  if isinstance(value, str):
    yield value
  elif isinstance(value, list | dict):
    for one in value.values() if isinstance(value, dict) else value:
      yield from _texts(one)
