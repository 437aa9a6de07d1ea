"""How the next token is taken from its logits: settings, and the pure functions that they name.

Definitions and their order are those of transformers' logits processors, so that equal settings mean equal distributions.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from research.errors import InputError

Array = jax.Array
COLDEST, HOTTEST = 1e-3, 1e3      # temperatures, but for 0
BLANK = -1                        # in a history: no token stands here
NOT_FINITE = -1                   # in place of a token whose logits are not finite
FORBIDDEN = -jnp.inf


class Decoding(NamedTuple):
  """How an answer is written. Without any setting: the likeliest token each time."""
  temperature: float = 0.0            # 0: the likeliest token; above: drawn from softmax(logits / temperature)
  top_k: int = 0                      # drawn from the k likeliest tokens; 0: from all
  top_p: float = 1.0                  # from the fewest tokens that hold this much of the probability (Holtzman et al. 2020)
  min_p: float = 0.0                  # from those at least so likely as this times the likeliest
  repetition_penalty: float = 1.0     # of tokens that stand in prompt or answer: positive logits / it, others * it (CTRL)
  no_repeat_ngram: int = 0            # no n tokens stand twice in prompt and answer; 0: they may
  beams: int = 1                      # of beam search
  length_penalty: float = 1.0         # beams are compared by log-likelihood / length ** it
  early_stopping: int = 0             # 1: a search ends with as many answers as beams; 0: where none can become better
  seed: int = 0                       # of what is drawn, with each prompt's number and each token's place

  @property
  def draws(self) -> bool:
    return self.temperature > 0

  @property
  def looks_back(self) -> bool:
    """Whether the next token depends on which ones stand before it, beside what the model makes of them."""
    return self.repetition_penalty != 1 or self.no_repeat_ngram > 0

  def program(self) -> 'Decoding':
    """What of it a compiled program is of: the temperature and the seed are given to that."""
    return self._replace(seed=0, temperature=float(self.draws))

  def said(self) -> dict[str, Any]:
    """The settings that are not the usual ones."""
    return {name: value for name, value in self._asdict().items() if value != self._field_defaults[name]}


GREEDY = Decoding()
WHOLE = ('top_k', 'no_repeat_ngram', 'beams', 'early_stopping', 'seed')
MOST_BEAMS = 256


def check(decoding: Decoding, where: str = 'task.decoding: ') -> Decoding:
  """The settings as they are, where they can be.

  Args:
    decoding: to be looked at.
    where: what stands before a setting's name in an error.
  Raises:
    InputError: names the first setting that cannot be, or that changes nothing beside the others.
  """
  d = decoding
  for holds, name, must in (
      (d.temperature == 0 or COLDEST <= d.temperature <= HOTTEST, 'temperature',
       'must be 0 (the likeliest token each time), or from 0.001 to 1000'),
      (d.top_k >= 0, 'top_k', 'must be 0 (all tokens) or more'),
      (0 < d.top_p <= 1, 'top_p', 'a share of the probability, above 0 and at most 1'),
      (0 <= d.min_p <= 1, 'min_p', 'a share of the likeliest token\'s probability, from 0 to 1'),
      (COLDEST <= d.repetition_penalty <= HOTTEST, 'repetition_penalty', 'must be from 0.001 to 1000; 1: none'),
      (d.no_repeat_ngram >= 0, 'no_repeat_ngram', 'must be 0 (tokens may repeat) or more'),
      (1 <= d.beams <= MOST_BEAMS, 'beams', f'must be from 1 to {MOST_BEAMS}'),
      (-HOTTEST <= d.length_penalty <= HOTTEST, 'length_penalty', 'must be from -1000 to 1000; 0: length does not count'),
      (d.early_stopping in (0, 1), 'early_stopping', 'must be 0 (while a beam may become better) or 1 (not when there are '
       'as many answers as beams)'),
      (0 <= d.seed < 2 ** 31, 'seed', 'must be 0 or more, and below 2^31')):
    if not holds:
      raise InputError(f'{where}{name}={getattr(d, name)}: {must}')
  said = d.said()
  drawn = [name for name in ('temperature', 'top_k', 'top_p', 'min_p') if name in said]
  if d.beams > 1 and drawn:
    raise InputError(f'{where}{drawn[0]}={said[drawn[0]]}: is of drawing, and beams={d.beams} draws nothing; give one of them')
  if drawn and not d.draws:
    raise InputError(f'{where}{drawn[0]}={said[drawn[0]]}: is of drawing; give a temperature above 0 too')
  of_beams = [name for name in ('length_penalty', 'early_stopping') if name in said]
  if d.beams == 1 and of_beams:
    raise InputError(f'{where}{of_beams[0]}={said[of_beams[0]]}: is of beam search; give beams above 1 too')
  return d


def of_pairs(pairs: Iterable[tuple[str, float]]) -> Decoding:
  """The settings that `task.decoding` names.

  Raises:
    InputError: there is no such setting, or it cannot be (see `check`).
  """
  given: dict[str, Any] = {}
  for name, value in pairs:
    if name not in Decoding._fields:
      raise InputError(f'task.decoding: no setting is called {name!r} (settings: {", ".join(Decoding._fields)})')
    if isinstance(value, bool) or not isinstance(value, int | float) or (name in WHOLE and value != int(value)):
      raise InputError(f'task.decoding: {name}={value!r:.40}: must be a {"whole " * (name in WHOLE)}number')
    given[name] = int(value) if name in WHOLE else float(value)
  return check(Decoding(**given))


def penalise_repetition(logits: Array, history: Array, penalty: float) -> Array:
  """Logits in which tokens that were there before are less likely (Keskar et al. 2019, arXiv 1909.05858).

  Args:
    logits: [B, V].
    history: [B, S] tokens, in any order, BLANK where there is none.
    penalty: above 1 for less likely.
  """
  rows = jnp.arange(len(logits))[:, None]
  there = jnp.zeros(logits.shape, bool).at[rows, _or_none(history, logits)].set(True, mode='drop')
  return jnp.where(there, jnp.where(logits < 0, logits * penalty, logits / penalty), logits)


def forbid_repeated(logits: Array, history: Array, end: Array | int, n: int) -> Array:
  """Logits in which no token is possible that makes n tokens stand a second time.

  Args:
    logits: [B, V].
    history: [B, S] tokens as they follow each other, BLANK before the first and from `end` on.
    end: how many slots of the history are filled, the same for every row.
    n: tokens.
  """
  B, S = history.shape
  if n > S:
    return logits
  windows = history[:, jnp.arange(S - n + 1)[:, None] + jnp.arange(n)]                              # [B, S - n + 1, n]
  last = history[:, jnp.clip(end - n + 1 + jnp.arange(n - 1), 0)]                                   # [B, n - 1]
  again = jnp.all(windows[..., :-1] == last[:, None], axis=-1) & jnp.all(windows >= 0, axis=-1) & (end >= n)
  banned = jnp.where(again, windows[..., -1], BLANK)
  return logits.at[jnp.arange(B)[:, None], _or_none(banned, logits)].set(FORBIDDEN, mode='drop')


def _or_none(tokens: Array, logits: Array) -> Array:
  """Tokens as indices into logits; BLANK, which would be the last token there, is outside."""
  return jnp.where(tokens < 0, logits.shape[-1], tokens)


def keep_top_k(logits: Array, k: int) -> Array:
  """Logits [..., V] of the k likeliest tokens, ties with the last of them included; the others are impossible."""
  least = jax.lax.top_k(logits, min(k, logits.shape[-1]))[0][..., -1:]
  return jnp.where(logits < least, FORBIDDEN, logits)


def keep_top_p(logits: Array, p: Array | float) -> Array:
  """Logits [..., V] of the fewest tokens whose probabilities sum up to p or more (Holtzman et al. 2020, arXiv 1904.09751)."""
  order = jnp.argsort(logits, axis=-1)
  below = jnp.cumsum(jax.nn.softmax(jnp.take_along_axis(logits, order, -1)), axis=-1) <= 1 - p
  below = below.at[..., -1].set(False)
  return jnp.where(jnp.take_along_axis(below, jnp.argsort(order, axis=-1), -1), FORBIDDEN, logits)


def keep_min_p(logits: Array, p: Array | float) -> Array:
  """Logits [..., V] of tokens at least p times as likely as the likeliest (Nguyen et al. 2024, arXiv 2407.01082)."""
  probabilities = jax.nn.softmax(logits)
  return jnp.where(probabilities < p * jnp.max(probabilities, axis=-1, keepdims=True), FORBIDDEN, logits)


def looking_back(logits: Array, history: Array | None, end: Array | int, decoding: Decoding) -> Array:
  """Logits after all that depends on the tokens before.

  Args:
    logits: [B, V].
    history: [B, S], as for `forbid_repeated`; None where nothing looks back.
    end: how many slots of it are filled.
    decoding: says what is done.
  """
  if history is None:
    return logits
  if decoding.repetition_penalty != 1:
    logits = penalise_repetition(logits, history, decoding.repetition_penalty)
  if decoding.no_repeat_ngram:
    logits = forbid_repeated(logits, history, end, decoding.no_repeat_ngram)
  return logits


def to_draw_from(logits: Array, temperature: Array | float, decoding: Decoding) -> Array:
  """The logits [..., V] that a token is drawn from.

  Args:
    logits: [..., V].
    temperature: above 0; stands for the decoding's own.
    decoding: says which tokens are kept.
  """
  logits = logits / temperature
  if decoding.top_k:
    logits = keep_top_k(logits, decoding.top_k)
  if decoding.top_p < 1:
    logits = keep_top_p(logits, decoding.top_p)
  if decoding.min_p:
    logits = keep_min_p(logits, decoding.min_p)
  return logits


def are_finite(logits: Array) -> Array:
  """[...] bool of logits [..., V]: whether none is NaN or infinite; FORBIDDEN may be. A maximum may pass over NaN."""
  return jnp.isfinite(jax.nn.logsumexp(logits, axis=-1))


def next_token(logits: Array, keys: Array, i: Array | int, temperature: Array | float, decoding: Decoding) -> Array:
  """The i-th token of every row, [B]: the likeliest, or drawn by the row's key and i alone.

  Args:
    logits: [B, V], after what looks back.
    keys: [B], a key for each prompt.
    i: the token's place in the answer.
    temperature: of drawing.
    decoding: says how.
  """
  if not decoding.draws:
    return jnp.argmax(logits, axis=-1)
  draw = lambda key, logits: jax.random.categorical(jax.random.fold_in(key, i), logits)
  return jax.vmap(draw)(keys, to_draw_from(logits, temperature, decoding))
