"""A public function says what it takes, and of which shape. That Args and Raises are the function's own, ruff checks."""

import ast
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.quick

ROOT = Path(__file__).parent.parent / 'research'
SHAPE = re.compile(r'\[(\.\.\.|[A-Z1]\w*\'?)([^a-z\]]*)\]|[Ss]hape|scalar|any shape|tree of|pytree', re.S)


def public(path):
  """(name, definition) of the public functions and methods of a file."""
  def within(node, prefix):
    for each in node.body:
      if isinstance(each, ast.ClassDef | ast.FunctionDef) and not each.name.startswith('_'):
        if isinstance(each, ast.FunctionDef):
          yield prefix + each.name, each
        else:
          yield from within(each, f'{prefix}{each.name}.')
  return within(ast.parse(path.read_text(encoding='utf-8')), '')


def arguments(function):
  every = function.args.posonlyargs + function.args.args + function.args.kwonlyargs
  return [a for a in every if a.arg not in ('self', 'cls')]


FILES = [str(path.relative_to(ROOT)) for path in sorted(ROOT.rglob('*.py'))]


@pytest.mark.parametrize('file', FILES)
def test_a_function_of_three_arguments_or_more_has_args(file):
  missing = [name for name, f in public(ROOT / file)
             if len(arguments(f)) >= 3 and 'Args:' not in (ast.get_docstring(f) or '')]
  assert not missing, f'{file}: {", ".join(missing)}'


@pytest.mark.parametrize('file', FILES)
def test_a_function_of_arrays_says_their_shapes(file):
  missing = []
  for name, f in public(ROOT / file):
    annotations = [ast.unparse(x) for x in [*(a.annotation for a in arguments(f)), f.returns] if x is not None]
    if any(re.search(r'\b(Array|ndarray)\b', x) for x in annotations) and not SHAPE.search(ast.get_docstring(f) or ''):
      missing.append(name)
  assert not missing, f'{file}: {", ".join(missing)}'
