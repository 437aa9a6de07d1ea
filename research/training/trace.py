"""A trace of some steps, for TensorBoard."""

from pathlib import Path

import jax

from research.distributed import processes


class Trace:
  """A trace of the five steps after step `after` (or fewer, where the run ends) in JAX's format; none without a folder."""

  def __init__(self, folder: Path | None, after: int):
    self._folder, self._after, self._on = folder if processes.is_primary() else None, after, False

  def borders(self, step: int) -> bool:
    """Whether the trace begins or ends after this step, which must have come to its end before `after` is told."""
    return self._folder is not None and step in (self._after, self._after + 5)

  def after(self, step: int) -> None:
    if self._folder is not None and step == self._after:
      jax.profiler.start_trace(str(self._folder))
      self._on = True
    elif step == self._after + 5:
      self.close()

  def close(self) -> None:
    if self._on:
      jax.profiler.stop_trace()
      self._on = False
