"""What a config of `prepare` says, typed; configs/prepare.py says what each field means."""

from typing import Any, NamedTuple

from ml_collections import ConfigDict

from research.config_fields import Texts, jsonable, plain, typed
from research.errors import InputError

BY = ('random', 'time', 'given')


class ColumnSettings(NamedTuple):
  """Which columns say what; None: nothing does, and of `text` all that hold text."""
  text: Texts | None = None
  label: str | None = None
  group: str | None = None
  time: str | None = None


class TaskSettings(NamedTuple):
  """What task.json says, for runs on the folder; None: what follows from the columns, or nothing."""
  prompt: str | None = None
  target: str | None = None
  choices: Texts | None = None
  metrics: Texts | None = None


class CleanSettings(NamedTuple):
  """What is done to each text, and which rows go."""
  unicode: bool
  whitespace: bool
  markup: bool
  shortest: int
  longest: int
  languages: Texts | None = None


class DuplicateSettings(NamedTuple):
  """Which rows are one."""
  exact: bool
  near: bool
  similarity: float


class SplitSettings(NamedTuple):
  """How rows are shared out."""
  by: str
  valid: float
  test: float
  seed: int
  stratify: bool


class LeakSettings(NamedTuple):
  """What of the training rows the other splits may hold."""
  remove: bool
  words: int


class PrepareSettings(NamedTuple):
  """A config of `prepare`, checked."""
  columns: ColumnSettings
  task: TaskSettings
  clean: CleanSettings
  duplicates: DuplicateSettings
  splits: SplitSettings
  leaks: LeakSettings

  def config(self) -> dict[str, dict[str, Any]]:
    """As provenance.json holds it."""
    return {group: jsonable(getattr(self, group)._asdict()) for group in GROUPS}


GROUPS: dict[str, Any] = {'columns': ColumnSettings, 'task': TaskSettings, 'clean': CleanSettings,
                          'duplicates': DuplicateSettings, 'splits': SplitSettings, 'leaks': LeakSettings}


def read(config: ConfigDict) -> PrepareSettings:
  """What a config says, checked.

  Args:
    config: as a file's `get_config` returns it.
  Raises:
    InputError: names the first field that cannot be right.
  """
  found = PrepareSettings(**typed(plain(config), GROUPS, 'configs/prepare.py'))
  s, clean = found.splits, found.clean
  for holds, message in (
      (s.by in BY, f'splits.by={s.by}: must be one of {", ".join(BY)}'),
      (s.by != 'time' or found.columns.time, 'splits.by=time: needs columns.time, which says when a row was'),
      (s.valid >= 0 and s.test >= 0 and s.valid + s.test < 1,
       f'splits.valid={s.valid}, splits.test={s.test}: must be shares of the rows, below 1 together'),
      (0 <= s.seed < 2 ** 31, f'splits.seed={s.seed}: must be 0 or more, and below 2^31'),
      (0.5 <= found.duplicates.similarity <= 1,
       f'duplicates.similarity={found.duplicates.similarity}: must be between 0.5 and 1'),
      (clean.shortest >= 0, f'clean.shortest={clean.shortest}: must be 0 or more'),
      (clean.longest == 0 or clean.longest >= clean.shortest,
       f'clean.longest={clean.longest}: must be 0 (any length) or at least clean.shortest={clean.shortest}'),
      (found.leaks.words >= 0, f'leaks.words={found.leaks.words}: must be 0 (not looked for) or more')):
    if not holds:
      raise InputError(message)
  return found
