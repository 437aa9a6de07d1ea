"""What `pytest` leaves out of a product of cases, and what a part holds."""

import argparse
import itertools
from types import SimpleNamespace

import pytest
import tiers

pytestmark = pytest.mark.quick
MODELS, STRATEGIES, SCAN = ('llama', 'gpt2', 't5'), ('full', 'lora', 'dora', 'vera'), (True, False)


class Case:
  """A case of a test, as far as the tiers read it."""

  def __init__(self, test, markers=(), **params):
    self.nodeid = f'{test}[{"-".join(map(str, params.values()))}]'
    self.callspec, self.markers = SimpleNamespace(params=params), [*markers]

  def iter_markers(self, name):
    return [marker for marker in self.markers if marker.name == name]

  def get_closest_marker(self, name):
    return next(iter(self.iter_markers(name)), None)

  def add_marker(self, name):
    self.markers.append(getattr(pytest.mark, name).mark)


def product(*names, **values):
  diagonal = pytest.mark.diagonal(*names, **values).mark
  cases = [Case('a.py::test', [diagonal], model=model, strategy=strategy, scan=scan)
           for model, strategy, scan in itertools.product(MODELS, STRATEGIES, SCAN)]
  tiers.mark(cases)
  return [tuple(case.callspec.params.values()) for case in cases if not case.get_closest_marker('matrix')]


def test_a_diagonal_holds_every_value_of_each_argument_and_no_more_than_it_must():
  found = product('model', 'strategy', 'scan')
  assert len(found) == len(STRATEGIES)
  assert [{*column} for column in zip(*found)] == [{*MODELS}, {*STRATEGIES}, {*SCAN}]


def test_arguments_that_the_diagonal_does_not_name_stay_whole():
  assert len(product('model', 'strategy')) == len(STRATEGIES) * len(SCAN)


def test_of_an_argument_with_values_only_these_are_run():
  assert product('model', 'strategy', scan=(True,)) == [case for case in product('model', 'strategy') if case[2]]
  assert len(product(strategy=('lora',))) == len(MODELS) * len(SCAN)


def test_a_value_that_no_case_has_is_an_error():
  with pytest.raises(pytest.UsageError, match="no case has scan='unrolled'"):
    product(scan=(True, 'unrolled'))


def selected(cases, **options):
  out = []
  hook = SimpleNamespace(pytest_deselected=lambda items: out.extend(items))
  options = SimpleNamespace(**{'matrix': 'part' in options, 'part': None, **options})
  lines = tiers.select(SimpleNamespace(option=options, hook=hook, args=['tests']), kept := [*cases])
  assert len(kept) + len(out) == len(cases)
  return kept, lines


def test_the_summary_says_how_many_tests_of_the_matrix_were_left_out():
  cases = [Case('a.py::test', n=1), Case('a.py::test', [pytest.mark.matrix.mark], n=2)]
  kept, lines = selected(cases)
  assert kept == cases[:1] and lines == ['matrix: 1 tests were left out (pytest --matrix runs them)']


def test_parts_are_together_all_and_about_as_large():
  cases = [Case('a.py::test_many', n=n) for n in range(30)] + [Case(f'a.py::test_{name}') for name in 'abcdef']
  parts = [selected(cases, part=(i, 4))[0] for i in (1, 2, 3, 4)]
  assert sorted(case.nodeid for part in parts for case in part) == sorted(case.nodeid for case in cases)
  assert {len(part) for part in parts} <= {8, 9, 10}


@pytest.mark.parametrize('text', ['0/2', '3/2', '1', 'a/b', '1/2/3', '-1/2'])
def test_a_part_that_is_none_is_refused(text):
  with pytest.raises(argparse.ArgumentTypeError, match='must be i/n with 1 <= i <= n'):
    tiers.part(text)
