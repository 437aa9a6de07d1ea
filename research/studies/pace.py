"""How long a study still takes, by what its cells have taken so far."""

from collections.abc import Callable, Sequence
from typing import Any

from research.console import say
from research.errors import InputError
from research.studies.registration import Shard


class Pace:
  """How long cells took for what they were planned to compute, and so how long those will take that are left."""

  def __init__(self, operations: Callable[[dict[str, Any]], float]):
    self._operations = operations
    self._trained = [0.0, 0.0]          # FLOPs and seconds of the cells in which something learned
    self._others: list[float] = []      # seconds of each other one: few-shot prompting is evaluation alone

  def _planned(self, config: dict[str, Any]) -> float:
    try:
      return self._operations(config)
    except InputError:                  # told where the cell is trained
      return 0.0

  def note(self, configs: Sequence[dict[str, Any]], seconds: float) -> None:
    """Cells that have ended, side by side or one after the other, in so many seconds."""
    operations = sum(map(self._planned, configs))
    if operations:
      self._trained = [self._trained[0] + operations, self._trained[1] + seconds]
    else:
      self._others += [seconds / len(configs)] * len(configs)

  def left(self, configs: Sequence[dict[str, Any]]) -> float | None:
    """Seconds for these cells; None where no cell like one of them has ended."""
    planned = [*map(self._planned, configs)]
    operations, others = sum(planned), planned.count(0.0)
    if (operations and not self._trained[0]) or (others and not self._others):
      return None
    seconds = operations * self._trained[1] / self._trained[0] if operations else 0.0
    return seconds + (others * sum(self._others) / len(self._others) if others else 0.0)

  def tell(self, configs: Sequence[dict[str, Any]], count: int, part: Shard) -> None:
    """Says how far the study is.

    Args:
      configs: of the cells that are left.
      count: of all cells.
      part: of the study, that is trained here; the time is that of all parts side by side.
    """
    seconds = self.left(configs)
    if not configs or seconds is None:
      return
    share = '' if part.count == 1 else f' by {part.count} shards together'
    say(f'study: {count - len(configs)} of {count} cells done; about {spoken(seconds / part.count)} left{share}, without the '
        'test split')


def spoken(seconds: float) -> str:
  """A time as a person says it: '45 seconds', '12 minutes', '3.5 hours'."""
  if seconds < 90:
    return f'{seconds:.0f} seconds'
  return f'{seconds / 60:.0f} minutes' if seconds < 90 * 60 else f'{seconds / 3600:.1f} hours'
