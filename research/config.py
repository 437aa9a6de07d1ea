"""What fields a config has, and of what type: the same whether a file, a flag or a study gave them."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from research import run_files
from research.errors import InputError

MOST = 2 ** 31      # above all sizes and seeds
LEAST, LARGEST = map(float, (np.finfo(np.float32).tiny, np.finfo(np.float32).max))
OF_ALL = ('check_memory',)      # fields that are in no group
TYPES: dict[str, dict[type, str]] = {
    'model': {str: 'source dtype param_dtype quantize remat attention', bool: 'scan', int: 'vocab context'},
    'task': {str: 'name train valid test label path subset prompt target separator objective', int: 'rows max_new_tokens',
             tuple: 'choices metrics stop', bool: 'chat', float: 'noise span'},
    'strategy': {str: 'name targets also feedforward placement init init_text selection init_from',
                 int: 'rank width slots hidden layers shots block neumann', float: 'alpha ratio initial_d dropout',
                 bool: 'fused calibrate allow_other_base', dict: 'rank_pattern alpha_pattern'},
    'training': {float: 'learning_rate epochs warmup weight_decay label_smoothing clip b1 b2 eps',
                 int: 'steps batch_size microbatches seed order_seed init_seed dropout_seed rows_seed shots_seed eval_every '
                      'eval_batch_size checkpoint_every log_every patience',
                 str: 'optimizer schedule best_metric init_from'},
    'mesh': {int: 'data fsdp tensor'}}
NEEDED = {'model': 'source dtype param_dtype quantize scan remat attention vocab context', 'task': 'name rows',
          'strategy': 'name', 'mesh': 'data fsdp tensor',
          'training': 'learning_rate steps epochs batch_size microbatches seed optimizer schedule warmup weight_decay '
                      'label_smoothing clip b1 b2 eps eval_every eval_batch_size checkpoint_every log_every best_metric '
                      'patience'}      # which may not be None
WORDS = {str: 'text', int: 'a whole number', float: 'a number', bool: 'True or False', tuple: 'a list',
         dict: 'pairs of a pattern and a number'}


def check(config: dict[str, Any]) -> None:
  """Refuses a config of which a field is of another type than it is read as, or a number that nothing can have.

  Args:
    config: as nested dicts.
  Raises:
    InputError: names the first such field, or group of fields, and one that is missing.
  """
  if unknown := config.keys() - {*TYPES, *OF_ALL}:
    raise InputError(f'{min(unknown)}: no config has this group of fields (groups: {", ".join(TYPES)})')
  for group, types in TYPES.items():
    if not isinstance(config.get(group), dict):
      raise InputError(f'{group}: is missing from the config, or no group of fields; configs/default.py holds all')
    if missing := [field for field in NEEDED[group].split() if field not in config[group]]:
      raise InputError(f'{group}.{missing[0]}: is missing from the config; configs/default.py holds every field')
    of_field = {field: kind for kind, fields in types.items() for field in fields.split()}
    for field, value in config[group].items():
      kind = of_field.get(field)
      if kind is None:
        raise InputError(f'{group}.{field}: no config has this field (fields of {group}: {", ".join(of_field)})')
      if not _is(value, kind) and not (value is None and field not in NEEDED[group].split()):
        raise InputError(f'{group}.{field}={value!r:.80}: must be {WORDS[kind]}')
  for field, whole in run_files.flat(config).items():
    for value in _numbers(whole):
      if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f'{field}={value}: must be a finite number')
      if isinstance(value, float) and value and not LEAST <= abs(value) <= LARGEST:
        raise InputError(f'{field}={value}: is beyond what a float32 holds ({LEAST:.2g} to {LARGEST:.2g})')
      if isinstance(value, int) and abs(value) >= MOST and not field.endswith('seed'):      # seeds say their own range
        raise InputError(f'{field}={value!r:.40}: must be below 2^31')


def _numbers(value: Any) -> Iterator[float]:
  """All numbers of a value, those in its lists with them."""
  if isinstance(value, (list, tuple)):
    for one in value:
      yield from _numbers(one)
  elif isinstance(value, (int, float)):
    yield value


def _is(value: Any, kind: type) -> bool:
  if kind in (tuple, dict):      # as flags give pairs, and as a run's config keeps them
    return isinstance(value, (list, tuple) if kind is tuple else (list, tuple, dict))
  if kind is float:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
  if kind is str and isinstance(value, str):
    return value.isascii() or not any(0xd800 <= ord(c) < 0xe000 for c in value)
  return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
