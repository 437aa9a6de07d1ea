"""Three tiers of tests, by what a test costs.

    pytest -m quick     compiles nothing and imports no torch
    pytest              every claim at least once; of a product of cases its diagonal
    pytest --matrix     every product, or a part of it: --part=1/4

`@pytest.mark.quick` is held to what it says: a quick test that compiles or imports torch fails.

`@pytest.mark.diagonal('a', 'b')` names arguments of a test's parametrisation, or fixtures with parameters. Of their product
`pytest` runs the diagonal, in which each value of each argument stands at least once; of an argument given as `c=('x', 'y')`
these values. All other cases are marked `matrix`, as a test or a `pytest.param` can be too. The summary says how many they are.
"""

import argparse
import sys

import jax
import pytest

MARKERS = (
    'quick: compiles nothing and imports no torch',
    'diagonal(*names, **values): without --matrix, of these arguments\' product the diagonal runs, of the others these values',
    'matrix: runs with --matrix only',
)
BEFORE = pytest.StashKey[tuple[int, bool]]()      # a test's: how many programs were compiled, whether torch was imported
_compiled: list[str] = []


def watch():
  """Counts from now on what XLA compiles in this process."""
  jax.monitoring.register_event_duration_secs_listener(
      lambda event, *_, **__: _compiled.append(event) if event == '/jax/core/compile/backend_compile_duration' else None)


def add_options(parser):
  group = parser.getgroup('tiers')
  group.addoption('--matrix', action='store_true', help='run every product of cases, not its diagonal alone')
  group.addoption('--part', type=part, metavar='I/N', help='run the I-th of N parts of the selected tests')


def part(text):
  """(i, n) of `i/n`."""
  i, _, n = text.partition('/')
  if not (i.isdecimal() and n.isdecimal() and 1 <= int(i) <= int(n)):
    raise argparse.ArgumentTypeError(f'{text!r}: must be i/n with 1 <= i <= n')
  return int(i), int(n)


def mark(items, whole=True):
  """Marks `matrix` what lies off the diagonal of its test's product.

  Args:
    items: the tests that were collected.
    whole: whether these are all cases of each test. Then a value that is wanted and that no case has is an error.
  """
  for test, cases in by_test(items).items():
    for diagonal in cases[0].iter_markers('diagonal'):
      for name, some in diagonal.kwargs.items():
        missing = {*some} - {case.callspec.params[name] for case in cases}
        if missing and whole:
          raise pytest.UsageError(f'{test}: diagonal: no case has {name}={", ".join(map(repr, missing))}')
      axes = [[*dict.fromkeys(id(case.callspec.params[name]) for case in cases)] for name in diagonal.args]
      wanted = {tuple(axis[i % len(axis)] for axis in axes) for i in range(max(map(len, axes), default=1))}
      for case in cases:
        of = case.callspec.params
        if tuple(id(of[name]) for name in diagonal.args) not in wanted or any(
            of[name] not in some for name, some in diagonal.kwargs.items()):
          case.add_marker('matrix')


def cases_are_named(config):
  """Whether the command line asks for single cases, which are then wanted whatever their tier."""
  return any('[' in name for name in config.args)


def select(config, items):
  """Leaves out the matrix, or what is in another part, and says so in lines for the summary.

  A part holds of each test some cases that stand side by side, since these share what they are made of.
  """
  lines = []

  def leave_out(is_out, line):
    out = [item for item in items if is_out(item)]
    if out:
      items[:] = [item for item in items if not is_out(item)]
      config.hook.pytest_deselected(items=out)
      lines.append(line.format(len(out)))
  if not config.option.matrix and not cases_are_named(config):
    leave_out(lambda item: item.get_closest_marker('matrix'), 'matrix: {} tests were left out (pytest --matrix runs them)')
  if config.option.part:
    i, n = config.option.part
    part_of = {item: (number + k * n // len(cases)) % n
               for number, cases in enumerate(by_test(items).values()) for k, item in enumerate(cases)}
    leave_out(lambda item: part_of[item] != i - 1, f'part {i} of {n}: {{}} tests are in the other parts')
  return lines


def by_test(items):
  """The cases of each test, by its name."""
  found = {}
  for item in items:
    found.setdefault(item.nodeid.partition('[')[0], []).append(item)
  return found


def before(item):
  item.stash[BEFORE] = len(_compiled), 'torch' in sys.modules


def check(item):
  """Fails a quick test that is not."""
  compiled, torch = item.stash[BEFORE]
  if item.get_closest_marker('quick'):
    assert len(_compiled) == compiled, f'a quick test compiled {len(_compiled) - compiled} programs'
    assert torch or 'torch' not in sys.modules, 'a quick test imported torch'
