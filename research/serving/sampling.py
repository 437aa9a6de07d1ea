"""The next token of rows that each have settings of their own; the definitions are those of `evaluation.decoding`."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from research.evaluation import decoding
from research.evaluation.decoding import FORBIDDEN, NOT_FINITE

Array = Any      # of numpy where requests are put together, of jax where they are computed with
MOST_TOP = 20        # of the likeliest tokens, told beside the chosen one
MOST_BIASED = 300    # tokens whose logits a request can change


class Settings(NamedTuple):
  """Of every row."""
  temperature: Array      # float32 [B]; 0: the likeliest token
  top_k: Array            # int32 [B]; 0: all
  top_p: Array            # float32 [B]; 1: all
  min_p: Array            # float32 [B]; 0: all
  seed: Array             # int32 [B]
  answer: Array           # int32 [B], the answer's number among those to one prompt
  place: Array            # int32 [B], the token's in its answer
  biased: Array           # int32 [B, MOST_BIASED], tokens whose logits change; below 0: none
  bias: Array             # float32 [B, MOST_BIASED], by how much
  tops: Array             # bool [B], whether the likeliest tokens are asked for


class Chosen(NamedTuple):
  """Of every row."""
  token: Array               # [B]; NOT_FINITE where none could be chosen
  log_probability: Array     # [B], by the model alone: before bias, temperature and what is left out
  top: 'Top'


class Top(NamedTuple):
  """The likeliest tokens, the first of them first; zeros where nobody asked."""
  tokens: Array              # [..., MOST_TOP]
  log_probabilities: Array   # [..., MOST_TOP]


def usual(rows: int) -> Settings:
  """The likeliest token in every row."""
  whole, real = lambda: np.zeros(rows, np.int32), lambda: np.zeros(rows, np.float32)      # each an array of its own
  return Settings(real(), whole(), real() + 1, real(), whole(), whole(), whole(), np.full((rows, MOST_BIASED), -1, np.int32),
                  np.zeros((rows, MOST_BIASED), np.float32), np.zeros(rows, bool))


def choose(logits: Array, s: Settings) -> Chosen:
  """The next token of every row, from logits [B, V]. What is drawn depends on seed, answer and place alone."""
  allowed = jax.lax.cond(jnp.any(s.biased >= 0), _biased, lambda logits, *_: logits, logits, s.biased, s.bias)
  greedy = lambda: jnp.argmax(allowed, axis=-1).astype(jnp.int32)

  def drawn(logits: Array) -> Array:
    tokens = jax.vmap(_draw)(logits, s.seed, s.answer, s.place).astype(jnp.int32)
    return jnp.where(s.temperature > 0, tokens, greedy())
  heat = jnp.where(s.temperature > 0, s.temperature, 1)[:, None]
  leaves_out = jnp.any((s.temperature > 0) & ((s.top_k > 0) | (s.top_p < 1) | (s.min_p > 0)))
  how = jnp.where(jnp.any(s.temperature > 0), 1 + leaves_out, 0)
  token = jax.lax.switch(how, (
      greedy, lambda: drawn(allowed / heat), lambda: drawn(jax.vmap(_kept)(allowed / heat, s.top_k, s.top_p, s.min_p))))
  token = jnp.where(decoding.are_finite(logits), token, NOT_FINITE)
  return Chosen(token, log_probability(logits, token), top(logits, jnp.any(s.tops)))


def log_probability(logits: Array, tokens: Array) -> Array:
  """Of tokens [...] by logits [..., V]."""
  of_token = jnp.take_along_axis(logits, jnp.maximum(tokens, 0)[..., None], axis=-1)[..., 0]
  return of_token - jax.nn.logsumexp(logits, axis=-1)


def top(logits: Array, asked: Array) -> Top:
  """The likeliest tokens by logits [..., V], where somebody asked."""
  count = min(MOST_TOP, logits.shape[-1])

  def found() -> Top:
    values, tokens = jax.lax.top_k(logits, count)
    return Top(tokens, values - jax.nn.logsumexp(logits, axis=-1, keepdims=True))
  shape = (*logits.shape[:-1], count)
  return jax.lax.cond(asked, found, lambda: Top(jnp.zeros(shape, jnp.int32), jnp.zeros(shape, logits.dtype)))


def _biased(logits: Array, tokens: Array, bias: Array) -> Array:
  where = jnp.where(tokens < 0, logits.shape[-1], tokens)
  return logits.at[jnp.arange(len(logits))[:, None], where].add(bias, mode='drop')


def _draw(logits: Array, seed: Array, answer: Array, place: Array) -> Array:
  """As `decode.generate` draws for the prompt of the answer's number."""
  return jax.random.categorical(jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), answer), place), logits)


def _kept(logits: Array, k: Array, p: Array, min_p: Array) -> Array:
  """One row's logits of the tokens that are not left out."""
  least = jnp.sort(logits)[::-1][jnp.maximum(k - 1, 0)]
  logits = jnp.where((k > 0) & (logits < least), FORBIDDEN, logits)
  return decoding.keep_min_p(jnp.where(p < 1, decoding.keep_top_p(logits, p), logits), min_p)
