"""Groups of a config as NamedTuples: every field is of the type that its NamedTuple says, wherever it was given."""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from types import NoneType
from typing import Any, get_args, get_type_hints

import numpy as np
from ml_collections import ConfigDict

from research.errors import InputError
from research.json_text import flat

MOST = 2 ** 31      # above all sizes and seeds
LEAST, LARGEST = map(float, (np.finfo(np.float32).tiny, np.finfo(np.float32).max))
Texts = tuple[str, ...]
Pairs = tuple[tuple[str, float], ...]      # patterns, and a number for what each matches
WORDS: dict[Any, str] = {str: 'text', int: 'a whole number', float: 'a number', bool: 'True or False', Texts: 'a list',
                         Pairs: 'pairs of a pattern and a number', bool | str: 'True, False or auto'}


@cache
def types(group: type) -> dict[str, Any]:
  """Field of a group's NamedTuple -> its type, a key of `WORDS`."""
  hints = get_type_hints(group)
  return {field: hint if hint in WORDS else next((kind for kind in get_args(hint) if kind in WORDS), hint)
          for field, hint in hints.items()}


@cache
def needed(group: type) -> frozenset[str]:
  """The fields of a group's NamedTuple that may not be None, and so must be given."""
  hints = get_type_hints(group)
  return frozenset(field for field in hints if NoneType not in get_args(hints[field]))


def typed(config: Mapping[str, Any], groups: Mapping[str, Any], shipped: str, of_all: Sequence[str] = ()) -> dict[str, Any]:
  """The groups of a config, each as its NamedTuple, with every field of the type that this says.

  Args:
    config: as nested dicts.
    groups: name of a group -> its NamedTuple.
    shipped: the config that holds every field, for an error.
    of_all: fields that are in no group.
  Raises:
    InputError: names the first field that is of another type, is missing, or is none of a config's.
  """
  if unknown := config.keys() - {*groups, *of_all}:
    raise InputError(f'{min(unknown)}: no config has this group of fields (groups: {", ".join(groups)})')
  found = {}
  for group, kind_of in groups.items():
    if not isinstance(config.get(group), dict):
      raise InputError(f'{group}: is missing from the config, or no group of fields; {shipped} holds all')
    found[group] = fields(config[group], kind_of, shipped, group)
  for field, whole in flat(dict(config)).items():
    for value in _numbers(whole):
      if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f'{field}={value}: must be a finite number')
      if isinstance(value, float) and value and not LEAST <= abs(value) <= LARGEST:
        raise InputError(f'{field}={value}: is beyond what a float32 holds ({LEAST:.2g} to {LARGEST:.2g})')
      if isinstance(value, int) and abs(value) >= MOST and not field.endswith('seed'):      # seeds say their own range
        raise InputError(f'{field}={value!r:.40}: must be below 2^31')
  return found


def fields(config: Mapping[str, Any], kind_of: Any, shipped: str, group: str = '') -> Any:
  """The fields of one group, as its NamedTuple.

  Args:
    config: the group's fields.
    kind_of: its NamedTuple.
    shipped: as for `typed`.
    group: its name; empty for fields that are in none.
  Raises:
    InputError: as for `typed`.
  """
  prefix = group and f'{group}.'
  if missing := [field for field in kind_of._fields if field in needed(kind_of) and field not in config]:
    raise InputError(f'{prefix}{missing[0]}: is missing from the config; {shipped} holds every field')
  for field, value in config.items():
    kind = types(kind_of).get(field)
    if kind is None:
      of = group and f' of {group}'
      raise InputError(f'{prefix}{field}: no config has this field (fields{of}: {", ".join(types(kind_of))})')
    if not _is(value, kind) and not (value is None and field not in needed(kind_of)):
      raise InputError(f'{prefix}{field}={value!r:.80}: must be {WORDS[kind]}')
  return kind_of(**{field: frozen(value) for field, value in config.items()})


def plain(config: Any) -> dict[str, Any]:
  """What a config file's `get_config` returned, as nested dicts, as JSON gives them back.

  Raises:
    InputError: it is no config.
  """
  if not isinstance(config, ConfigDict):
    raise InputError(f'get_config() returns {type(config).__name__}, not an ml_collections.ConfigDict')
  return jsonable(config)


def jsonable(fields: Mapping[str, Any]) -> dict[str, Any]:
  """Groups as dicts, tuples as lists."""
  return {k: jsonable(v) if isinstance(v, ConfigDict) else list(v) if isinstance(v, tuple) else v for k, v in fields.items()}


def frozen(value: Any) -> Any:
  """A value with its lists as tuples, and its dicts as tuples of pairs."""
  if isinstance(value, Mapping):
    value = tuple(value.items())
  return tuple(map(frozen, value)) if isinstance(value, (list, tuple)) else value


def _numbers(value: Any) -> Iterator[float]:
  """All numbers of a value, those in its lists with them."""
  if isinstance(value, (list, tuple)):
    for one in value:
      yield from _numbers(one)
  elif isinstance(value, (int, float)):
    yield value


def _is(value: Any, kind: Any) -> bool:
  if kind == Texts:
    return isinstance(value, (list, tuple))
  if kind == Pairs:                # as flags give pairs, and as a run's config keeps them
    return isinstance(value, dict) or (isinstance(value, (list, tuple)) and all(
        isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in value))
  if kind is float:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
  if kind == bool | str and isinstance(value, (bool, str)):      # flags give every value of such a field as a text
    return str(value).lower() in ('true', 'false', 'auto')
  if kind is str and isinstance(value, str):
    return value.isascii() or not any(0xd800 <= ord(c) < 0xe000 for c in value)
  return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
