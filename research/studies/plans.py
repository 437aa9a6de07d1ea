"""The plans of a study's cells, added up."""

from typing import Any

from research.planning import chips
from research.planning.plans import plan
from research.studies import study_file


def of_study(said: str, where: str, compile: bool) -> dict[str, Any]:
  """The plans of a study's cells, and their sum.

  Args:
    said: the study's file, as --study names it.
    where: the topology (see `chips.topology`).
    compile: whether a TPU's step is compiled where libtpu is installed.
  """
  cells = study_file.read(said).cells
  known: dict[str, dict[str, Any]] = {}
  found = []
  for cell in cells:
    alike = str({**cell.config, 'training': {**cell.config['training'], 'learning_rate': None, 'seed': None}})
    if alike not in known:
      known[alike] = plan(cell.config, where, compile)
    found.append({'key': cell.key, **known[alike]})
  hours = sum(one.get('hours', 0.0) for one in found)
  costs = chips.costs(chips.topology(where), hours)
  return {'study': said, 'topology': where, 'cells': found, 'hours': hours, 'cost': costs}
