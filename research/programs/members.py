"""Variables of one run, or of several side by side, for programs that are mapped over them.

What is the same in all members is one array for all: the base is there once, and a product with it reads it once for all. On a
mesh, members lie on an axis of their own. Of a single run nothing is stacked, and nothing here changes its program.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from research import tree
from research.distributed import device, mesh
from research.models import functions
from research.models.kernels import is_kernel
from research.tree import Tree
from research.unstacked import is_unstacked, map_stacks


class CohortVariables(NamedTuple):
  """Variables of several members: two trees of one shape, None where the leaf is in the other one."""
  shared: Tree     # the same for all
  own: Tree        # with a leading axis of members


def split_shared(frozen: Sequence[Tree]) -> Tree | CohortVariables:
  """Trees of one shape, one of each member; what is the same in all is there once."""
  if len(frozen) == 1:
    return frozen[0]
  alike = [all(other is first or bool(jnp.array_equal(other, first)) for other in others)
           for first, *others in zip(*map(jax.tree.leaves, frozen), strict=True)]
  structure = jax.tree.structure(frozen[0])
  shared = [first if same else None for first, same in zip(jax.tree.leaves(frozen[0]), alike)]
  own = [jax.tree.unflatten(structure, [None if same else x for x, same in zip(jax.tree.leaves(one), alike)])
         for one in frozen]
  return CohortVariables(jax.tree.unflatten(structure, shared), stack_trees(own))


def stack_trees(trees: Sequence[Tree]) -> Tree:
  """The trees' leaves on a leading axis; of a single tree, itself."""
  return trees[0] if len(trees) == 1 else _stack(trees)


@jax.jit
def _stack(trees: Sequence[Tree]) -> Tree:
  return jax.tree.map(lambda *xs: jnp.stack(xs), *trees)


@jax.jit
def _take(x: Tree, number: int) -> Tree:
  return jax.tree.map(lambda leaf: leaf[number], x)


def num_members(variables: Tree | CohortVariables) -> int:
  """How many members there are; a run is its only one."""
  return len(jax.tree.leaves(variables.own)[0]) if isinstance(variables, CohortVariables) else 1


def vmap_members(variables: Tree | CohortVariables, function: Callable[..., Any], *mapped: Any, axes: Any = 0) -> Any:
  """`function(variables, *mapped)` of a run, or of every member of a cohort.

  Args:
    variables: of the run, or of all members.
    function: gives a tree of arrays.
    mapped: trees that each member has its own of, with the members' axis where `axes` says it is.
    axes: of the results, as `out_axes` of `jax.vmap`: one for each, or one for all.
  """
  if not isinstance(variables, CohortVariables):
    return function(variables, *mapped)
  of_mapped = axes if isinstance(axes, tuple) else (axes,) * len(mapped)
  return jax.vmap(lambda own, *mapped: function(tree.join(variables.shared, own), *mapped), (0, *of_mapped[:len(mapped)]), axes,
                  spmd_axis_name=mesh.member_axis(num_members(variables)))(variables.own, *mapped)


def for_decoding(variables: Tree | CohortVariables, rows: int) -> Tree | CohortVariables:
  """Variables as processors generate by fastest: each layer's parameters on their own, and kernels transposed for several rows.

  No token that is generated then copies them out of a stack, or into another order. Where no copy pays, or memory has no room
  for one, they stay as the run keeps them.

  Args:
    variables: of a run, or of several; each one's own parameters stay as they are.
    rows: how many answers are written side by side.
  """
  if isinstance(variables, CohortVariables):
    shared = for_decoding(variables.shared, rows)
    is_leaf = lambda x: x is None or is_unstacked(x) or is_kernel(x)
    none = lambda kept, own: map_stacks(lambda _: None, kept) if is_kernel(kept) and own is None else own
    return CohortVariables(shared, jax.tree.map(none, shared, variables.own, is_leaf=is_leaf))
  params = variables['params']
  if not device.copies_for_decoding(tree.nbytes(params)):
    return variables
  return {**variables, 'params': _arranged(params, rows > 1)}


@partial(jax.jit, static_argnames='several')
def _arranged(params: Tree, several: bool) -> Tree:
  apart = functions.unstack_layers(params)
  return functions.transpose_kernels(apart) if several else apart


def take_member(number: int, x: Tree, frozen: Tree | CohortVariables) -> Tree:
  """What one member has of a cohort's arrays; of a run's, all.

  Args:
    number: the member's, from 0.
    x: a tree of arrays, of a cohort with a leading axis of members.
    frozen: what is frozen, which tells a cohort from a run.
  """
  return _take(x, number) if isinstance(frozen, CohortVariables) else x


def join_variables(trainable: Tree, frozen: Tree | CohortVariables) -> Tree | CohortVariables:
  """The variables of a run, or of all members."""
  if not isinstance(frozen, CohortVariables):
    return tree.join(trainable, frozen)
  return CohortVariables(frozen.shared, tree.join(trainable, frozen.own))


def stack_variables(trainable: Sequence[Tree], frozen: Sequence[Tree]) -> Tree | CohortVariables:
  """The variables of all, from what each has learned and what does not learn in it."""
  return join_variables(stack_trees(trainable), split_shared(frozen))


def select_member(number: int, variables: Tree | CohortVariables) -> Tree:
  """The variables of member `number`."""
  if not isinstance(variables, CohortVariables):
    return variables
  return tree.join(variables.shared, _take(variables.own, number))
