"""Beam search as transformers has it: several answers to each prompt grow side by side.

The cache holds a row for each beam, B · K of them, and is put in order after every token, since two beams may go on from one.
"""

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from research.data.batch import Batch
from research.distributed import processes
from research.evaluation.decoding import BLANK, NOT_FINITE, Decoding, are_finite, looking_back
from research.models.functions import Model
from research.models.transformer import Cache
from research.programs import members
from research.programs.members import CohortVariables
from research.tree import Tree

Array = jax.Array
WORST = -1e9         # the score of what is not to be chosen
CACHED = Cache(0, None, None, None)      # type: ignore[arg-type]  # the members' axis, which layers have alone


class Beams(NamedTuple):
  """Answers so far: K beams and C candidates for a prompt; of several members their axis comes first."""
  tokens: Array        # [B, K, new], of those that go on
  scores: Array        # [B, K], their log-likelihoods
  parents: Array       # [B, K], the beams that they come from
  ended: Array         # [B, K, new], the best of those that have ended, best first
  ended_scores: Array  # [B, K], log-likelihood / length ** length_penalty
  has_ended: Array     # [B, K], whether there is one
  open: Array          # [B], whether those that go on may come to be better
  bad: Array           # [B], whether some logits were not finite


class Candidates(NamedTuple):
  """The likeliest continuations by one token."""
  tokens: Array        # [B, C, new]
  scores: Array        # [B, C]
  parents: Array       # [B, C]


def _take(x: Array, which: Array) -> Array:
  """Of [B, A, …] those that `which` [B, K] names."""
  return jnp.take_along_axis(x, which.reshape(*which.shape, *[1] * (x.ndim - 2)), axis=1)


def _propose(model: Model, variables: Tree, hidden: Array, beams: Beams, i: Array | int, known: Array | None, count: int,
             decoding: Decoding) -> tuple[Beams, Candidates]:
  """The `count` best continuations of every prompt's beams by their i-th token, from `hidden` [B · K, D]."""
  B, K, new = beams.tokens.shape
  logits = model.logits(variables, hidden)                                     # [B · K, V]
  finite = jnp.all(are_finite(logits).reshape(B, K), axis=-1)
  bad = beams.bad | (~finite & beams.open)
  beams = beams._replace(bad=bad, open=beams.open & ~bad)
  history, end = None, i
  if known is not None:
    said = jnp.where(jnp.arange(new) < i, beams.tokens, BLANK).reshape(B * K, new)
    history, end = jnp.concatenate([jnp.repeat(known, K, axis=0), said], axis=1), i + known.shape[1]
  scores = looking_back(jax.nn.log_softmax(logits), history, end, decoding).reshape(B, K, -1) + beams.scores[..., None]
  best, at = jax.lax.top_k(scores.reshape(B, -1), count)
  parents = at // scores.shape[-1]
  tokens = _take(beams.tokens, parents).at[..., i].set((at % scores.shape[-1]).astype(jnp.int32))
  return beams, Candidates(tokens, best, parents)


@partial(jax.jit, static_argnames=('model', 'new', 'ends', 'decoding'))
def _begin(variables: Tree | CohortVariables, batch: Batch, limits: Array, known: Array | None, *, model: Model, new: int,
           ends: tuple[int, ...], decoding: Decoding) -> tuple[Beams, Cache, Candidates]:
  """Reads the prompts, each once, and proposes the first tokens."""
  B, K = len(limits), decoding.beams
  each = lambda x, axis: jnp.repeat(x, K, axis=axis)

  def of_member(variables: Tree) -> tuple[Beams, Cache, Candidates]:
    hidden, cache = model.prefill(variables, batch, batch.tokens.shape[1] + new)
    blank = jnp.full((B, K, new), ends[0], jnp.int32)
    worst = jnp.full((B, K), WORST)
    beams = Beams(blank, worst.at[:, 0].set(0.0), jnp.zeros((B, K), jnp.int32), blank, worst, jnp.zeros((B, K), bool),
                  jnp.asarray(limits) > 0, jnp.zeros(B, bool))
    beams, candidates = _propose(model, variables, each(hidden, 0), beams, 0, known, _count(ends, K), decoding)
    of_rows = lambda tokens: jax.tree.map(lambda x: each(x, 0), tokens)
    cache = Cache(tuple(each(x, 1) for x in cache.layers), of_rows(cache.tokens), of_rows(cache.source), cache.used)
    return beams, cache, candidates
  return members.vmap_members(variables, of_member, axes=(0, CACHED, 0))


def _count(ends: Sequence[int], beams: int) -> int:
  """Candidates of a prompt: so many that, whatever ends, as many beams go on."""
  return max(2, 1 + len(ends)) * beams


