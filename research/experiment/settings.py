"""A config as nested dicts, and the seeds that it names."""

from typing import Any

from ml_collections import ConfigDict

from research import config as config_fields
from research.errors import InputError

SEEDS = ('order', 'init', 'dropout', 'rows', 'shots')      # what a seed is of: fields training.{order,init,…}_seed


def seed(training: dict[str, Any], of: str) -> int:
  """The seed of one of `SEEDS`: its own where it has one, else `training.seed`."""
  own = training.get(f'{of}_seed')
  return training['seed'] if own is None else own


def plain(config: ConfigDict) -> dict[str, Any]:
  """A config as nested dicts, as JSON gives them back; one that cannot be right is refused (see `config.check`).

  Raises:
    InputError: it is no config.
  """
  if not isinstance(config, ConfigDict):
    raise InputError(f'get_config() returns {type(config).__name__}, not an ml_collections.ConfigDict')
  found = _plain(config)
  config_fields.check(found)
  return {**dict.fromkeys(config_fields.OF_ALL, True), **found}


def _plain(config: ConfigDict) -> dict[str, Any]:
  return {k: _plain(v) if isinstance(v, ConfigDict) else list(v) if isinstance(v, tuple) else v
          for k, v in config.items()}
