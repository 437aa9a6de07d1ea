"""JSON as its standard has it, and the form that what was read must have."""

import json
import math
from typing import Any

from research.errors import InputError

_ESCAPED = {code: f'\\u{code:04x}' for code in (0x85, 0x2028, 0x2029, *range(0xd800, 0xe000))}      # see `dumps`
NUMBER = (int, float)


def dumps(value: Any, **how: Any) -> str:
  """JSON as its standard has it: a number that is not finite is null.

  What some readers take for the end of a line (U+0085, U+2028, …), and halves of surrogate pairs, are escaped.

  Args:
    value: what `json.dumps` takes.
    how: its options.
  """
  try:
    text = json.dumps(value, allow_nan=False, ensure_ascii=False, **how)
  except ValueError:
    text = json.dumps(_finite(value), allow_nan=False, ensure_ascii=False, **how)
  return text if text.isascii() else text.translate(_ESCAPED)


def _finite(value: Any) -> Any:
  if isinstance(value, dict):
    return {key: _finite(one) for key, one in value.items()}
  if isinstance(value, (list, tuple)):
    return [_finite(one) for one in value]
  return None if isinstance(value, float) and not math.isfinite(value) else value


def flat(nested: dict[str, Any], prefix: str = '') -> dict[str, Any]:
  """Nested dicts as {'a.b': value}, tuples as lists, as JSON will hold them."""
  out: dict[str, Any] = {}
  for key, value in nested.items():
    if isinstance(value, dict):
      out |= flat(value, f'{prefix}{key}.')
    else:
      out[prefix + key] = list(value) if isinstance(value, tuple) else value
  return out


class Deep(ValueError):
  """JSON that is nested more deeply than it can be read."""


def loads(text: str) -> Any:
  """What a JSON text holds.

  Raises:
    Deep: it is nested too deeply. It is a `ValueError`, as what is no JSON, or gives a field of one object twice, raises.
  """
  try:
    return json.loads(text, object_pairs_hook=once)
  except RecursionError:
    raise Deep('it is nested too deeply to be read') from None


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  found = dict(pairs)
  if len(found) < len(pairs):
    names = [name for name, _ in pairs]
    raise ValueError(f'{next(name for name in names if names.count(name) > 1)!r} is given twice')
  return found


def expect(value: Any, fields: Any, where: str, part: str = 'it') -> None:
  """Refuses what was read from a file of ours where it is not of the form in which it was written.

  Args:
    value: what was read.
    fields: a type or several; a list of one form, which all entries have; a dict of field -> form, in which a name that ends
      in `?` may be missing or None, and `str` stands for every field.
    where: what is read, for the error.
    part: of that, the one that the value is.
  Raises:
    InputError: names the first part that is missing or of another form.
  """
  if isinstance(fields, dict):
    if not isinstance(value, dict):
      raise InputError(f'{where}: is damaged: {part} holds {value!r:.40}, not an object')
    for name, form in fields.items():
      if name is str:
        for key, one in value.items():
          expect(one, form, where, key)
      elif name.rstrip('?') in value and not (name.endswith('?') and value[name.rstrip('?')] is None):
        expect(value[name.rstrip('?')], form, where, name.rstrip('?'))
      elif not name.endswith('?'):
        raise InputError(f'{where}: is damaged, or another program\'s: {part} holds no {name!r}')
  elif isinstance(fields, list):
    if not isinstance(value, list):
      raise InputError(f'{where}: is damaged: {part} holds {value!r:.40}, not a list')
    for number, one in enumerate(value, 1):
      expect(one, fields[0], where, f'entry {number} of {part}')
  elif not isinstance(value, fields) or (isinstance(value, bool) and fields in (int, NUMBER)) or (
      isinstance(value, float) and not math.isfinite(value)):
    raise InputError(f'{where}: is damaged: {part} holds {value!r:.40}')
