"""One answer on its way through the engine, or what is read to rank choices or to embed a text. It knows nothing of devices."""

import enum

import numpy as np

from research.data.tokenizer import Tokenizer
from research.evaluation import harness
from research.runs.generate import certain
from research.serving.models import Served
from research.serving.requests import LENGTH, STOP, Embedded, Ended, Event, Piece, Ranked, Ticket, Token


class Needs(enum.Enum):
  """What a sequence needs next."""
  ENCODE = 'its prompt read by the encoder'
  READ = 'a piece of its prompt read'
  SCORE = 'tokens read, and told how likely they were'
  STEP = 'one more token'


class Line:
  """Tokens that fill a slot from its beginning on: of the prompt, and then of the answer."""

  def __init__(self, ticket: Ticket, number: int, start: int | None):
    """
    Args:
      ticket: of the request.
      number: of the answer among those to the request.
      start: what a decoder begins with where an encoder reads the prompt.
    """
    self.ticket, self.request, self.number = ticket, ticket.request, number
    self.served: Served = ticket.settled
    self.slot = -1                                       # none
    self.encoded = start is None
    self.prompt = [*self.request.prompt] if start is None else [start]      # of the decoder
    self.used = 0                                        # tokens that stand in the slot
    self.answer: list[int] = []
    self._told = ''                                      # of the answer's text
    self._held: list[Token] = []                         # tokens of which the text is not certain yet
    self._ranked: dict[str, float] = {}                  # choices, as far as they are scored
    self._so_far = 0.0                                   # of the one that is scored now
    self._sum: np.ndarray | float = 0.0                  # of hidden states

  @property
  def needs(self) -> Needs:
    if not self.encoded:
      return Needs.ENCODE
    r, left = self.request, len(self.prompt) - self.used
    if (r.embeds or r.echo) and left > 0:
      return Needs.SCORE
    if left > 1:
      return Needs.READ
    return Needs.SCORE if r.choices else Needs.STEP

  def next_tokens(self, most: int) -> list[int]:
    """What is read next, so many tokens or fewer."""
    if self.needs is Needs.STEP:
      return [self.answer[-1] if self.answer else self.prompt[-1]]
    line = self.prompt if self.needs is Needs.READ else self._line()
    return line[self.used:min(self.used + most, len(line) - bool(self.request.choices))]

  def next_targets(self, most: int) -> list[int]:
    """What is said to follow each of them, to be scored; 0 where nothing is."""
    return [*self._line(), 0][self.used + 1:][:len(self.next_tokens(most))]

  def _line(self) -> list[int]:
    """The prompt and, where choices are ranked, the one that is scored now, of which the last token is only a target."""
    return self.prompt + ([*self.request.choices[len(self._ranked)][1]] if self.request.choices else [])

  def has_read(self, tokens: list[int], chosen: Token, tokenizer: Tokenizer) -> list[Event]:
    """What is told after tokens were read, and this one chosen to follow.

    Args:
      tokens: as `next_tokens` gave them.
      chosen: counts where nothing is left to read.
      tokenizer: of the model.
    """
    self.used += len(tokens)
    r = self.request
    if self.used < len(self.prompt) or r.choices:
      return []
    if not r.limit:
      return [Ended(self.number, LENGTH)]
    if chosen.id in r.ends:
      return [*self._piece([], tokenizer.decode(self.answer), True), Ended(self.number, STOP)]
    self.answer.append(chosen.id)
    text = tokenizer.decode(self.answer)
    stopped = any(one in text for one in r.stops)
    ended = stopped or len(self.answer) == r.limit
    found = self._piece([chosen], text, ended)
    return [*found, Ended(self.number, STOP if stopped else LENGTH)] if ended else found

  def _piece(self, tokens: list[Token], text: str, last: bool) -> list[Event]:
    self._held += tokens
    text = harness.cut(text, self.request.stops)
    sure = text if last else certain(text, self.request.stops)
    if not last and not (len(sure) > len(self._told) and sure.startswith(self._told)):
      return []
    grown, held, self._held = sure[len(self._told):], tuple(self._held), []
    self._told = max(self._told, sure, key=len)
    return [Piece(self.number, grown, held)] if grown or held else []

  def has_encoded(self, vector: np.ndarray | None) -> list[Event]:
    """What is told after an encoder has read the prompt.

    Args:
      vector: [D], of the prompt where it is embedded.
    """
    self.encoded = True
    return [] if vector is None else [Embedded(vector.tolist()), Ended(self.number, STOP)]

  def has_scored(self, tokens: list[int], scored: list[Token], states: np.ndarray, chosen: Token,
                 tokenizer: Tokenizer) -> list[Event]:
    """What is told after tokens were read and scored.

    Args:
      tokens: as `next_tokens` gave them.
      scored: of each what was said to follow, with its log-probability.
      states: [D], the sum of their hidden states.
      chosen: as for `has_read`.
      tokenizer: of the model.
    """
    if self.request.choices:
      return self._choice_scored(len(tokens), sum(token.log_probability or 0.0 for token in scored))
    if self.request.embeds:
      self._sum = self._sum + states
      self.used += len(tokens)
      mean = self._sum / len(self.prompt)
      return [Embedded(mean.tolist()), Ended(self.number, STOP)] if self.used == len(self.prompt) else []
    told = [] if self.used else [Token(self.prompt[0], None)]
    told += scored[:len(self.prompt) - self.used - 1]
    return [Piece(self.number, '', tuple(told)), *self.has_read(tokens, chosen, tokenizer)]

  def _choice_scored(self, count: int, log_likelihood: float) -> list[Event]:
    """Goes on with the rest of a choice, or with the next one, which follows the prompt anew."""
    self.used += count
    self._so_far += log_likelihood
    if self.used < len(self._line()) - 1:
      return []
    self._ranked[self.request.choices[len(self._ranked)][0]] = self._so_far
    self.used, self._so_far = len(self.prompt) - 1, 0.0
    done = len(self._ranked) == len(self.request.choices)
    return [Ranked(self._ranked), Ended(self.number, STOP)] if done else []
