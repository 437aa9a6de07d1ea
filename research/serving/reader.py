"""What the engine asks of the device: sequences in, tokens and their log-probabilities out. It owns the pool of slots."""

from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from research.serving import programs, sampling
from research.serving.models import Group
from research.serving.requests import Token
from research.serving.sequences import Line
from research.strategies import together

PIECE, SHORT = 64, 16       # tokens of a piece of a prompt; of one that is scored and has no more
SIDE = 4                    # prompts that are read side by side
REACH, BATCH = 128, 1       # the shortest reach into a slot, and the smallest batch of running answers
WIDER = 4                   # by how much each next one is larger


class Reader:
  """A pool of slots, and the programs that fill it: few shapes, each compiled once."""

  def __init__(self, group: Group, slots: int, context: int):
    """
    Args:
      group: one of those that will be read with; all have the same layers.
      slots: how many.
      context: tokens of each.
    """
    self.config, self.slots, self.context = group.model.config, slots, context
    self.side = min(SIDE, slots)
    self.batches, self.reaches = steps(BATCH, slots), steps(REACH, context)
    self.empty()

  def empty(self) -> None:
    """Begins anew, with nothing read."""
    self._pool = programs.empty(self.config, self.slots, self.context)

  def nbytes(self) -> int:
    """Of the keys and values."""
    return sum(x.nbytes for x in jax.tree.leaves(self._pool))

  def step(self, group: Group, lines: Sequence[Line]) -> tuple[list[list[int]], list[Token]]:
    """One more token for each sequence: (the tokens that were read, the token that follows) of each."""
    return self._read(group, lines, next(size for size in self.batches if size >= len(lines)), 1)

  def pieces(self, group: Group, lines: Sequence[Line]) -> tuple[list[list[int]], list[Token]]:
    """A piece of each prompt, of at most `side`: (the tokens that were read, the token that follows) of each."""
    return self._read(group, lines, 1 if len(lines) == 1 else self.side, PIECE)

  def _read(self, group: Group, lines: Sequence[Line], size: int, length: int) -> tuple[list[list[int]], list[Token]]:
    tokens = [line.next_tokens(length) for line in lines]
    rows, reach = self._rows(lines, tokens, size, length)
    last, self._pool = programs.read(group.variables, self._pool, rows, model=group.model, reach=reach)
    chosen = jax.device_get(programs.choose(group.variables, last, _settings(lines, size), model=group.model))
    return tokens, [_chosen(line, chosen, row) for row, line in enumerate(lines)]

  def score(self, group: Group, line: Line) -> tuple[list[int], list[Token], np.ndarray, Token]:
    """A piece of one sequence: (tokens that were read, what was said to follow each, the sum of states [D], what follows)."""
    length = SHORT if len(line.next_tokens(PIECE)) <= SHORT else PIECE
    tokens, targets = line.next_tokens(length), np.zeros((1, length), np.int32)
    targets[0, :len(tokens)] = line.next_targets(length)
    rows, reach = self._rows([line], [tokens], 1, length)
    last, found, self._pool = programs.score(group.variables, self._pool, rows, targets, np.array(line.request.tops > 0),
                                             model=group.model, reach=reach)
    chosen = programs.choose(group.variables, last, _settings([line], 1), model=group.model)
    chosen, scored = jax.device_get((chosen, found))
    said = [Token(int(targets[0, i]), float(scored.log_probability[0, i]), _top(line, scored.top, (0, i)))
            for i in range(len(tokens))]
    return tokens, said, scored.states[0], _chosen(line, chosen, 0)

  def encode(self, group: Group, line: Line) -> None:
    """Has the encoder read the whole prompt."""
    self._pool = programs.encode(group.variables, self._pool, jnp.int32(line.slot), jnp.int32(line.served.number),
                                 *self._source(line), model=group.model)

  def embed(self, group: Group, line: Line) -> np.ndarray:
    """The vector of a text, [D], by the encoder that reads it."""
    found = programs.embed(group.variables, jnp.int32(line.served.number), *self._source(line), model=group.model)
    return np.asarray(jax.device_get(found))

  def clear(self, line: Line) -> None:
    """Forgets what a sequence has read, where that is not finite."""
    self._pool = programs.clear(self._pool, jnp.int32(line.slot))

  def _source(self, line: Line) -> tuple[np.ndarray, jax.Array]:
    """(a prompt as an encoder is given it, how many tokens it has)."""
    prompt = line.request.prompt
    tokens = np.zeros((1, next(reach for reach in self.reaches if reach >= len(prompt))), np.int32)
    tokens[0, :len(prompt)] = prompt
    return tokens, jnp.int32(len(prompt))

  def _rows(self, lines: Sequence[Line], tokens: Sequence[list[int]], size: int, length: int) -> tuple[programs.Rows, int]:
    """(what is read of these sequences, how far it reaches)."""
    rows = self._nobody(size, length)
    for row, (line, ids) in enumerate(zip(lines, tokens)):
      rows.slots[row], rows.numbers[row], rows.used[row] = line.slot, line.served.number, line.used
      rows.tokens[row, :len(ids)], rows.counts[row] = ids, len(ids)
      rows.sources[row] = len(line.request.prompt)
    furthest = max(line.used + len(ids) for line, ids in zip(lines, tokens))
    return rows, next(reach for reach in self.reaches if reach >= furthest)

  def _nobody(self, size: int, length: int) -> programs.Rows:
    whole = lambda value, *shape: np.full((size, *shape), value, np.int32)
    return programs.Rows(whole(self.slots), whole(together.NOBODY), whole(0), whole(0, length), whole(0), whole(1))

  def warm(self, groups: Iterable[Group]) -> int:
    """Compiles every program that these groups need, so that no request waits for one; gives how many there are."""
    count = 0
    for group in groups:
      read = dict.fromkeys([(size, 1) for size in self.batches] + [(1, PIECE), (self.side, PIECE)])
      for reach in self.reaches:
        for size, length in read:
          nobody = self._nobody(size, length)
          last, self._pool = programs.read(group.variables, self._pool, nobody, model=group.model, reach=reach)
          programs.choose(group.variables, last, sampling.usual(size), model=group.model)
        for length in (SHORT, PIECE):
          *_, self._pool = programs.score(group.variables, self._pool, self._nobody(1, length), np.zeros((1, length), np.int32),
                                          np.array(False), model=group.model, reach=reach)
        if self.config.has_encoder:
          text = np.zeros((1, reach), np.int32), jnp.int32(1)
          self._pool = programs.encode(group.variables, self._pool, jnp.int32(0), jnp.int32(0), *text, model=group.model)
          programs.embed(group.variables, jnp.int32(0), *text, model=group.model)
        count += len(read) + 2 + 2 * self.config.has_encoder
    self._pool = programs.clear(self._pool, jnp.int32(0))
    count += 1
    jax.block_until_ready(self._pool)
    return count


