"""A study's cell as a command of its own."""

import shlex
from typing import Any

from research.data import templates
from research.studies.grid import Cell


def command(cell: Cell, path: str, base: dict[str, Any]) -> str | None:
  """The research.train command that is this cell; None where no flag can say what differs from the base config.

  Args:
    cell: the run.
    path: the base config's file, for --config.
    base: the base config as nested dicts.
  """
  flags = [f'python -m research.train --config={shlex.quote(path)} --workdir=runs/{cell.key}']
  for group, fields in ((group, fields) for group, fields in cell.config.items() if isinstance(fields, dict)):
    for field, value in fields.items():
      if value is None and base[group][field] not in (None, '') and base[group][field] is not False:
        return None                          # a flag cannot take a value away
      if value is not None and value != base[group][field]:
        value = tuple(value.items()) if isinstance(value, dict) else value
        said = repr(tuple(value)) if isinstance(value, (list, tuple)) else str(value)
        if group == 'task' and field in templates.FIELDS:
          said = templates.escaped(said)
        flags.append(f'--config.{group}.{field}={shlex.quote(said)}')
  return ' '.join(flags)
