"""Metrics of a person's own: a Python file's function of a prediction and its row to a number, named FILE.py:FUNCTION.

What the score is like stands in the name too, so that a report needs the name alone: `mine.py:cost:lower` is better where it is
lower, `mine.py:share:0..1` has a least and a most. Without these a score is better where it is higher, and without limits.
"""

import hashlib
import importlib.util
import math
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from research.errors import InputError

Judge = Callable[[str, dict[str, Any]], Any]      # (prediction, row) -> a number
_NUMBER = r'-?\d+(?:\.\d+)?'
_LIMITS = rf'(?::(?P<least>{_NUMBER})?\.\.(?P<most>{_NUMBER})?)?'
_NAME = re.compile(rf'(?P<file>.+\.py):(?P<function>[^:]+)(?P<lower>:lower)?{_LIMITS}', re.S)
FORM = 'FILE.py:FUNCTION, after which :lower, :LEAST..MOST or both may stand'


class Own(NamedTuple):
  """What the name of such a metric says."""
  name: str
  file: Path
  function: str
  lower: bool
  least: float
  most: float

  @property
  def worst(self) -> float:
    return self.most if self.lower else self.least


def is_own(name: str) -> bool:
  """Whether a metric is a person's own."""
  return '.py:' in name


def parse(name: str) -> Own:
  """What a name says, without a look at the file.

  Raises:
    InputError: it is not of the form.
  """
  found = _NAME.fullmatch(name)
  least, most = (float(found[side] or limit) for side, limit in (('least', -math.inf), ('most', math.inf))) if found else (0, 0)
  if not found or not found['function'].isidentifier() or least >= most:
    raise InputError(f'task.metrics={name}: must be {FORM}')
  return Own(name, Path(found['file']).expanduser(), found['function'], bool(found['lower']), least, most)


def fingerprint(name: str) -> str:
  """Hash of the file of a metric; where there is none it is refused (`InputError`)."""
  return hashlib.sha256(_read(parse(name))).hexdigest()[:16]


def load(own: Own) -> Judge:
  """The function that a metric names; one that cannot be had is refused (`InputError`)."""
  return _function(own, _read(own))


def _read(own: Own) -> bytes:
  try:
    return own.file.read_bytes()
  except OSError as e:
    raise InputError(f'task.metrics={own.name}: {own.file}: cannot be read ({e.strerror})') from None


@lru_cache(maxsize=32)
def _function(own: Own, source: bytes) -> Judge:
  spec = importlib.util.spec_from_file_location(own.file.stem, own.file)
  assert spec is not None and spec.loader is not None      # of a .py file there are both
  module = importlib.util.module_from_spec(spec)
  try:
    exec(compile(source, str(own.file), 'exec'), module.__dict__)
  except Exception as e:  # a person's own file can raise anything
    said = ' '.join(str(e).split())
    raise InputError(f'task.metrics={own.name}: {own.file} cannot be read ({type(e).__name__}: {said:.200})') from None
  function = getattr(module, own.function, None)
  if not callable(function):
    raise InputError(f'task.metrics={own.name}: {own.file} has no function {own.function}()')
  return function


def judge(own: Own, predictions: Sequence[str], rows: Sequence[dict[str, Any]]) -> list[float]:
  """The function's number of every example.

  Where the function cannot be had, or raises or gives no number within the limits for some row, that is refused (`InputError`).

  Args:
    own: the metric.
    predictions: what was said.
    rows: of what it was said, as many.
  """
  function = load(own)
  return [_judged(own, function, number, *one) for number, one in enumerate(zip(predictions, rows))]


def _judged(own: Own, function: Judge, number: int, prediction: str, row: dict[str, Any]) -> float:
  where = f'task.metrics={own.name}: row {number}: {own.function}()'
  try:
    value = function(prediction, dict(row))
  except Exception as e:  # as above
    raise InputError(f'{where} raised {type(e).__name__}: {" ".join(str(e).split()):.200}') from None
  if not isinstance(value, (int, float, np.number, np.bool_)) or not math.isfinite(value):
    raise InputError(f'{where} gives {value!r:.80}, which is no finite number')
  if not own.least <= value <= own.most:
    raise InputError(f'{where} gives {value!r:.80}, which is not within {own.least:g}..{own.most:g}, as the name says')
  return float(value)
