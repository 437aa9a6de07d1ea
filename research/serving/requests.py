"""What is asked of the engine, and what it tells as it goes on."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

from research.evaluation.decoding import GREEDY, Decoding

STOP, LENGTH, CANCELLED, TIME, FAILED = 'stop', 'length', 'cancelled', 'time', 'failed'      # how an answer ends


class Token(NamedTuple):
  """One token of a prompt or an answer, and what the model thought of it."""
  id: int
  log_probability: float | None                   # None for a prompt's first, before which nothing stands
  top: tuple[tuple[int, float], ...] = ()         # the likeliest tokens there, where they were asked for


class Piece(NamedTuple):
  """What an answer has grown by: tokens, and as much of their text as is certain."""
  answer: int                  # its number among the answers to the request
  text: str
  tokens: tuple[Token, ...]


class Ended(NamedTuple):
  """The end of an answer; nothing more comes of it."""
  answer: int
  how: str                     # STOP, LENGTH, CANCELLED, TIME or FAILED
  error: str = ''              # of FAILED, what a person should know


class Ranked(NamedTuple):
  """The choices of a request with their log-likelihoods, in nats, in the order in which they were given."""
  log_likelihoods: dict[str, float]


class Embedded(NamedTuple):
  """The mean of the last hidden states of a text."""
  vector: list[float]


Event = Piece | Ended | Ranked | Embedded
Listener = Callable[[Event], None]      # is called in the engine's thread, and must return at once


@dataclasses.dataclass(frozen=True)
class Request:
  """Something to be answered, as the engine takes it: checked, and in token ids."""
  model: str                                   # the name of the run
  prompt: tuple[int, ...]                      # one token or more, places of a soft prompt among them
  limit: int = 0                               # the most tokens of an answer
  ends: tuple[int, ...] = ()                   # tokens that end one
  stops: tuple[str, ...] = ()                  # texts that one ends before
  decoding: Decoding = GREEDY                  # without what looks back, and without beams
  bias: tuple[tuple[int, float], ...] = ()     # tokens whose logits change, and by how much
  answers: int = 1                             # how many are written to the prompt
  tops: int = 0                                # of the likeliest tokens, told at each place
  echo: bool = False                           # whether the prompt's tokens are told too, with their log-probabilities
  choices: tuple[tuple[str, tuple[int, ...]], ...] = ()      # ranked in place of an answer: each with its tokens, one or more
  embeds: bool = False                         # whether a vector is wanted in place of an answer
  deadline: float = float('inf')               # by `time.monotonic`


@dataclasses.dataclass
class Times:
  """When what happened to a request, by `time.monotonic`; 0: not yet."""
  came: float
  begun: float = 0.0
  first: float = 0.0
  ended: float = 0.0

  def since(self, at: float) -> float:
    """Seconds from when it came until then."""
    return max(0.0, at - self.came) if at else 0.0


@dataclasses.dataclass
class Ticket:
  """A request on its way: what `Engine.submit` gives, to cancel it by or to see its times."""
  request: Request
  listener: Listener
  times: Times
  cancelled: bool = False
  open: int = 0                                # answers that have not ended
  settled: Any = None                          # the run that answers: the one of its name when it came
