"""Generation with a cache of keys and values: the prompts of a batch are read at once, then one token a step.

Where the model has an encoder, that reads the prompts, and the decoder goes on from its start token.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from research.console import tracked
from research.data.batch import Batch
from research.data.batches import round_up
from research.distributed import mesh, placement, processes
from research.errors import InputError
from research.models import functions
from research.models.functions import Model
from research.models.transformer import Cache
from research.programs import members
from research.programs.members import CohortVariables
from research.tree import Tree

NOT_FINITE = -1      # in place of a token whose logits are not finite


@partial(jax.jit, static_argnames=('model', 'new', 'ends', 'greedy'))
def _generate(variables: Tree | CohortVariables, batch: Batch, limits: jax.Array, keys: jax.Array, temperature: jax.Array, *,
              model: Model, new: int, ends: tuple[int, ...], greedy: bool) -> jax.Array:
  """Tokens [B, new] after prompts as `_side_by_side` lays them out; the first of `ends` fills a row from its end on.

  NOT_FINITE stands where no token could be chosen, and ends its row too. Of several members [M, B, new]: what a cache knows of
  the prompts' tokens is the same for all, its keys and values are not.
  """
  B, L = batch.tokens.shape
  each = Cache._make((0, None, None, None))      # the members' axis, which the layers' keys and values have alone
  hidden, cache = members.vmap_members(variables, lambda v: model.prefill(v, batch, L + new), axes=(0, each))

  def choose(hidden: jax.Array, i: jax.Array | int, done: jax.Array) -> Any:
    """The i-th token of every row, and which rows have ended with it."""
    def of_member(variables: Tree, hidden: jax.Array, done: jax.Array) -> tuple[jax.Array, jax.Array]:
      logits = model.logits(variables, hidden)                                 # [B, V]
      if greedy:
        token = jnp.argmax(logits, axis=-1)
      else:
        draw = lambda key, logits: jax.random.categorical(jax.random.fold_in(key, i), logits)
        token = jax.vmap(draw)(keys, logits / temperature)
      token = jnp.where(jnp.isfinite(jnp.max(logits, axis=-1)), token.astype(jnp.int32), NOT_FINITE)
      token = jnp.where(done | (i >= limits), ends[0], token)
      return token, jnp.isin(token, jnp.array((*ends, NOT_FINITE)))
    return members.vmap_members(variables, of_member, hidden, done)

  def unfinished(carry: Any) -> jax.Array:
    i, _, _, _, done = carry
    return (i < new) & ~jnp.all(done)

  def one(carry: Any) -> Any:
    i, token, cache, out, done = carry
    hidden, cache = members.vmap_members(variables, lambda v, token, cache: model.step(v, cache, token), token, cache,
                                         axes=(0, each))
    token, done = choose(hidden, i, done)
    return i + 1, token, cache, out.at[..., i].set(token), done

  first, done = choose(hidden, 0, jnp.zeros(hidden.shape[:-1], bool))
  out = jnp.full((*first.shape, new), ends[0], jnp.int32).at[..., 0].set(first)
  return jax.lax.while_loop(unfinished, one, (jnp.int32(1), first, cache, out, done))[3]


def generate(model: Model, variables: Tree, prompts: Sequence[list[int]], max_new_tokens: int, ends: Sequence[int],
             batch_size: int = 16, temperature: float = 0.0, seed: int = 0, label: str | None = None,
             first: int = 0) -> list[list[int]]:
  """The continuation of every prompt, without its end, in the prompts' order: `generate_all` of one run.

  Args:
    model: as for `generate_all`, as are the others.
    variables: of the run.
    prompts: token ids.
    max_new_tokens: where an answer ends that does not by itself.
    ends: the tokens that end an answer.
    batch_size: prompts per batch.
    temperature: 0 takes the likeliest token each time.
    seed: of the tokens that are drawn.
    label: of the progress line; None for silence.
    first: the number of the first prompt.
  Raises:
    InputError: the logits after some prompt are not finite.
  """
  [found] = generate_all(model, variables, prompts, max_new_tokens, ends, batch_size, temperature, seed, label, first)
  for number, ids in enumerate(found, first + 1):
    if NOT_FINITE in ids:
      raise InputError(f'prompt {number}: the logits are not finite (NaN or infinite), so there is no next token: the numbers '
                       'of the model, or of what was added to it, grow too large on the way')
  return found


def generate_all(model: Model, variables: Tree | CohortVariables, prompts: Sequence[list[int]], max_new_tokens: int,
                 ends: Sequence[int], batch_size: int = 16, temperature: float = 0.0, seed: int = 0,
                 label: str | None = None, first: int = 0) -> list[list[list[int]]]:
  """Every member's continuation of every prompt, without its end, in the prompts' order; a run is its only member.

  Args:
    model: of all members.
    variables: of a run, or of several.
    prompts: token ids; those of like length are decoded together. A prompt's result does not depend on that.
    max_new_tokens: where an answer ends that does not by itself.
    ends: the tokens that end an answer.
    batch_size: prompts per batch.
    temperature: 0 takes the likeliest token each time; otherwise tokens are drawn from softmax(logits / temperature).
    seed: of the tokens that are drawn, with each prompt's number; all members draw by the same.
    label: of the progress line; None for silence.
    first: the number of the first prompt, where these are some of more.
  Returns:
    Of each member the tokens of each answer; one whose logits were not finite ends in NOT_FINITE.
  """
  if jax.default_backend() == 'cpu':
    # Laid out one after the other, SmolLM2's layers took twice as long a token there (batch 1) and 1.4 times (batch 8).
    model = functions.build(dataclasses.replace(model.config, scan=True))
  found: list[list[list[int]]] = [[[] for _ in prompts] for _ in range(members.num_members(variables))]
  by_length = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
  for start in tracked(range(0, len(prompts), batch_size), label, size=lambda start: min(batch_size, len(prompts) - start)):
    chosen = by_length[start:start + batch_size]
    rows = round_up(batch_size, mesh.batch_shards())
    batch = placement.shard_batch(_side_by_side([prompts[i] for i in chosen], rows, model.config.decoder_start_id))
    limits = np.where(np.arange(rows) < len(chosen), max_new_tokens, 0)      # empty rows are done at once
    numbers = first + jnp.array([*chosen, *[0] * (rows - len(chosen))])
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), numbers)
    tokens = processes.to_host(_generate(variables, batch, limits, keys, jnp.float32(temperature), model=model,
                                         new=max_new_tokens, ends=tuple(ends), greedy=temperature == 0))
    for of_member, rows in zip(found, tokens.reshape(len(found), *tokens.shape[-2:])):
      for row, i in enumerate(chosen):
        ids = rows[row].tolist()
        of_member[i] = list(itertools.takewhile(lambda token: token not in ends, ids))
  return found


def _side_by_side(prompts: Sequence[list[int]], rows: int, start: int | None) -> Batch:
  """Prompts padded on the left, so that all end in the same slot; with an encoder that reads them, and the decoder `start`."""
  length = round_up(max(map(len, prompts)), 32)
  read = Batch(*(np.zeros((rows, length), np.int32) for _ in range(3)))
  for row, ids in enumerate(prompts):
    at = slice(length - len(ids), None)
    read.tokens[row, at], read.positions[row, at], read.segments[row, at] = ids, range(len(ids)), 1
  if start is None:
    return read
  one = np.ones((rows, 1), np.int32)
  return Batch(start * one, 0 * one, one).with_source(read)
