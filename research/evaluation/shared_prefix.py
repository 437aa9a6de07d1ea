"""What all prompts begin with (demonstrations, an instruction, a soft prompt), read once for all of them.

The keys and values of those tokens are what a prefix is: where a learned prefix would stand, every prompt that lacks its
beginning sees it as if it had been read in place.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from research.data.batch import Batch
from research.models.functions import Model
from research.models.transformer import LAST_LAYERS
from research.programs import members
from research.programs.members import CohortVariables
from research.strategies.bind import from_collections, to_collections
from research.strategies.deltas import Prefix, ProjectedPrefix
from research.tree import Tree

MIN_SHARED_TOKENS = 16      # tokens below which a beginning is simply read again


def common(prompts: Sequence[list[int]]) -> int:
  """How many tokens all prompts begin with, each keeping at least one of its own."""
  first, last = min(prompts), max(prompts)
  most = min(map(len, prompts)) - 1
  return next((i for i, (a, b) in enumerate(zip(first[:most], last)) if a != b), most)


@partial(jax.jit, static_argnames='model')
def _read(variables: Tree | CohortVariables, tokens: jax.Array, *, model: Model) -> tuple[jax.Array, jax.Array]:
  """Keys and values [N, S, K · head_dim] of these tokens, for every member."""
  one = jnp.ones_like(tokens)
  batch = Batch(tokens, jnp.arange(tokens.shape[1])[None], one)
  of_slots = lambda x: x[:, 0].swapaxes(1, 2).reshape(len(x), tokens.shape[1], -1)
  return members.vmap_members(variables, lambda v: jax.tree.map(of_slots, model.prefill(v, batch, tokens.shape[1])[1].layers))


def read(model: Model, variables: Tree | CohortVariables, prompts: Sequence[list[int]]) -> tuple[Tree | CohortVariables, int]:
  """Variables that have read what all prompts begin with, and how many tokens that is: to be cut off every prompt.

  An encoder reads every prompt anew: what it makes of a beginning depends on what follows.

  Args:
    model: of all members.
    variables: of a run, or of several.
    prompts: token ids of all prompts that will be read.
  """
  cut = 0 if model.config.has_encoder else common(prompts)
  if cut < MIN_SHARED_TOKENS:
    return variables, 0
  new = _read(variables, np.asarray([prompts[0][:cut]], np.int32), model=model)
  added = members.vmap_members(variables, lambda v, new: _with_prefix(model, v, new, cut), new)
  if isinstance(variables, CohortVariables):
    return CohortVariables({**variables.shared, **jax.tree.map(lambda _: None, added)}, {**variables.own, **added}), cut
  return {**variables, **added}, cut


def _with_prefix(model: Model, variables: Tree, new: tuple[jax.Array, jax.Array], cut: int) -> dict[str, Tree]:
  """The deltas of `variables`, with the keys and values of `cut` tokens in them."""
  deltas, first = from_collections(variables), model.config.layers - model.config.last_layers
  for stack, at in (('layers', slice(first)), (LAST_LAYERS, slice(first, None))):
    keys, values = (x[at] for x in new)
    if not len(keys):
      continue
    path, slots = f'{stack}/attn/prefix', cut
    if path in deltas:
      before = deltas[path]
      assert isinstance(before, Prefix | ProjectedPrefix)
      learned = before.projected()
      keys, values = (jnp.concatenate(pair, axis=1) for pair in
                      zip((x.astype(keys.dtype) for x in (learned.keys, learned.values)), (keys, values)))
      slots += learned.slots
    deltas[path] = Prefix(keys, values, slots)
  return to_collections(deltas)