def steps(first: int, last: int) -> list[int]:
  """Sizes from the first to the last, each `WIDER` times the one before or less."""
  found = [min(first, last)]
  while found[-1] < last:
    found.append(min(found[-1] * WIDER, last))
  return found


def _settings(lines: Sequence[Line], size: int) -> sampling.Settings:
  s = sampling.usual(size)
  for row, line in enumerate(lines):
    r, d = line.request, line.request.decoding
    s.temperature[row], s.top_k[row], s.top_p[row], s.min_p[row] = d.temperature, d.top_k, d.top_p, d.min_p
    s.seed[row], s.answer[row], s.place[row], s.tops[row] = d.seed, line.number, len(line.answer), r.tops > 0
    for i, (token, by) in enumerate(r.bias):
      s.biased[row, i], s.bias[row, i] = token, by
  return s


def _chosen(line: Line, chosen: Any, row: int) -> Token:
  return Token(int(chosen.token[row]), float(chosen.log_probability[row]), _top(line, chosen.top, (row,)))


def _top(line: Line, top: Any, at: tuple[int, ...]) -> tuple[tuple[int, float], ...]:
  count = line.request.tops
  return tuple((int(t), float(x)) for t, x in zip(top.tokens[at][:count], top.log_probabilities[at][:count]))
