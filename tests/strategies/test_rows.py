"""The list from which strategies are tested is the strategies' table."""

import pytest
from strategies import rows

from research.strategies import table

pytestmark = pytest.mark.quick


def test_every_row_of_the_table_is_tested():
  assert {row.name for row in rows.ROWS.values() if '+' not in row.name} == table.STRATEGIES.keys()


def test_every_placement_of_adapters_is_tested():
  assert {rows.ROWS[name].make().fields['placement'] for name in rows.taking('placement')} == table.PLACES.keys()


@pytest.mark.parametrize('name', rows.ROWS)
def test_what_a_row_takes_part_in_follows_from_the_row(name):
  row, strategy = rows.ROWS[name], rows.ROWS[name].make()
  assert (name in rows.LEARNS) == strategy.learns and (name in rows.ADDS) == bool(strategy.deltas)
  assert isinstance(row.peft, dict) or row.peft.count(' ') >= 3, 'say why there is no method of PEFT to compare with'
