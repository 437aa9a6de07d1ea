"""What the device is asked to do: pure functions of a pool of slots, compiled once for each of a few shapes."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from research.data.batch import Batch
from research.evaluation import embed as embedding
from research.models.config import DTYPES, ModelConfig
from research.models.functions import Model
from research.models.slots import Places
from research.serving import sampling
from research.serving.sampling import Chosen, Settings, Top
from research.strategies import together
from research.tree import Tree

Array = jax.Array


class Pool(NamedTuple):
  """The keys and values of all requests that run: each has a slot, and fills it from its beginning on."""
  layers: tuple[Array, Array]               # each [N, slots, K, S, head_dim]
  source: tuple[Array, Array] | None        # with an encoder, of its prompts: each [N, slots, K, S', head_dim]


class Rows(NamedTuple):
  """What is read in one call, of B slots. A row beside the pool's is empty."""
  slots: np.ndarray        # int32 [B]
  numbers: np.ndarray      # int32 [B], whose delta (see `strategies.together`)
  used: np.ndarray         # int32 [B], how far each slot is filled
  tokens: np.ndarray       # int32 [B, L], what comes behind that
  counts: np.ndarray       # int32 [B], how many of these there are
  sources: np.ndarray      # int32 [B], with an encoder how many tokens its prompt has


class Scored(NamedTuple):
  """Of every token that was read."""
  log_probability: Array     # [B, L], of the token that was said to follow
  top: Top                   # [B, L, …], what the model would have said
  states: Array              # [B, D], the sum of the last hidden states


def empty(config: ModelConfig, slots: int, length: int) -> Pool:
  """A pool in which nothing has been read.

  Args:
    config: of the model.
    slots: how many.
    length: tokens of each.
  """
  shape = (config.layers, slots, config.kv_heads, length, config.head_dim)
  zeros = lambda: (jnp.zeros(shape, DTYPES[config.dtype]), jnp.zeros(shape, DTYPES[config.dtype]))
  return placed(Pool(zeros(), zeros() if config.has_encoder else None))


def placed(x: Tree) -> Tree:
  """A tree of arrays, tied to the device that answers: what programs give is, and other arrays would be other programs'."""
  return jax.device_put(x, jax.local_devices()[0])


def _hidden(variables: Tree, pool: Pool, rows: Rows, model: Model, reach: int) -> tuple[Tree, Array, Pool]:
  variables = together.of_rows(variables, jnp.asarray(rows.numbers))
  source = None if pool.source is None else (*(x[:, rows.slots] for x in pool.source), rows.sources)
  places = Places(jnp.asarray(rows.slots), jnp.asarray(rows.used), reach)
  hidden, layers = model.read(variables, pool.layers, rows.tokens, places, source)
  return variables, hidden, Pool(layers, pool.source)


def _last(hidden: Array, rows: Rows) -> Array:
  return hidden[jnp.arange(len(hidden)), jnp.maximum(rows.counts - 1, 0)]


@partial(jax.jit, static_argnames='model')
def choose(variables: Tree, last: Array, settings: Settings, *, model: Model) -> Chosen:
  """What follows. It is a program of its own, since it takes longest to compile and knows nothing of slots.

  Args:
    variables: as for `read`.
    last: [B, D], the last hidden state of each row.
    settings: of the choice.
    model: whose variables they are.
  """
  return sampling.choose(model.logits(variables, last), settings)


@partial(jax.jit, static_argnames=('model', 'reach'), donate_argnames='pool')
def read(variables: Tree, pool: Pool, rows: Rows, *, model: Model, reach: int) -> tuple[Array, Pool]:
  """Reads tokens: gives the hidden state [B, D] of each row's last, which says what follows.

  Args:
    variables: of one run, or with the deltas of several.
    pool: it is used up.
    rows: what is read.
    model: whose variables they are.
    reach: slots of a row that are looked at; no row goes beyond.
  """
  _, hidden, pool = _hidden(variables, pool, rows, model, reach)
  return _last(hidden, rows), pool


@partial(jax.jit, static_argnames=('model', 'reach'), donate_argnames='pool')
def score(variables: Tree, pool: Pool, rows: Rows, targets: np.ndarray, tops: np.ndarray, *, model: Model,
          reach: int) -> tuple[Array, Scored, Pool]:
  """The same, and how likely each token was that is said to follow.

  Args:
    variables: as for `read`, as are the others.
    pool: it is used up.
    rows: what is read.
    targets: int32 [B, L], what follows each token.
    tops: bool [], whether the likeliest tokens are asked for.
    model: whose variables they are.
    reach: slots of a row that are looked at.
  """
  variables, hidden, pool = _hidden(variables, pool, rows, model, reach)
  logits = model.logits(variables, hidden)                                                   # [B, L, V]
  there = jnp.arange(hidden.shape[1]) < rows.counts[:, None]
  states = jnp.sum(jnp.where(there[..., None], hidden.astype(jnp.float32), 0), axis=1)
  scored = Scored(sampling.log_probability(logits, jnp.asarray(targets)), sampling.top(logits, jnp.asarray(tops)), states)
  return _last(hidden, rows), scored, pool


@partial(jax.jit, static_argnames='model')
def embed(variables: Tree, number: Array, tokens: np.ndarray, length: Array, *, model: Model) -> Array:
  """The mean of an encoder's states of a text, [D].

  Args:
    variables: of one run, or with the deltas of several.
    number: [], whose delta.
    tokens: int32 [1, S'], the text.
    length: [], how many tokens it has.
    model: whose variables they are.
  """
  variables = together.of_rows(variables, jnp.asarray(number)[None])
  return embedding.means(variables, jnp.asarray(tokens), jnp.asarray(length)[None], model=model)[0]


@partial(jax.jit, donate_argnames='pool')
def clear(pool: Pool, slot: Array) -> Pool:
  """The pool with nothing in one slot: what is not finite there would reach whoever fills it next, although it is masked.

  Args:
    pool: it is used up; what comes back is of the same shapes.
    slot: which.
  """
  return jax.tree.map(lambda x: x.at[:, slot].set(0), pool)


@partial(jax.jit, static_argnames='model', donate_argnames='pool')
def encode(variables: Tree, pool: Pool, slot: Array, number: Array, tokens: np.ndarray, length: Array, *, model: Model) -> Pool:
  """Has an encoder read a whole prompt, and keeps in a slot what the decoder will see of it.

  Args:
    variables: of one run, or with the deltas of several.
    pool: it is used up.
    slot: [], whose.
    number: [], whose delta.
    tokens: int32 [1, L], the prompt, in no more than the S' tokens of a slot.
    length: [], how many tokens it has.
    model: whose variables they are.
  """
  assert pool.source is not None      # the pool of a model with an encoder
  variables = together.of_rows(variables, jnp.asarray(number)[None])
  numbers, one = jnp.arange(tokens.shape[1])[None], jnp.ones((1, 1), jnp.int32)
  prompt = Batch(tokens, numbers, (numbers < length).astype(jnp.int32))
  _, cache = model.prefill(variables, Batch(one, 0 * one, one).with_source(prompt), 1)

  def put(old: Array, new: Array) -> Array:
    rest = [(0, 0)] * 3 + [(0, old.shape[3] - new.shape[3]), (0, 0)]      # nothing is left of the prompt before
    return jax.lax.dynamic_update_slice(old, jnp.pad(new.astype(old.dtype), rest), (0, slot, 0, 0, 0))
  keys, values = map(put, pool.source, cache.layers[2:])
  return Pool(pool.layers, (keys, values))
