"""A row's texts made clean: pure functions, in the order in which they are applied."""

import html
import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

from research.data.rows import Row
from research.preparation.settings import CleanSettings

_CONTROL = re.compile(r'[\x00-\x08\x0b-\x1f\x7f]')
_BLANKS = re.compile(r'[^\S\n]+')
_LINES = re.compile(r'\n{3,}')


def clean(row: Row, settings: CleanSettings) -> tuple[Row, list[str]]:
  """The row with every text in it cleaned, in lists and objects too; and the steps that changed something."""
  changed = []
  for name, step in STEPS.items():
    if getattr(settings, name):
      cleaned: Row = _mapped(step, row)
      if cleaned != row:
        changed.append(name)
      row = cleaned
  return row, changed


def _mapped(step: Callable[[str], str], value: Any) -> Any:
  if isinstance(value, str):
    return step(value)
  if isinstance(value, list):
    return [_mapped(step, one) for one in value]
  if isinstance(value, dict):
    return {name: _mapped(step, one) for name, one in value.items()}
  return value


def unicode(value: str) -> str:
  """The text without mojibake and control characters, in NFC; quotation marks stay as they are (by ftfy)."""
  if value.isascii() and not _CONTROL.search(value):
    return value
  import ftfy
  return ftfy.fix_text(value, unescape_html=False, uncurl_quotes=False, fix_latin_ligatures=False, normalization='NFC')


def even_whitespace(value: str) -> str:
  """The text with single blanks, at most one empty line at a time, and nothing at its ends."""
  if ' '.join(value.split()) == value:      # one line that is even, as most are
    return value
  lines = (_BLANKS.sub(' ', line).strip() for line in value.replace('\r\n', '\n').replace('\r', '\n').split('\n'))
  return _LINES.sub('\n\n', '\n'.join(lines)).strip()


class _Data(HTMLParser):
  """What stands between the tags of an HTML text, but for scripts and styles."""

  def __init__(self) -> None:
    super().__init__(convert_charrefs=True)
    self.parts: list[str] = []
    self.hidden = 0

  def handle_starttag(self, tag: str, attrs: Any) -> None:
    self.hidden += tag in ('script', 'style')
    if tag in ('br', 'p', 'div', 'li', 'tr'):
      self.parts.append('\n')

  def handle_endtag(self, tag: str) -> None:
    self.hidden = max(0, self.hidden - (tag in ('script', 'style')))

  def handle_data(self, data: str) -> None:
    if not self.hidden:
      self.parts.append(data)


def without_markup(value: str) -> str:
  """The text without HTML's tags, its entities as characters."""
  if '<' not in value:
    return html.unescape(value)
  parser = _Data()
  parser.feed(value)
  parser.close()
  return ''.join(parser.parts)


# Field of the config's group `clean` -> what it does, in this order.
STEPS: dict[str, Callable[[str], str]] = {'unicode': unicode, 'markup': without_markup, 'whitespace': even_whitespace}
