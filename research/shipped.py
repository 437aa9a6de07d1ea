"""The configs and studies that come with the library, by name from any folder."""

import difflib
import sysconfig
from pathlib import Path

from research.errors import InputError

FOLDERS = {'config': 'configs', 'study': 'experiments'}      # flag -> where what it names lies


def folder(kind: str) -> Path:
  """Where the shipped files of a kind lie: in the clone that this library runs from, or where pip has put them.

  Args:
    kind: a key of `FOLDERS`.
  """
  root = Path(__file__).resolve().parents[1]
  if not (root / 'setup.cfg').is_file():
    root = Path(sysconfig.get_path('data')) / 'share' / 'flaxtune'
  return root / FOLDERS[kind]


def names(kind: str) -> list[str]:
  """What is shipped of a kind, a key of `FOLDERS`."""
  return sorted(path.stem for path in folder(kind).glob('*.py') if not path.stem.startswith('_'))


def path(kind: str, said: str) -> str:
  """The file that a flag means: a path is a path, and a bare name such as `quickstart` is a shipped file.

  Args:
    kind: a key of `FOLDERS`.
    said: the flag's value, which a `:variant` may follow.
  Raises:
    InputError: there is no such file.
  """
  name, colon, variant = said.partition(':')
  if Path(name).is_file() or '/' in name or name.endswith('.py') or not name:
    found = Path(name)
  else:
    found = folder(kind) / f'{name}.py'
  if not found.is_file():
    near = difflib.get_close_matches(Path(name).stem, names(kind), 1)
    shipped = f'did you mean the shipped --{kind}={near[0]}?' if near else f'shipped are {", ".join(names(kind))}'
    raise InputError(f'--{kind}={said}: no such file; {shipped}')
  return f'{found}{colon}{variant}'
