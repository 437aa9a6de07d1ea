"""What a run writes at its steps: metrics.jsonl, and the same for TensorBoard. Of several processes the first writes it."""

import os
import time
from pathlib import Path
from typing import Any

from research import json_text, run_files
from research.distributed import processes
from research.errors import InputError

REMEDY = 'put it back from a copy, or train the run again in another workdir'


class MetricsLog:
  """Writes a run's metrics, one line a step, each step once however often the run was interrupted."""

  def __init__(self, workdir: Path):
    self._path = workdir / run_files.METRICS
    self._tensorboard = workdir / run_files.TENSORBOARD
    self._writer: Any = None                      # tensorboard's, which has no types
    self.history: list[dict[str, Any]] = []       # all lines so far

  def start(self, step: int | None, to_the_end: bool = True) -> None:
    """Goes on after `step` (None: from nothing): later lines, which no checkpoint holds, are forgotten.

    Lines up to there that are not those of steps 1 to `step` are refused (`InputError`).

    Args:
      step: that of the checkpoint.
      to_the_end: whether the run has taken all steps up to there; in a cohort one may have ended before.
    """
    lines = [] if step is None else self._written(step, to_the_end)
    self.history = lines
    processes.barrier('metrics read')
    run_files.write_jsonl(self._path, lines)
    if not processes.is_primary():
      return
    from tensorboard.compat.proto import event_pb2
    from tensorboard.summary.writer.event_file_writer import EventFileWriter
    self._writer = EventFileWriter(str(self._tensorboard))
    restart = event_pb2.SessionLog(status=event_pb2.SessionLog.START)   # TensorBoard drops what came after this step
    self._writer.add_event(event_pb2.Event(wall_time=time.time(), step=(step or 0) + 1, session_log=restart))

  def _written(self, step: int, to_the_end: bool) -> list[dict[str, Any]]:
    """The lines up to a step, each of which there must be once, in order; what comes after them may be torn.

    Raises:
      InputError: one is missing, doubled or damaged.
    """
    try:
      raw = self._path.read_text(encoding='utf-8').split('\n')
      raw = raw[:step] if to_the_end else raw[:-1][:step]
    except (OSError, UnicodeDecodeError) as e:
      raise InputError(f'{self._path}: cannot be read ({e}), and a checkpoint resumes after step {step}; {REMEDY}') from None
    lines = []
    for number, line in enumerate(raw + [''] * (step - len(raw) if to_the_end else 0), 1):
      try:
        row = json_text.loads(line)
        json_text.expect(row, {'step': int, 'train/loss': json_text.NUMBER, str: json_text.NUMBER}, 'the line')
      except (ValueError, InputError):
        row = {}
      if row.get('step') != number:
        raise InputError(f'{self._path}: line {number} is not that of step {number}, and a checkpoint resumes after step '
                         f'{step}: the file is damaged; {REMEDY}')
      lines.append(row)
    return lines

  def write(self, rows: list[dict[str, Any]]) -> None:
    """Appends lines, on disk before it returns; each has `step`."""
    self.history += rows
    if not processes.is_primary():
      return
    from tensorboard.compat.proto import event_pb2, summary_pb2
    with open(self._path, 'a', encoding='utf-8') as f:
      f.writelines(json_text.dumps(row) + '\n' for row in rows)
      f.flush()
      os.fsync(f.fileno())
    for row in rows:
      values = [summary_pb2.Summary.Value(tag=name, simple_value=value) for name, value in row.items() if name != 'step']
      self._writer.add_event(event_pb2.Event(wall_time=time.time(), step=row['step'],
                                             summary=summary_pb2.Summary(value=values)))

  def close(self) -> None:
    if self._writer is not None:
      self._writer.close()
