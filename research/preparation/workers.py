"""Many rows at a time, on all cores: the same result whatever their number."""

import itertools
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from research.errors import InputError

T = TypeVar('T')
R = TypeVar('R')
ROWS, CHARACTERS = 2048, 8_000_000      # the most of a chunk
ALONE = 8                               # parts up to which other processes take longer to start than they save
_given: Any = None                      # of this process: what `mapped` hands to every call


def chunks(items: Iterable[T], size: Callable[[T], int]) -> Iterator[list[T]]:
  """The items in lists of at most `ROWS`, and of about `CHARACTERS`.

  Args:
    items: in their order.
    size: of each, in characters.
  """
  chunk: list[T] = []
  total = 0
  for item in items:
    chunk.append(item)
    total += size(item)
    if len(chunk) == ROWS or total >= CHARACTERS:
      yield chunk
      chunk, total = [], 0
  if chunk:
    yield chunk


def mapped(function: Callable[[Any, Sequence[T]], R], given: Any, parts: Iterable[Sequence[T]]) -> Iterator[R]:
  """`function(given, part)` of every part, in their order; of many parts in processes, one for each core.

  Args:
    function: of a module, so that another process finds it.
    given: the same for all.
    parts: one after the other; few are held at a time.
  Raises:
    InputError: one of the processes was ended from outside.
  """
  parts = iter(parts)
  first = [*itertools.islice(parts, ALONE + 1)]
  if len(first) <= ALONE or (cores := os.cpu_count() or 1) < 2:
    yield from (function(given, part) for part in itertools.chain(first, parts))
    return
  waiting: deque[Future[R]] = deque()
  with ProcessPoolExecutor(cores, multiprocessing.get_context('spawn'), _begin, (given,)) as pool:
    try:
      for part in itertools.chain(first, parts):
        waiting.append(pool.submit(_call, function, part))
        if len(waiting) > 2 * cores:
          yield waiting.popleft().result()
      while waiting:
        yield waiting.popleft().result()
    except BrokenProcessPool:
      raise InputError('a process that looked at rows was ended from outside, perhaps for want of memory; nothing is left '
                       'behind; try it again with more room') from None
    finally:
      for one in waiting:
        one.cancel()


def _begin(given: Any) -> None:
  """What a process does first: a Ctrl-C is for the one that it works for."""
  global _given
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  _given = given


def _call(function: Callable[[Any, Sequence[Any]], R], part: Sequence[Any]) -> R:
  return function(_given, part)
