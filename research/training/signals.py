"""Ctrl-C and SIGTERM: noted while steps are taken, and obeyed after a whole one."""

import signal
from types import FrameType
from typing import Any

from research.distributed import processes


class Stopped(BaseException):
  """A signal asked the process to end; `signum` is its number."""

  def __init__(self, signum: int):
    super().__init__(signum)
    self.signum = signum


class Interrupts:
  """While in use, Ctrl-C and SIGTERM wait until they are asked for: never in the middle of a step whose state was donated.

  Of several processes all end after the same step, whichever was asked to; JAX itself hears SIGTERM then.
  """

  def __enter__(self) -> 'Interrupts':
    self._asked: int | None = None
    heard = (signal.SIGINT,) if processes.is_multiprocess() else (signal.SIGINT, signal.SIGTERM)
    self._before = {s: signal.signal(s, self._ask) for s in heard}
    return self

  def _ask(self, signum: int, frame: FrameType | None) -> None:
    if processes.is_multiprocess():
      signal.raise_signal(signal.SIGTERM)
      return
    if self._asked and not _is_lost(frame):         # asked twice: a compilation can take long
      raise Stopped(signum)
    self._asked = signum

  def asked(self, step: int | None = None) -> int | None:
    """The signal that came, if any; of several processes, after this step, which all must ask about."""
    if processes.is_multiprocess():
      return signal.SIGTERM if step is not None and processes.preemption_requested(step) else None
    return self._asked

  def __exit__(self, *exception: Any) -> None:
    for signum, handler in self._before.items():
      signal.signal(signum, handler)
    if processes.is_multiprocess():
      signal.signal(signal.SIGTERM, _end)           # there are no more steps after which all could end


def _is_lost(frame: FrameType | None) -> bool:
  """Whether Python would print an exception that is raised here, and go on: in what runs at garbage collection."""
  while frame:
    if frame.f_code.co_name in ('__del__', '_xla_gc_callback'):
      return True
    frame = frame.f_back
  return False


def _end(signum: int, frame: Any) -> None:
  raise Stopped(signum)
