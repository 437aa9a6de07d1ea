"""Generation with a cache of keys and values: the prompts of a batch are read at once, then one token a step.

Where the model has an encoder, that reads the prompts, and the decoder goes on from its start token. How a token is chosen
stands in `decoding`, and beam search in `beam`.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from research.console import tracked
from research.data.batch import Batch
from research.data.batches import round_up
from research.distributed import mesh, placement, processes
from research.errors import InputError
from research.evaluation import beam
from research.evaluation.beam import CACHED
from research.evaluation.decoding import BLANK, GREEDY, NOT_FINITE, Decoding, are_finite, looking_back, next_token
from research.models.functions import Model
from research.models.transformer import Cache
from research.programs import members
from research.programs.members import CohortVariables
from research.tree import Tree

EndedFn = Callable[[int, list[int]], bool]      # (a prompt's number, tokens of its answer) -> whether it ends with them
BETWEEN_LOOKS = 16                              # tokens that are written before somebody looks whether answers have ended


class Rows(NamedTuple):
  """What is known of every row before its first token."""
  limits: jax.Array | np.ndarray      # [B], the most tokens of its answer
  keys: jax.Array                     # [B]
  known: np.ndarray | None            # [B, P], the tokens of its prompt where something looks back at them, BLANK before them
  temperature: jax.Array              # []


class Written(NamedTuple):
  """Answers so far; of several members each array but `used` has their axis first."""
  tokens: jax.Array      # [B, new]; the first of the ends fills a row from its end on
  done: jax.Array        # [B]
  last: jax.Array        # [B], the last token of each
  used: jax.Array        # [], tokens that every row has


def _choose(variables: Tree | CohortVariables, hidden: jax.Array, written: Written, rows: Rows, model: Model,
            ends: tuple[int, ...], decoding: Decoding) -> Written:
  """The next token of every row. NOT_FINITE stands where none could be chosen, and ends its row too."""
  i, new = written.used, written.tokens.shape[-1]

  def of_member(variables: Tree, hidden: jax.Array, done: jax.Array, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
    logits = model.logits(variables, hidden)                                 # [B, V]
    history, end = None, i
    if rows.known is not None:
      history = jnp.concatenate([rows.known, jnp.where(jnp.arange(new) < i, tokens, BLANK)], axis=1)
      end = i + rows.known.shape[1]
    allowed = looking_back(logits, history, end, decoding)
    token = next_token(allowed, rows.keys, i, rows.temperature, decoding).astype(jnp.int32)
    if rows.known is not None:
      token = jnp.where(jnp.max(allowed, axis=-1) == -jnp.inf, ends[0], token)      # all were forbidden
    token = jnp.where(are_finite(logits), token, NOT_FINITE)
    token = jnp.where(done | (i >= rows.limits), ends[0], token)
    return token, jnp.isin(token, jnp.array((*ends, NOT_FINITE)))
  token, done = members.vmap_members(variables, of_member, hidden, written.done, written.tokens)
  return Written(written.tokens.at[..., i].set(token), done, token, i + 1)


@partial(jax.jit, static_argnames=('model', 'new', 'ends', 'decoding'))
def _begin(variables: Tree | CohortVariables, batch: Batch, rows: Rows, *, model: Model, new: int, ends: tuple[int, ...],
           decoding: Decoding) -> tuple[Written, Cache]:
  """Reads prompts as `_side_by_side` lays them out, and writes the first token of each answer.

  What a cache knows of the prompts' tokens is the same for all members, its keys and values are not.
  """
  slots = batch.tokens.shape[1] + new
  hidden, cache = members.vmap_members(variables, lambda v: model.prefill(v, batch, slots), axes=(0, CACHED))
  shape = hidden.shape[:-1]
  none = jnp.zeros(shape, jnp.int32)
  blank = Written(jnp.full((*shape, new), ends[0], jnp.int32), none > 0, none, jnp.int32(0))
  return _choose(variables, hidden, blank, rows, model, ends, decoding), cache


@partial(jax.jit, static_argnames=('model', 'ends', 'decoding'), donate_argnames='cache')
def _go_on(variables: Tree | CohortVariables, written: Written, cache: Cache, ended: np.ndarray, until: int, rows: Rows, *,
           model: Model, ends: tuple[int, ...], decoding: Decoding) -> tuple[Written, Cache]:
  """Goes on until every row has `until` tokens, or all have ended; those that `ended` [B] names get no more tokens."""
  def unfinished(carry: tuple[Written, Cache]) -> jax.Array:
    return (carry[0].used < until) & ~jnp.all(carry[0].done)

  def one(carry: tuple[Written, Cache]) -> tuple[Written, Cache]:
    written, cache = carry
    hidden, cache = members.vmap_members(variables, lambda v, token, cache: model.step(v, cache, token), written.last, cache,
                                         axes=(0, CACHED))
    return _choose(variables, hidden, written, rows, model, ends, decoding), cache
  return jax.lax.while_loop(unfinished, one, (written._replace(done=written.done | ended), cache))


def _pieces(variables: Tree | CohortVariables, batch: Batch, rows: Rows, numbers: Sequence[int], ended: EndedFn | None,
            every: int, *, model: Model, new: int, ends: tuple[int, ...],
            decoding: Decoding) -> Iterator[list[list[list[int]]]]:
  """The answers of one batch as they grow: of each member the tokens of each prompt so far, without the end.

  Args:
    variables: of a run, or of several.
    batch: the prompts.
    rows: of the batch.
    numbers: of the prompts; rows after them are empty.
    ended: says which answers end by more than their last token.
    every: tokens, or fewer, that a piece adds.
    model: of all members.
    new: the most tokens of an answer.
    ends: tokens that end one.
    decoding: says how tokens are chosen.
  """
  how: dict[str, Any] = {'model': model, 'ends': ends, 'decoding': decoding}
  written, cache = _begin(variables, batch, rows, new=new, **how)
  stopped = np.zeros(written.done.shape, bool)
  found: list[list[list[int]]] = [[[] for _ in numbers] for _ in range(members.num_members(variables))]
  for until in itertools.chain(range(every, new, every), [new]):
    written, cache = _go_on(variables, written, cache, stopped, until, rows, **how)
    shape, used = (len(found), len(batch.tokens)), int(written.used)
    tokens, done = processes.to_host(written.tokens).reshape(*shape, new), processes.to_host(written.done).reshape(shape)
    stopped = stopped.reshape(shape)
    for member, row in itertools.product(range(len(found)), range(len(numbers))):
      if stopped[member, row]:
        continue
      ids = list(itertools.takewhile(lambda token: token not in ends, tokens[member, row, :used].tolist()))
      if ended and (size := _first_end(ended, numbers[row], ids, len(found[member][row]))):
        ids, stopped[member, row] = ids[:size], True
      found[member][row] = ids
    all_done = bool(np.all(done | stopped))
    stopped = stopped.reshape(written.done.shape)
    yield found
    if all_done:
      return


def _first_end(ended: EndedFn, number: int, ids: list[int], looked: int) -> int:
  """After how many of its tokens an answer ends first, of which so many were looked at; 0: it goes on."""
  ids = [token for token in ids if token != NOT_FINITE]
  if not ended(number, ids):
    return 0
  return next(size for size in range(looked + 1, len(ids) + 1) if size == len(ids) or ended(number, ids[:size]))


def generate(model: Model, variables: Tree, prompts: Sequence[list[int]], max_new_tokens: int, ends: Sequence[int],
             batch_size: int = 16, decoding: Decoding = GREEDY, label: str | None = None, first: int = 0,
             ended: EndedFn | None = None, read: Sequence[int] = ()) -> list[list[int]]:
  """The continuation of every prompt, without its end, in the prompts' order: `generate_all` of one run.

  Logits that are not finite are refused (`InputError`), with the prompt's number.

  Args:
    model: as for `generate_all`, as are the others.
    variables: of the run.
    prompts: token ids.
    max_new_tokens: where an answer ends that does not by itself.
    ends: the tokens that end an answer.
    batch_size: prompts per batch.
    decoding: how tokens are chosen.
    label: of the progress line; None for silence.
    first: the number of the first prompt.
    ended: says which answers end by more than their last token.
    read: the tokens before every prompt that the variables have read.
  """
  [found] = generate_all(model, variables, prompts, max_new_tokens, ends, batch_size, decoding, label, first, ended, read)
  for number, ids in enumerate(found, first + 1):
    _check_finite(ids, number)
  return found


def _check_finite(ids: list[int], number: int) -> None:
  if NOT_FINITE in ids:
    raise InputError(f'prompt {number}: the logits are not finite (NaN or infinite), so there is no next token: the numbers '
                     'of the model, or of what was added to it, grow too large on the way')


def stream(model: Model, variables: Tree, prompt: list[int], max_new_tokens: int, ends: Sequence[int],
           decoding: Decoding = GREEDY, ended: EndedFn | None = None, read: Sequence[int] = ()) -> Iterator[list[int]]:
  """The continuation of one prompt as it grows, token by token; the last is what `generate` gives of it.

  Of beams only the last is given: until then another one may become the best. Logits that are not finite are refused
  (`InputError`).

  Args:
    model: as for `generate_all`, as are the others.
    variables: of the run.
    prompt: token ids.
    max_new_tokens: where an answer ends that does not by itself.
    ends: the tokens that end an answer.
    decoding: how tokens are chosen.
    ended: says whether the answer ends by more than its last token.
    read: the tokens before the prompt that the variables have read.
  """
  variables = members.for_decoding(variables, decoding.beams)
  for [[ids]] in _growing(model, variables, [prompt], [0], max_new_tokens, ends, 1, decoding, ended, read, every=1):
    _check_finite(ids, 1)
    yield ids


def generate_all(model: Model, variables: Tree | CohortVariables, prompts: Sequence[list[int]], max_new_tokens: int,
                 ends: Sequence[int], batch_size: int = 16, decoding: Decoding = GREEDY, label: str | None = None,
                 first: int = 0, ended: EndedFn | None = None, read: Sequence[int] = ()) -> list[list[list[int]]]:
  """Every member's continuation of every prompt, without its end, in the prompts' order; a run is its only member.

  Args:
    model: of all members.
    variables: of a run, or of several.
    prompts: token ids; those of like length are decoded together. A prompt's result does not depend on that.
    max_new_tokens: where an answer ends that does not by itself.
    ends: the tokens that end an answer.
    batch_size: prompts per batch.
    decoding: how tokens are chosen. What is drawn depends on its seed and on each prompt's number and token's place alone; all
      members draw by the same.
    label: of the progress line; None for silence.
    first: the number of the first prompt, where these are some of more.
    ended: says which answers end by more than their last token, such as by a text; None: none do.
    read: the tokens before every prompt that the variables have read (see `shared_prefix`).
  Returns:
    Of each member the tokens of each answer, with those by which it `ended`; one whose logits were not finite ends in
    NOT_FINITE.
  """
  variables = members.for_decoding(variables, min(batch_size, len(prompts)) * decoding.beams)
  found: list[list[list[int]]] = [[[] for _ in prompts] for _ in range(members.num_members(variables))]
  by_length = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
  for start in tracked(range(0, len(prompts), batch_size), label, size=lambda start: min(batch_size, len(prompts) - start)):
    chosen = by_length[start:start + batch_size]
    *_, last = _growing(model, variables, [prompts[i] for i in chosen], [first + i for i in chosen], max_new_tokens, ends,
                        batch_size, decoding, ended, read, every=BETWEEN_LOOKS if ended else max_new_tokens)
    for of_member, answers in zip(found, last):
      for i, ids in zip(chosen, answers):
        of_member[i] = ids
  return found


def _growing(model: Model, variables: Tree | CohortVariables, prompts: Sequence[list[int]], numbers: Sequence[int], new: int,
             ends: Sequence[int], batch_size: int, decoding: Decoding, ended: EndedFn | None, read: Sequence[int],
             every: int) -> Iterator[list[list[list[int]]]]:
  """The answers to at most `batch_size` prompts of these numbers, as `_pieces` gives them."""
  size, start = round_up(batch_size, mesh.batch_shards()), model.config.decoder_start_id
  batch = placement.shard_batch(_side_by_side(prompts, size, start))
  limits = np.where(np.arange(size) < len(prompts), new, 0)      # empty rows are done at once
  known = None
  if decoding.looks_back:
    before = [token for token in read if token >= 0]             # below 0 stand the vectors of a soft prompt
    own = lambda ids: [*before, *(token for token in ids if token >= 0)] if start is None else [start]
    known = _history([own(ids) for ids in prompts], size)
  how: dict[str, Any] = {'model': model, 'new': new, 'ends': tuple(ends), 'decoding': decoding.program()}
  if decoding.beams > 1:
    yield beam.search(variables, batch, limits, known, numbers, ended, **how)
    return
  of_rows = jnp.array([*numbers, *[0] * (size - len(numbers))])
  keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(decoding.seed), of_rows)
  rows = Rows(limits, keys, known, jnp.float32(decoding.temperature))
  yield from _pieces(variables, batch, rows, numbers, ended, every, **how)


def _history(tokens: Sequence[list[int]], rows: int) -> np.ndarray:
  """Tokens [rows, P] that end in the same slot, BLANK before them."""
  found = np.full((rows, round_up(max(map(len, tokens)), 32)), BLANK, np.int32)
  for row, ids in enumerate(tokens):
    found[row, found.shape[1] - len(ids):] = ids
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
