"""The rooms of the library: imports go from a later room to an earlier one, and no two modules need each other."""

import ast

import pytest
from helpers import ROOT

pytestmark = pytest.mark.quick

# What stands in one line may import from one another, where that makes no circle, and from the lines above.
ROOMS = (('errors', 'unstacked', 'tree', 'json_text'),
         ('distributed', 'run_files', 'console', 'config', 'config_fields', 'shipped', 'look'),
         ('data', 'models'), ('strategies',), ('adapters', 'programs'), ('training',), ('evaluation',), ('experiment',),
         ('planning',), ('deployment', 'preparation', 'runs'), ('studies',), ('serving',),
         ('monitoring', 'refining'), ('cli',),
         ('train', 'evaluate', 'generate', 'study', 'plan', 'prepare', 'export', 'serve', 'monitor', 'refine', '__main__'))
LEVEL = {room: level for level, rooms in enumerate(ROOMS) for room in rooms}


def modules():
  """Module -> the modules that it imports when it is imported itself."""
  files = {'.'.join(path.relative_to(ROOT).with_suffix('').parts): path for path in (ROOT / 'research').rglob('*.py')
           if path.name != '__init__.py'}
  found = {}
  for name, path in files.items():
    body = ast.parse(path.read_text(encoding='utf-8')).body
    imported = [node for node in body if isinstance(node, ast.ImportFrom) and (node.module or '').startswith('research')]
    found[name] = {full if full in files else node.module for node in imported for alias in node.names
                   for full in [f'{node.module}.{alias.name}']} & files.keys()
  return found


def room(module):
  return module.split('.')[1]


def test_every_module_stands_in_a_room():
  assert {room(module) for module in modules()} == set(LEVEL)


def test_no_arrow_goes_upward():
  upward = [f'{module} imports {other}' for module, others in modules().items() for other in others
            if LEVEL[room(other)] > LEVEL[room(module)]]
  assert not upward


def test_no_verb_imports_a_verb():
  last = ROOMS[-1]
  assert not [f'{module} imports {other}' for module, others in modules().items() for other in others
              if room(module) in last and room(other) in last]


def test_there_is_no_circle():
  left = modules()
  while free := [module for module, others in left.items() if not others & left.keys()]:
    for module in free:
      del left[module]
  assert not left, f'these need each other: {sorted(left)}'


def test_verbs_are_thin_and_files_short():
  lengths = {module: len((ROOT / f'{module.replace(".", "/")}.py').read_text().splitlines()) for module in modules()}
  assert not {m: n for m, n in lengths.items() if room(m) in ROOMS[-1] and n > 81}
  assert {m for m, n in lengths.items() if n > 300} == LONG


# Files of more than 300 lines, each with its reason.
LONG = {
    'research.strategies.deltas',        # a class for each kind of delta, each with its equation
    'research.strategies.table',         # a function for each row, whose arguments are its fields
    'research.evaluation.crossed',       # one model of scores, in the order of its equations
}
