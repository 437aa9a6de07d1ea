"""What a config says, field by field with its type: the same whether a file, a flag or a study gave it.

Everywhere else a config is either nested dicts, as files hold it, or the `Settings` that `read` makes of them.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from ml_collections import ConfigDict

from research import config_fields
from research.config_fields import MOST, WORDS, Pairs, Texts, jsonable, typed, types
from research.errors import InputError

SEEDS = ('order', 'init', 'dropout', 'rows', 'shots')      # what a seed is of: fields training.{order,init,…}_seed
LOSSES = ('cross_entropy', 'dpo')


class ModelSettings(NamedTuple):
  """The group `model` of a config. What fields mean is said in configs/default.py; one without a default must be given."""
  source: str
  dtype: str
  param_dtype: str
  quantize: str
  scan: bool | str      # `auto`, or what that has come to
  remat: str
  attention: str
  vocab: int
  context: int


class TaskSettings(NamedTuple):
  """The group `task`; None: as the task's own row has it."""
  name: str
  rows: int
  train: str | None = None
  valid: str | None = None
  test: str | None = None
  label: str | None = None
  path: str | None = None
  subset: str | None = None
  prompt: str | None = None
  prompts: Texts | None = None
  target: str | None = None
  rejected: str | None = None
  choices: Texts | None = None
  metrics: Texts | None = None
  separator: str | None = None
  stop: Texts | None = None
  max_new_tokens: int | None = None
  decoding: Pairs | None = None
  chat: bool | None = None
  turns: str | None = None
  cluster: str | None = None
  objective: str | None = None
  noise: float | None = None
  span: float | None = None
  scoring: str | None = None
  retain: str | None = None


class StrategySettings(NamedTuple):
  """The group `strategy`; None: as the strategy's own row has it, or a field that is not of that row."""
  name: str
  rank: int | None = None
  alpha: float | None = None
  targets: str | None = None
  fused: bool | None = None
  rank_pattern: Pairs | None = None
  alpha_pattern: Pairs | None = None
  also: str | None = None
  ratio: float | None = None
  initial_d: float | None = None
  block: int | None = None
  neumann: int | None = None
  feedforward: str | None = None
  width: int | None = None
  placement: str | None = None
  dropout: float | None = None
  slots: int | None = None
  hidden: int | None = None
  init: str | None = None
  init_text: str | None = None
  layers: int | None = None
  shots: int | None = None
  selection: str | None = None
  calibrate: bool | None = None
  init_from: str | None = None
  allow_other_base: bool | None = False

  def of_row(self) -> dict[str, Any]:
    """The fields that are given and are the row's own."""
    return {field: value for field, value in self._asdict().items() if field not in NO_ROWS and value is not None}


NO_ROWS = ('name', 'init_from', 'allow_other_base')      # fields of `strategy` that are no row's own


class TrainingSettings(NamedTuple):
  """The group `training`; a seed that is None is `seed`."""
  learning_rate: float
  steps: int
  epochs: float
  batch_size: int
  microbatches: int
  seed: int
  optimizer: str
  schedule: str
  warmup: float
  weight_decay: float
  label_smoothing: float
  clip: float
  b1: float
  b2: float
  eps: float
  eval_every: int
  eval_batch_size: int
  checkpoint_every: int
  log_every: int
  best_metric: str
  patience: int
  order_seed: int | None = None
  init_seed: int | None = None
  dropout_seed: int | None = None
  rows_seed: int | None = None
  shots_seed: int | None = None
  init_from: str | None = None
  loss: str | None = None
  dpo_beta: float | None = None

  def seed_of(self, part: str) -> int:
    """The seed of one of `SEEDS`: its own where it has one, else `seed`."""
    own: int | None = getattr(self, f'{part}_seed')
    return self.seed if own is None else own

  def num_steps(self, rows: int) -> float:
    """How many steps a training on so many rows, or pieces of texts, has; a part of a step is one more."""
    return self.epochs * rows / self.batch_size if self.epochs else self.steps


class MeshSettings(NamedTuple):
  """The group `mesh`: sizes of its axes, of which one may be -1."""
  data: int
  fsdp: int
  tensor: int


