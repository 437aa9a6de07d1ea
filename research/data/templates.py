"""A row's columns put into a template: text, numbers and truth values, and nothing else."""

import math
import re
import string
from functools import lru_cache
from typing import Any

from research.errors import InputError

FIELDS = ('prompt', 'target', 'rejected', 'separator')      # of config.task
WIDEST = 1000      # characters to which a template's format may fill a column up


@lru_cache(maxsize=256)
def fields_of(template: str) -> tuple[str, ...]:
  """The columns that a template names; `{options[0]}` is a part of the column `options`.

  Raises:
    InputError: its braces are not those of a template, or a format in them is wider than any text needs.
  """
  try:
    parts = [*string.Formatter().parse(template)]
  except ValueError as e:
    raise InputError(f'template {template!r}: {e}; write {{{{ and }}}} for braces') from None
  for _, field, how, _ in parts:
    if any(int(digits) > WIDEST for digits in re.findall(r'\d+', how or '')):
      raise InputError(f'template {template!r:.80}: {{{field}:{how}}} is wider than {WIDEST} characters')
  return tuple(field.partition('[')[0] for _, field, _, _ in parts if field is not None)


@lru_cache(maxsize=256)
def _values_of(template: str) -> tuple[str, ...]:
  """The same with the parts of columns, as the template names them."""
  return tuple(field for _, field, _, _ in string.Formatter().parse(template) if field is not None)


def value_of(field: str, row: dict[str, Any]) -> Any:
  """A column of a row, or with `[0]` or `[name]` a part of one that is a list or an object.

  Raises:
    InputError: the row has no such column, or that no such part.
  """
  column, *keys = re.split(r'\]?\[', field.removesuffix(']')) if '[' in field else [field]
  if column not in row:
    raise InputError(f'no column {column!r}, which the template names (columns: {", ".join(map(str, row))})')
  value = row[column]
  for key in keys:
    if isinstance(value, (list, tuple)) and key.isascii() and key.isdecimal() and int(key) < len(value):
      value = value[int(key)]
    elif isinstance(value, dict) and key in value:
      value = value[key]
    else:
      raise InputError(f'column {column!r} holds nothing at [{key}], which the template names ({{{field}}})')
  return value


def fill(template: str, row: dict[str, Any]) -> str:
  """A template with a row's columns in it.

  Raises:
    InputError: a column is missing, holds something else than text, a finite number or a truth value, or does not fit the
      template's format for it.
  """
  fields_of(template)
  for name in _values_of(template):
    wrong = not_text(value_of(name, row))
    if wrong:
      raise InputError(f'column {name!r} {wrong}')
  try:
    return template.format(**row)
  except (ValueError, TypeError, LookupError, AttributeError) as e:
    raise InputError(f'template {template!r:.80} cannot be filled in ({e})') from None


def fill_each(template: str, row: dict[str, Any]) -> tuple[str, ...]:
  """A template with a row's columns in it, once for each text of the column that is a list of texts; without one once.

  Raises:
    InputError: as for `fill`; or the list is empty or holds something else, or several columns are lists.
  """
  lists = [name for name in dict.fromkeys(fields_of(template)) if isinstance(row.get(name), list)]
  if not lists:
    return (fill(template, row),)
  column, *more = lists
  if more:
    raise InputError(f'columns {column!r} and {more[0]!r} are lists; only one that a target names may be')
  texts = row[column]
  if not texts or not all(isinstance(text, str) for text in texts):
    raise InputError(f'column {column!r} is a list, which must hold one text or more and nothing else: the right answers')
  return tuple(fill(template, {**row, column: text}) for text in texts)


def not_text(value: Any) -> str:
  """What is wrong with a value that is to become text; empty where nothing is."""
  if isinstance(value, str):
    return '' if value.isascii() else _not_unicode(value)
  if isinstance(value, (bool, int)):
    return ''
  if isinstance(value, float):
    return '' if math.isfinite(value) else f'is {value}, which is no answer or question; leave the row out, or give it a text'
  kind = {type(None): 'null', list: 'a list', dict: 'an object'}.get(type(value), type(value).__name__)
  return f'is {kind}: only text, numbers and truth values go into a template; leave the row out, or give it a text'


def _not_unicode(text: str) -> str:
  try:
    text.encode()
  except UnicodeEncodeError as e:
    return f'holds {text[e.start]!a}, half of a surrogate pair, which is no character; mend the file\'s encoding'
  return ''


def unescaped(text: str) -> str:
  r"""What a person writes in a shell's quotes: \n, \t and \\ are what Python takes them for; any other backslash is itself."""
  return re.sub(r'\\([nt\\])', lambda found: {'n': '\n', 't': '\t'}.get(found[1], found[1]), text)


def escaped(text: str) -> str:
  """The text of which `unescaped` gives this one back, in one line."""
  return text.replace('\\', '\\\\').replace('\n', '\\n').replace('\t', '\\t')
