"""From a study file to its cells: a Python file whose `get_study` says what is compared (see `grid`)."""

import importlib.util
from pathlib import Path
from typing import Any, NamedTuple

from research import config as configs
from research import shipped
from research.errors import InputError
from research.studies import grid


class StudyFile(NamedTuple):
  """What a study file says."""
  study: grid.Study
  base: dict[str, Any]           # the config that every cell starts from, as nested dicts
  cells: list[grid.Cell]


def read(said: str) -> StudyFile:
  """A study file and its base config. No such file, and something in it that cannot be right, are refused (`InputError`).

  Args:
    said: of --study: a file, or the name of a shipped one; `:variant` may follow.
  """
  file = shipped.path('study', said)
  study = grid.study(load(file, 'get_study'), said)
  base = base_config(study, Path(file.partition(':')[0]))
  return StudyFile(study, base, grid.cells(study, base))


def load(path: str, function: str) -> Any:
  """What `function` of a Python file returns; `PATH:variant` passes the variant.

  Raises:
    InputError: no such file, no such function, or no such variant.
  """
  name, _, variant = path.partition(':')
  if not Path(name).is_file() or Path(name).suffix != '.py':
    raise InputError(f'{name}: no such Python file')
  spec = importlib.util.spec_from_file_location(Path(name).stem, name)
  assert spec is not None and spec.loader is not None      # of a .py file there are both
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
  except Exception as e:  # a person's own file can raise anything
    raise InputError(f'{name}: cannot be read ({type(e).__name__}: {e})') from None
  if not hasattr(module, function):
    raise InputError(f'{name}: has no {function}()')
  try:
    return getattr(module, function)(*([variant] if variant else []))
  except Exception as e:  # as above
    hint = f'; is there a variant {variant!r}?' if variant else ''
    raise InputError(f'{path}: {function}() raised {type(e).__name__}: {e}{hint}') from None


def base_config(study: grid.Study, where: Path) -> dict[str, Any]:
  """The study's base config: a path, looked up from here and then beside the study's folder, or a shipped config's name.

  Raises:
    InputError: there is no such config.
  """
  for path in (Path(study.base), where.parent.parent / study.base):
    if Path(str(path).partition(':')[0]).is_file():
      break
  else:
    try:
      path = Path(shipped.path('config', study.base))
    except InputError as e:
      raise InputError(f'{where}: base={study.base!r}: {e}') from None
  found = configs.plain(load(str(path), 'get_config'))
  configs.read(found)
  return found
