"""Many requests at one time: each has a slot of the cache, joins at the next token, and leaves its slot when it has ended.

A `tick` is one turn of the device: a piece of the prompts that wait, then a token for every answer that runs. Sequences of one
group are read in one call, whichever run they are of, and groups take turns.
"""

import collections
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from research.evaluation.decoding import NOT_FINITE
from research.serving.models import Group, Loaded, Served, place
from research.serving.reader import Reader
from research.serving.requests import CANCELLED, FAILED, TIME, Ended, Event, Listener, Request, Ticket, Times
from research.serving.sequences import Line, Needs

NOT_A_NUMBER = ('the logits are not finite (NaN or infinite), so there is no next token: the numbers of the model, or of what '
                'was added to it, grow too large on the way')

CONTEXT = 2048      # tokens of a slot where nothing is said: the whole context of a model of 128,000 would fill the memory


class Busy(Exception):
  """As many requests wait as may."""


class Closed(Exception):
  """The engine takes no more requests."""


class Engine:
  """Answers requests, on the thread that calls `run` (or `tick`); its other methods may be called from any."""

  def __init__(self, served: Sequence[Served], groups: Sequence[Group], slots: int = 16,
               context: int = CONTEXT, queue: int = 256):
    """
    Args:
      served: the runs, by whose names requests come.
      groups: what they answer with.
      slots: answers that are written at one time.
      context: tokens of a slot: of a prompt with its answer, or of each of them where an encoder reads prompts.
      queue: answers that may wait beside those.
    """
    self.models = {one.name: one for one in served}
    self.tokenizer = served[0].exp.tokenizer
    self.reader = Reader(groups[0], slots, context)
    self._groups = dict(enumerate(groups))
    self._queue = queue
    self._waiting: collections.deque[Line] = collections.deque()
    self._running: list[Line] = []
    self._free = [*range(slots)]
    self._changed = threading.Condition()
    self._at_work = threading.Lock()      # held for a tick, and by whoever ends what no tick may go on with
    self._closing = self._stopping = False

  # ---------------------------------------------------------------- for those who ask

  def submit(self, request: Request, listener: Listener) -> Ticket:
    """Takes a request, whose events go to the listener in the engine's thread.

    Args:
      request: of a model that is served, and no longer than the context.
      listener: is told what each answer grows by, and last its end.
    Raises:
      Busy: as many answers wait as may.
      Closed: the engine is being stopped.
    """
    ticket = Ticket(request, listener, Times(time.monotonic()), open=request.answers, settled=self.models[request.model])
    lines = [Line(ticket, number, self.reader.config.decoder_start_id) for number in range(request.answers)]
    with self._changed:
      if self._closing:
        raise Closed
      if len(self._waiting) + len(lines) > self._queue + len(self._free):
        raise Busy
      self._waiting.extend(lines)
      self._changed.notify_all()
    return ticket

  def cancel(self, ticket: Ticket) -> None:
    """Ends a request at the next tick, with CANCELLED."""
    with self._changed:
      ticket.cancelled = ticket.open > 0
      ticket.times.ended = ticket.times.ended or time.monotonic()
      self._changed.notify_all()

  def replace(self, run: Loaded) -> None:
    """Answers with another version of the run of that name from the next request on; those that are there end as they began.

    Args:
      run: of the same base.
    """
    with self._changed:
      using = [*self.models.values(), *(line.served for line in (*self._running, *self._waiting))]
      taken = {(one.group, one.number) for one in using}
      groups = {number: group for number, group in self._groups.items() if number in {number for number, _ in taken}}
    served, groups = place(run, groups, taken)
    with self._changed:
      self._groups = groups
      self.models = {**self.models, run.name: served}

  @property
  def groups(self) -> list[Group]:
    """What it answers with."""
    return [*self._groups.values()]

  def load(self) -> tuple[int, int, float]:
    """(answers that are written, answers that wait, the share of the slots' tokens that is filled)."""
    with self._changed:
      filled = sum(line.used for line in self._running)
      return len(self._running), len(self._waiting), filled / (self.reader.slots * self.reader.context)

  # ---------------------------------------------------------------- the thread that answers

  def run(self) -> None:
    """Answers until `stop` is called."""
    while True:
      with self._changed:
        self._changed.wait_for(lambda: self._stopping or self._waiting or self._running)
        if self._stopping:
          return
      try:
        self.tick()
      except Exception as e:  # whatever the device raises ends what it was asked for, and not the server
        traceback.print_exc()
        with self._at_work:
          for line in [*self._running]:
            self._end(line, Ended(line.number, FAILED, f'{type(e).__name__}: {e}'.splitlines()[0]))
          self.reader.empty()

  def stop(self, grace: float = 0.0) -> None:
    """Takes no more requests, and ends when those that are there have ended, or after `grace` seconds with CANCELLED."""
    with self._changed:
      self._closing = True
    until = time.monotonic() + grace
    while time.monotonic() < until and any(self.load()[:2]):
      time.sleep(0.02)
    with self._changed:
      self._stopping = True
      self._changed.notify_all()
    with self._at_work:
      for line in [*self._running, *self._waiting]:
        self._end(line, Ended(line.number, CANCELLED))

  def tick(self) -> None:
    """One turn of the device."""
    with self._at_work:
      self._turn()

  def _turn(self) -> None:
    self._sweep()
    self._admit()
    first = next((line for line in self._running if line.needs is not Needs.STEP), None)
    if first is not None:
      group = self._groups[first.served.group]
      if first.needs is Needs.ENCODE:
        self._encode(group, first)
      elif first.needs is Needs.SCORE:
        tokens, said, states, chosen = self.reader.score(group, first)
        self._tell(first, chosen.id, partial(first.has_scored, tokens, said, states, chosen, self.tokenizer))
      else:
        self._read(self._needing(Needs.READ, first.served.group)[:self.reader.side])
    for number in dict.fromkeys(line.served.group for line in self._running):
      self._read(self._needing(Needs.STEP, number))

  def _encode(self, group: Group, line: Line) -> None:
    """Has the encoder read a prompt, to be answered or embedded."""
    vector = self.reader.embed(group, line) if line.request.embeds else None
    if vector is None:
      self.reader.encode(group, line)
    finite = vector is None or np.isfinite(vector).all()
    self._tell(line, 0 if finite else NOT_FINITE, partial(line.has_encoded, vector))

  def _needing(self, needs: Needs, group: int) -> list[Line]:
    return [line for line in self._running if line.needs is needs and line.served.group == group]

  def _read(self, lines: Sequence[Line]) -> None:
    """The next tokens of sequences of one group that need the same."""
    if lines:
      read = self.reader.step if lines[0].needs is Needs.STEP else self.reader.pieces
      for line, tokens, chosen in zip(lines, *read(self._groups[lines[0].served.group], lines)):
        self._tell(line, chosen.id, partial(line.has_read, tokens, chosen, self.tokenizer))

  def _tell(self, line: Line, token: int, events: Callable[[], Sequence[Event]]) -> None:
    """Tells what came of a call; where no token could be chosen, that alone."""
    if token == NOT_FINITE:
      self.reader.clear(line)
    for event in events() if token != NOT_FINITE else [Ended(line.number, FAILED, NOT_A_NUMBER)]:
      if isinstance(event, Ended):
        self._end(line, event)
      else:
        line.ticket.times.first = line.ticket.times.first or time.monotonic()
        _say(line.ticket, event)

  def _sweep(self) -> None:
    """Ends what was cancelled, or has taken too long."""
    now = time.monotonic()
    with self._changed:
      over = [line for line in (*self._running, *self._waiting) if line.ticket.cancelled or now > line.request.deadline]
    for line in over:
      self._end(line, Ended(line.number, CANCELLED if line.ticket.cancelled else TIME))

  def _admit(self) -> None:
    with self._changed:
      while self._waiting and self._free:
        line = self._waiting.popleft()
        line.slot = self._free.pop(0)
        line.ticket.times.begun = line.ticket.times.begun or time.monotonic()
        self._running.append(line)

  def _end(self, line: Line, event: Ended) -> None:
    """Frees what a sequence holds, and tells its end."""
    with self._changed:
      if line in self._running:
        self._running.remove(line)
        self._free.append(line.slot)
      elif line in self._waiting:
        self._waiting.remove(line)
      else:
        return
      line.ticket.open -= 1
      line.ticket.times.ended = time.monotonic()
    _say(line.ticket, event)


def _say(ticket: Ticket, event: Event) -> None:
  """Tells a listener; what it raises ends its own request, and no other."""
  try:
    ticket.listener(event)
  except Exception:  # whatever a listener raises
    traceback.print_exc()
    ticket.cancelled = True
