"""What others call a base model, and what its files say of it."""

import re
from pathlib import Path
from typing import NamedTuple

from research.models import gguf, huggingface
from research.models.places import hub_folder, installed_file, is_hub_id


def name_for_others(source: str) -> str | None:
  """What transformers can load the base by, here and now: its hub id, or its folder's whole path; None: it cannot."""
  if is_hub_id(source):
    return source
  path = Path(source).expanduser()
  return str(path.resolve()) if (path / 'config.json').is_file() else None


def inside(source: str) -> str:
  """Where the model stands among the modules that transformers makes of its source; '' where it is all of it."""
  path = hub_folder(source) if is_hub_id(source) else Path(source).expanduser()
  return huggingface.inside(path) if (path / 'config.json').is_file() else ''


class About(NamedTuple):
  """What a base says of itself, for the card of what was made of it."""
  license: str | None      # as the hub writes it: apache-2.0
  hub: str | None          # its hub id


def about(source: str) -> About:
  """The licence of a base and its id on the hub, as far as its files say; those of random weights say nothing."""
  kind, _, name = source.partition(':')
  path = Path(source).expanduser()
  if kind == 'package' or path.suffix == '.gguf':
    fields = gguf.fields_of(installed_file(name) if kind == 'package' else path)
    places = ('general.source.huggingface.repository', 'general.repo_url', 'general.source.repo_url')
    url = next((fields[field] for field in places if isinstance(fields.get(field), str)), '')
    license, hub = fields.get('general.license'), url.removeprefix('https://huggingface.co/')
    return About(license if isinstance(license, str) else None, hub if re.fullmatch(r'[\w.-]+/[\w.-]+', hub) else None)
  if is_hub_id(source):
    return About(_license(hub_folder(source)), source)
  return About(_license(path) if path.is_dir() else None, None)


def _license(folder: Path) -> str | None:
  """What the front matter of a folder's README says."""
  import huggingface_hub
  try:
    text = (folder / 'README.md').read_text(encoding='utf-8')
    found = huggingface_hub.ModelCard(text, ignore_metadata_errors=True).data.to_dict().get('license')
  except Exception:  # no README, or whatever the library raises at a broken one: it says nothing
    return None
  return found if isinstance(found, str) else None
