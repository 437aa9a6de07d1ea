"""How a request wants its answer: its fields, each of one type and between bounds, as settings of the engine."""

import math
import secrets
from collections.abc import Sequence
from typing import Any

from research.evaluation import decoding
from research.evaluation.decoding import Decoding
from research.experiment.assemble import Experiment
from research.serving.requests import Request
from research.serving.sampling import MOST_BIASED, MOST_TOP

MOST_STOPS = 16      # of a request


class Refused(Exception):
  """A request that is not answered."""

  def __init__(self, message: str, param: str | None = None, status: int = 400, code: str | None = None):
    super().__init__(message)
    self.message, self.param, self.status, self.code = message, param, status, code


def field(body: dict[str, Any], name: str, kind: type, default: Any, low: float = -math.inf, high: float = math.inf) -> Any:
  """A field of a request, or its default.

  Args:
    body: the request.
    name: of the field.
    kind: what it must be; a whole number passes for a number.
    default: where it is not given.
    low: the least that a number may be.
    high: the most.
  Raises:
    Refused: it is something else.
  """
  value = body.get(name, default)
  if name not in body:
    return value
  if kind is float and isinstance(value, int) and not isinstance(value, bool):
    value = float(value)
  if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
    what = {str: 'a text', int: 'a whole number', float: 'a number', bool: 'true or false', dict: 'an object', list: 'a list'}
    raise Refused(f'{name}={value!r:.60}: must be {what[kind]}', name)
  if isinstance(value, (int, float)) and not low <= value <= high:
    bounds = f'from {low:g} to {high:g}' if high < math.inf else f'{low:g} or more'
    raise Refused(f'{name}={value:g}: must be {bounds}', name)
  return value


def log_probabilities(body: dict[str, Any], chat: bool) -> tuple[bool, int, bool]:
  """(whether they are told, of how many of the likeliest tokens too, whether the prompt is told).

  Raises:
    Refused: one of the fields is something else.
  """
  if chat:
    tells, tops = field(body, 'logprobs', bool, False), field(body, 'top_logprobs', int, 0, 0, MOST_TOP)
    if tops and not tells:
      raise Refused('top_logprobs: needs logprobs=true', 'top_logprobs')
    return tells, tops, False
  return 'logprobs' in body, field(body, 'logprobs', int, 0, 0, MOST_TOP), field(body, 'echo', bool, False)


def decoding_of(body: dict[str, Any], exp: Experiment) -> Decoding:
  """How tokens are chosen: as the request says, and otherwise as the run's task does."""
  own = decoding.of_pairs(exp.task.decoding)
  draws = {name: getattr(own, name) for name in ('temperature', 'top_k', 'top_p', 'min_p')}
  given = {'temperature': field(body, 'temperature', float, None, 0, 100), 'top_p': field(body, 'top_p', float, None, 0, 1),
           'top_k': field(body, 'top_k', int, None, -1, 2 ** 31 - 1), 'min_p': field(body, 'min_p', float, None, 0, 1)}
  found = draws | {name: value for name, value in given.items() if value is not None}
  found['seed'] = field(body, 'seed', int, secrets.randbits(31), -2 ** 63, 2 ** 63 - 1) % 2 ** 31
  found['top_k'] = max(found['top_k'], 0)      # -1 is what some clients say for all
  return Decoding(**found) if found['temperature'] >= decoding.COLDEST and found['top_p'] > 0 else decoding.GREEDY


def stops(body: dict[str, Any]) -> tuple[str, ...]:
  """The texts that an answer ends before.

  Raises:
    Refused: they are something else.
  """
  given = body.get('stop', [])
  found = [given] if isinstance(given, str) else given
  if not isinstance(found, list) or not all(isinstance(text, str) for text in found) or len(found) > MOST_STOPS:
    raise Refused(f'stop: must be a text or a list of at most {MOST_STOPS} texts', 'stop')
  return tuple(text for text in found if text)


def bias(body: dict[str, Any], vocab: int) -> tuple[tuple[int, float], ...]:
  """Token ids below `vocab` whose logits change, and by how much.

  Raises:
    Refused: they are something else.
  """
  found = field(body, 'logit_bias', dict, {})
  if len(found) > MOST_BIASED:
    raise Refused(f'logit_bias: {len(found)} tokens are more than {MOST_BIASED}', 'logit_bias')
  for token, value in found.items():
    if not (token.isascii() and token.isdigit()) or int(token) >= vocab:
      raise Refused(f'logit_bias: {token!r:.40} is no token id (0 to {vocab - 1})', 'logit_bias')
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not -100 <= value <= 100:
      raise Refused(f'logit_bias: {value!r:.40}: must be a number from -100 to 100', 'logit_bias')
  return tuple((int(token), float(value)) for token, value in found.items())


def settings(request: Request, names: Sequence[str] = ('temperature', 'top_k', 'top_p', 'min_p', 'seed')) -> dict[str, Any]:
  """What a log keeps of how an answer was written: the settings that are not the usual ones."""
  said = request.decoding.said()
  return {name: said[name] for name in names if name in said} | ({'stop': [*request.stops]} if request.stops else {})
