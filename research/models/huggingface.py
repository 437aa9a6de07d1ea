"""Folders in Hugging Face's layout: config.json and safetensors, single or sharded, read without torch."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from research.errors import InputError
from research.models.config import ModelConfig
from research.models.families import FAMILIES
from research.models.names import Family


class Tensors(Mapping):
  """The folder's tensors by name, each read from its file when asked for."""

  def __init__(self, folder: Path):
    index = folder / 'model.safetensors.index.json'
    if index.exists():
      shards = _object(index).get('weight_map')
      if not isinstance(shards, dict) or not all(isinstance(file, str) for file in shards.values()):
        raise InputError(f'{index}: holds no weight_map, which names the shard of every tensor')
      files = sorted(set(shards.values()))
    else:
      files = ['model.safetensors']
    self._where = {}
    for file in (folder / f for f in files):
      if not file.exists():
        listed = f' (a shard that {index.name} lists)' if index.exists() else ''
        pickled = folder / 'pytorch_model.bin'
        also = f'; {pickled.name} is a pickle and is not read: save the model as safetensors' if pickled.exists() else ''
        raise InputError(f'{folder}: {file.name} is missing{listed}{also}')
      try:
        opened = safetensors.safe_open(file, framework='numpy')
      except safetensors.SafetensorError as e:
        raise InputError(f'{file}: not a whole safetensors file ({e}); fetch it again') from None
      self._where |= dict.fromkeys(opened.keys(), opened)

  def __getitem__(self, name: str) -> np.ndarray:
    return self._where[name].get_tensor(name)

  def __iter__(self) -> Iterator[str]:
    return iter(self._where)

  def __len__(self) -> int:
    return len(self._where)


def _object(file: Path) -> dict[str, Any]:
  """What a JSON file holds, which must be an object."""
  try:
    found = json.loads(file.read_text(encoding='utf-8'))
  except (json.JSONDecodeError, UnicodeDecodeError) as e:
    raise InputError(f'{file}: not JSON ({e})') from None
  if not isinstance(found, dict):
    raise InputError(f'{file}: not a JSON object')
  return found


def read(folder: Path) -> tuple[Family, ModelConfig, Tensors]:
  """Opens a model folder; nothing in it is ever executed.

  Raises:
    InputError: no config.json, a `model_type` that is no family here, a missing or broken file.
  """
  file = folder / 'config.json'
  if not file.exists():
    raise InputError(f'{folder}: no config.json; a model folder has Hugging Face\'s layout')
  hf = _object(file)
  family = FAMILIES.get(hf.get('model_type'))
  if family is None:
    raise InputError(f'{file}: model_type {hf.get("model_type")!r} is not supported (known: {", ".join(FAMILIES)})')
  try:
    config = family.config(hf)
  except KeyError as e:
    raise InputError(f'{file}: lacks {e.args[0]}') from None
  return family, config, Tensors(folder)