@partial(jax.jit, static_argnames=('decoding',))
def _settle(variables: Tree | CohortVariables, beams: Beams, candidates: Candidates, hits: Array, length: Array, *,
            decoding: Decoding) -> Beams:
  """Which candidates go on, and which have ended; `hits` [B, C] says which end with their last token, the `length`-th."""
  K, per = decoding.beams, length.astype(jnp.float32) ** decoding.length_penalty

  def of_member(variables: Tree, beams: Beams, candidates: Candidates, hits: Array) -> Beams:
    scores = candidates.scores + hits * WORST
    on = jax.lax.top_k(scores, K)[1]
    tokens, scores, parents = _take(candidates.tokens, on), _take(scores, on), _take(candidates.parents, on)
    just = hits & (jnp.arange(hits.shape[1]) < K)
    final = candidates.scores / per + ~beams.open[:, None] * WORST + ~just * WORST
    together = jnp.concatenate([beams.ended_scores, final], axis=1)
    ended_scores, best = jax.lax.top_k(together, K)
    ended = _take(jnp.concatenate([beams.ended, candidates.tokens], axis=1), best)
    has_ended = _take(jnp.concatenate([beams.has_ended, just], axis=1), best)
    worst = jnp.where(has_ended, jnp.min(ended_scores, axis=1, keepdims=True), WORST)
    is_open = beams.open & jnp.any(scores[:, :1] / per > worst, axis=1)
    if decoding.early_stopping:
      is_open &= ~jnp.all(has_ended, axis=1)
    return Beams(tokens, scores, parents, ended, ended_scores, has_ended, is_open, beams.bad)
  return members.vmap_members(variables, of_member, beams, candidates, hits)


@partial(jax.jit, static_argnames=('model', 'ends', 'decoding'), donate_argnames='cache')
def _extend(variables: Tree | CohortVariables, beams: Beams, cache: Cache, i: Array, known: Array | None, *, model: Model,
            ends: tuple[int, ...], decoding: Decoding) -> tuple[Beams, Cache, Candidates]:
  """Reads the beams' last tokens, and proposes the i-th."""
  def of_member(variables: Tree, beams: Beams, cache: Cache) -> tuple[Beams, Cache, Candidates]:
    B, K, _ = beams.tokens.shape
    token = jax.lax.dynamic_index_in_dim(beams.tokens, i - 1, -1, keepdims=False).reshape(B * K)
    ordered = [_take(jnp.moveaxis(x.reshape(len(x), B, K, *x.shape[2:]), 0, 2), beams.parents) for x in cache.layers[:2]]
    ordered = [jnp.moveaxis(x, 2, 0).reshape(was.shape) for x, was in zip(ordered, cache.layers)]
    hidden, cache = model.step(variables, cache._replace(layers=(*ordered, *cache.layers[2:])), token)
    beams, candidates = _propose(model, variables, hidden, beams, i, known, _count(ends, K), decoding)
    return beams, cache, candidates
  return members.vmap_members(variables, of_member, beams, cache, axes=(0, CACHED, 0))


def search(variables: Tree | CohortVariables, batch: Batch, limits: np.ndarray, known: np.ndarray | None,
           numbers: Sequence[int], ended: Callable[[int, list[int]], bool] | None, *, model: Model, new: int,
           ends: tuple[int, ...], decoding: Decoding) -> list[list[list[int]]]:
  """Of every member the best answer to each prompt, without the token that ends it.

  Args:
    variables: of a run, or of several.
    batch: prompts that end in the same slot.
    limits: [B], 0 for rows that hold no prompt.
    known: [B, P], the prompts' tokens where something looks back at them.
    numbers: of the prompts.
    ended: says which answers end by more than their last token.
    model: of all members.
    new: the most tokens of an answer.
    ends: tokens that end one.
    decoding: has the beams.
  """
  how: dict[str, Any] = {'model': model, 'ends': ends, 'decoding': decoding}
  beams, cache, candidates = _begin(variables, batch, limits, known, new=new, **how)
  for length in range(1, new + 1):
    hits = _hits(candidates, numbers, ended, ends, length, new)
    beams = _settle(variables, beams, candidates, hits, np.int32(length), decoding=decoding)
    if not np.any(processes.to_host(beams.open)[..., None] & ~hits):
      break
    beams, cache, candidates = _extend(variables, beams, cache, np.int32(length), known, **how)
  tokens, bad = processes.to_host(beams.ended[..., 0, :]), processes.to_host(beams.bad)
  tokens, bad = tokens.reshape(-1, len(limits), new), bad.reshape(-1, len(limits))
  answer = lambda ids, bad: [NOT_FINITE] if bad else list(itertools.takewhile(lambda token: token not in ends, ids))
  return [[answer(of_member[row].tolist(), wrong[row]) for row in range(len(numbers))]
          for of_member, wrong in zip(tokens, bad)]


def _hits(candidates: Candidates, numbers: Sequence[int], ended: Callable[[int, list[int]], bool] | None, ends: Sequence[int],
          length: int, new: int) -> np.ndarray:
  """Which candidates [B, C] end with their last token, the `length`-th of at most `new`."""
  tokens = processes.to_host(candidates.tokens)[..., :length]
  hits = np.isin(tokens[..., -1], ends) | (length == new)
  if ended:
    for at in zip(*np.nonzero(~hits)):
      if at[-2] < len(numbers):
        hits[at] = ended(numbers[at[-2]], tokens[at].tolist())
  return hits
