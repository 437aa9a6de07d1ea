"""The file that says which version of a model is current: `refine` writes it, and a server that follows it answers by it."""

from pathlib import Path
from typing import NamedTuple

from research import run_files
from research.errors import InputError

FIELDS = {'version': int, 'model': str, 'workdir': str}      # of the file (see `json_text.expect`)


class Current(NamedTuple):
  """The version of a model that answers now."""
  version: int       # from 1; each promotion has the next number, and a rollback goes back to an earlier one
  model: str         # by which it is asked for; all versions have the same
  workdir: Path      # the run directory


def current(path: Path) -> Current:
  """What such a file says; a `workdir` that is relative is one beside the file.

  Raises:
    InputError: there is no such file, it is damaged, or no finished run is where it says.
  """
  if not path.is_file():
    raise InputError(f'{path}: no such file; `research.refine` writes it, as current.json in its --versions')
  found = run_files.read_json(path, FIELDS)
  workdir = path.absolute().parent / found['workdir']
  if found['version'] < 1 or not found['model'].strip() or not found['workdir'].strip():
    raise InputError(f'{path}: is damaged: must hold a version from 1 on, a model\'s name and a workdir')
  if not (workdir / run_files.CONFIG).exists() or not (workdir / run_files.RESULT).exists():
    raise InputError(f'{path}: names {workdir}, where no finished run is')
  return Current(found['version'], found['model'], workdir)