class Settings(NamedTuple):
  """A config, checked and typed."""
  model: ModelSettings
  task: TaskSettings
  strategy: StrategySettings
  training: TrainingSettings
  mesh: MeshSettings
  check_memory: bool = True

  def replace(self, fields: Mapping[str, Any]) -> 'Settings':
    """The same with other values of some fields, such as {'training.steps': 0}."""
    changed = self
    for field, value in fields.items():
      group, name = field.split('.')
      changed = changed._replace(**{group: getattr(changed, group)._replace(**{name: value})})
    return changed

  def config(self) -> dict[str, dict[str, Any]]:
    """As config.json holds it: of the strategy the fields that say something, and nothing of `check_memory`."""
    groups = {group: jsonable(getattr(self, group)._asdict()) for group in GROUPS}
    groups['strategy'] = {field: dict(value) if types(StrategySettings)[field] == Pairs else value
                          for field, value in groups['strategy'].items() if value is not None or field in NO_ROWS}
    if groups['task']['decoding'] is not None:
      groups['task']['decoding'] = dict(groups['task']['decoding'])
    return groups


GROUPS: dict[str, Any] = {'model': ModelSettings, 'task': TaskSettings, 'strategy': StrategySettings,
                          'training': TrainingSettings, 'mesh': MeshSettings}
Config: TypeAlias = ConfigDict | Mapping[str, Any] | Settings
OF_ALL = ('check_memory',)      # fields that are in no group
HOW = ('mesh', 'check_memory', 'model.scan')      # groups and fields that say where and how a run is computed, and not what


def plain(config: ConfigDict) -> dict[str, Any]:
  """A run's config as nested dicts; what is no config is refused (see `config_fields.plain`)."""
  return {**dict.fromkeys(OF_ALL, True), **config_fields.plain(config)}


def decisive(config: Mapping[str, Any]) -> dict[str, Any]:
  """What of a config, as nested dicts, decides a run's result; a run that differs in nothing else is the same, and is resumed.

  Its numbers are the same but for rounding.

  Args:
    config: whole or in part.
  """
  return {group: {field: value for field, value in fields.items() if f'{group}.{field}' not in HOW}
          for group, fields in config.items() if group not in HOW}


def read(config: Config) -> Settings:
  """What a config says, checked: each field's type, and what no run could have.

  Args:
    config: as a file's `get_config` returns it, or as nested dicts; one that was read already is returned as it is.
  Raises:
    InputError: names the first field that cannot be right, is missing, or is none of a config's.
  """
  if isinstance(config, Settings):
    return config
  config = config if isinstance(config, dict) else plain(config)
  found = Settings(**typed(config, GROUPS, 'configs/default.py', OF_ALL), check_memory=config.get('check_memory', True))
  if not isinstance(found.check_memory, bool):
    raise InputError(f'check_memory={found.check_memory!r:.80}: must be {WORDS[bool]}')
  _check_training(found.training)
  return found


def _check_training(t: TrainingSettings) -> None:
  """Refuses values that no training could have (`InputError`)."""
  def require(holds: Any, field: str, must: str) -> None:
    if not holds:
      raise InputError(f'training.{field}={getattr(t, field)}: {must}')
  require(t.learning_rate > 0, 'learning_rate', 'must be above 0')
  require(t.epochs >= 0, 'epochs', 'must be 0 (use steps) or more')
  for field in ('seed', *(f'{part}_seed' for part in SEEDS)):
    require(getattr(t, field) is None or 0 <= getattr(t, field) < MOST, field, 'must be 0 or more, and below 2^31')
  for field in ('b1', 'b2'):
    require(0 <= np.float32(getattr(t, field)) < 1, field, 'must be at least 0 and below 1, as a float32 holds it')
  require(t.eps > 0, 'eps', 'must be above 0')
  require(t.batch_size >= 1, 'batch_size', 'must be 1 or more')
  require(t.microbatches >= 1 and t.batch_size % t.microbatches == 0, 'microbatches',
          f'must divide batch_size={t.batch_size}')
  require(0 <= t.warmup < 1, 'warmup', 'a share of the steps, at least 0 and below 1')
  require(0 <= t.label_smoothing < 1, 'label_smoothing', 'must be at least 0 and below 1')
  require(t.loss in (None, *LOSSES), 'loss', f'must be one of {", ".join(LOSSES)}')
  require(t.dpo_beta is None or t.dpo_beta > 0, 'dpo_beta', 'must be above 0')
  require(t.loss != 'dpo' or not t.label_smoothing, 'label_smoothing', 'must be 0 with loss=dpo')
  for field in ('weight_decay', 'clip', 'patience', 'checkpoint_every'):
    require(getattr(t, field) >= 0, field, 'must be 0 or more')
  for field in ('eval_every', 'eval_batch_size', 'log_every'):
    require(getattr(t, field) >= 1, field, 'must be 1 or more')
