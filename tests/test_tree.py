"""The tree of named leaves."""

import doctest

import jax.numpy as jnp
import pytest
from flax import struct

from research import tree


@struct.dataclass
class Pair:
  a: int
  b: int
  rate: float = struct.field(pytree_node=False)


TREE = {'params': {'norm': {'scale': 1}, 'q': {'kernel': 2}}, 'delta': {'q': {'kernel': Pair(3, 4, 0.5)}}}


@pytest.mark.quick
def test_the_examples_in_the_docstrings_are_true():
  result = doctest.testmod(tree)
  assert result.attempted >= 3 and not result.failed


@pytest.mark.quick
def test_names_are_paths_through_dicts_and_dataclasses():
  assert tree.leaves(TREE) == {'params/norm/scale': 1, 'params/q/kernel': 2, 'delta/q/kernel/a': 3,
                               'delta/q/kernel/b': 4}


@pytest.mark.quick
@pytest.mark.parametrize('pattern', ['^delta/', 'kernel', '/a$', 'scale|b$', '', '(?!)'])
def test_join_undoes_split_and_no_leaf_is_in_both(pattern):
  found, others = tree.split(TREE, pattern)
  assert tree.join(found, others) == tree.join(others, found) == TREE
  assert not tree.leaves(found).keys() & tree.leaves(others).keys()
  assert tree.leaves(found) | tree.leaves(others) == tree.leaves(TREE)


@pytest.mark.quick
def test_split_searches_the_whole_name():
  found, others = tree.split(TREE, r'q/kernel(/a)?$')
  assert tree.leaves(found) == {'params/q/kernel': 2, 'delta/q/kernel/a': 3}
  assert tree.leaves(others) == {'params/norm/scale': 1, 'delta/q/kernel/b': 4}


@pytest.mark.quick
def test_join_refuses_two_leaves_at_one_place():
  with pytest.raises(ValueError, match='two trees hold a leaf'):
    tree.join(TREE, TREE)


@pytest.mark.quick
def test_replace_takes_every_leaf_and_misses_none_in_silence():
  named = {name: 10 * x for name, x in tree.leaves(TREE).items()}
  replaced = tree.replace(TREE, named)
  assert tree.leaves(replaced) == named
  assert replaced['delta']['q']['kernel'].rate == 0.5
  with pytest.raises(KeyError):
    tree.replace(TREE, {'params/norm/scale': 1})


def test_size_and_nbytes_count_what_is_there():
  made = {'a': jnp.zeros((2, 3)), 'b': {'c': jnp.zeros(5, jnp.bfloat16), 'gone': None}}
  assert tree.size(made) == 11
  assert tree.nbytes(made) == 6 * 4 + 5 * 2
