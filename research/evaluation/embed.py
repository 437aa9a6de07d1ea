"""Texts as vectors: the mean of a model's last hidden states over the tokens of a text."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from research.console import tracked
from research.data.batch import Batch
from research.data.batches import round_up
from research.distributed import mesh, placement, processes
from research.models.functions import Model
from research.tree import Tree


@partial(jax.jit, static_argnames='model')
def means(variables: Tree, tokens: jax.Array, lengths: jax.Array, *, model: Model) -> jax.Array:
  """[B, D] of tokens [B, L], of which the first `lengths` [B] are a text.

  Args:
    variables: of the model.
    tokens: of the texts, one a row.
    lengths: of each.
    model: gives the states.
  """
  there = jnp.arange(tokens.shape[1]) < lengths[:, None]                          # [B, L]
  batch = Batch(tokens, jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape), there.astype(jnp.int32))
  if model.config.has_encoder:
    one = jnp.ones((len(tokens), 1), jnp.int32)
    batch = Batch(one, 0 * one, one).with_source(batch)
  states = model.states(variables, batch).astype(jnp.float32)
  return jnp.sum(jnp.where(there[..., None], states, 0), axis=1) / jnp.maximum(lengths, 1)[:, None]


def embed(model: Model, variables: Tree, prompts: Sequence[list[int]], batch_size: int = 16,
          label: str | None = None) -> np.ndarray:
  """The vector of each prompt: of an encoder's states where there is one, else of the decoder's.

  Args:
    model: of the run.
    variables: of the run.
    prompts: token ids, each one or more; those of a soft prompt count as others do.
    batch_size: prompts per batch; no result depends on it.
    label: of the progress line; None for silence.
  Returns:
    [P, D] of P prompts, in float32.
  """
  found = np.zeros((len(prompts), model.config.width), np.float32)
  by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
  rows = round_up(batch_size, mesh.batch_shards())
  for start in tracked(range(0, len(prompts), batch_size), label, size=lambda start: min(batch_size, len(prompts) - start)):
    chosen = by_length[start:start + batch_size]
    tokens = np.zeros((rows, round_up(max(len(prompts[i]) for i in chosen), 32)), np.int32)
    lengths = np.zeros(rows, np.int32)
    for row, i in enumerate(chosen):
      tokens[row, :len(prompts[i])], lengths[row] = prompts[i], len(prompts[i])
    found[chosen] = processes.to_host(means(variables, *placement.shard_batch((tokens, lengths)), model=model))[:len(chosen)]
  return found
