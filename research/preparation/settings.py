"""What a config of `prepare` says, typed; configs/prepare.py says what each field means."""

from typing import Any, NamedTuple

from ml_collections import ConfigDict

from research.config_fields import Texts, fields, jsonable, plain, typed
from research.errors import InputError

BY = ('random', 'time', 'given')
PERSONAL = ('mask', 'drop', 'keep', 'off')
LEAKS = ('drop', 'keep')
SHIPPED = 'configs/prepare.py'


class CleanSettings(NamedTuple):
  """What is done to each text."""
  unicode: bool
  markup: bool
  whitespace: bool


class Bounds(NamedTuple):
  """How much of something a row may have; a most of 0: any number."""
  min: int
  max: int


class ExactSettings(NamedTuple):
  """Rows whose text is one."""
  drop: bool


class NearSettings(NamedTuple):
  """Rows whose texts are nearly one."""
  drop: bool
  threshold: float


class LabelSettings(NamedTuple):
  """What is done about labels."""
  join: bool
  suspects: bool


class SplitSettings(NamedTuple):
  """How rows are shared out."""
  valid: float
  test: float
  stratify: bool
  by: str | None = None
  column: str | None = None


class RowSettings(NamedTuple):
  """The fields that are in no group."""
  leaks: str
  seed: int
  ngram: int
  personal: str
  regions: Texts
  text: str | None = None
  label: str | None = None
  group: str | None = None
  time: str | None = None
  groups: Texts | None = None
  prompt: str | None = None
  target: str | None = None
  choices: Texts | None = None
  metrics: Texts | None = None
  languages: Texts | None = None
  model: str | None = None


GROUPS: dict[str, Any] = {'clean': CleanSettings, 'characters': Bounds, 'tokens': Bounds, 'exact': ExactSettings,
                          'near': NearSettings, 'labels': LabelSettings, 'split': SplitSettings}


class PrepareSettings(NamedTuple):
  """A config of `prepare`, checked."""
  row: RowSettings
  clean: CleanSettings
  characters: Bounds
  tokens: Bounds
  exact: ExactSettings
  near: NearSettings
  labels: LabelSettings
  split: SplitSettings

  def config(self) -> dict[str, Any]:
    """As provenance.json holds it."""
    return jsonable(self.row._asdict()) | {group: jsonable(getattr(self, group)._asdict()) for group in GROUPS}


def read(config: ConfigDict) -> PrepareSettings:
  """What a config says, checked.

  Args:
    config: as a file's `get_config` returns it.
  Raises:
    InputError: names the first field that cannot be right.
  """
  said = plain(config)
  alone = {field: value for field, value in said.items() if field not in GROUPS}
  row = fields(alone, RowSettings, SHIPPED)
  found = PrepareSettings(row, **typed(said, GROUPS, SHIPPED, of_all=[*alone]))
  split = found.split
  for holds, message in (
      (split.by in (None, *BY), f'split.by={split.by}: must be one of {", ".join(BY)}'),
      (split.by != 'time' or row.time, 'split.by=time: needs `time`, the column that says when a row was'),
      (not split.column or split.by in (None, 'given'), f'split.column={split.column}: is of split.by=given'),
      (split.valid >= 0 and split.test >= 0 and split.valid + split.test < 1,
       f'split.valid={split.valid}, split.test={split.test}: must be shares of the rows, below 1 together'),
      (0 <= row.seed < 2 ** 31, f'seed={row.seed}: must be 0 or more, and below 2^31'),
      (0.5 <= found.near.threshold <= 1, f'near.threshold={found.near.threshold}: must be between 0.5 and 1'),
      (found.exact.drop or not found.near.drop,
       'exact.drop=False keeps rows that are one, and near.drop=True drops those that nearly are; set near.drop=False too'),
      (row.personal in PERSONAL, f'personal={row.personal}: must be one of {", ".join(PERSONAL)}'),
      (row.leaks in LEAKS, f'leaks={row.leaks}: must be one of {", ".join(LEAKS)}'),
      (found.tokens == (0, 0) or row.model, 'tokens.min, tokens.max: need `model`, whose tokens are counted'),
      (row.ngram >= 0, f'ngram={row.ngram}: must be 0 (parts are not looked for) or more'),
      *((bounds.min >= 0 and (bounds.max == 0 or bounds.max >= bounds.min),
         f'{name}.min={bounds.min}, {name}.max={bounds.max}: must be 0 or more, and max 0 (any number) or at least min')
        for name, bounds in (('characters', found.characters), ('tokens', found.tokens)))):
    if not holds:
      raise InputError(message)
  return found
