"""What a server writes into its log, on a thread of its own, which masks and writes: no answer waits for it."""

import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from research.serving import how, log
from research.serving.asked import Asked
from research.serving.how import Refused
from research.serving.models import Served
from research.serving.requests import Ticket
from research.serving.told import Answer


class Record:
  """The log of a server."""

  def __init__(self, path: Path):
    """
    Args:
      path: of the log, which goes on where it is there. One that is no log is refused (`InputError`).
    """
    self._ids = {line['id'] for line in log.lines(path)} if path.exists() else set[str]()      # feedback is of one of these
    self._writer = log.Writer(path)
    self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
    self._thread = threading.Thread(target=self._write, name='log', daemon=True)
    self._thread.start()

  def _write(self) -> None:
    while (job := self._jobs.get()) is not None:
      job()

  def close(self) -> None:
    """Ends when all is written."""
    self._jobs.put(None)
    self._thread.join()
    self._writer.close()

  def answered(self, name: str, came: float, asked: Asked, answer: Answer, ticket: Ticket) -> None:
    """Keeps an answer.

    Args:
      name: by which feedback comes back.
      came: when the request did, in seconds since 1970.
      asked: the request.
      answer: to it.
      ticket: of the engine.
    """
    request, times, run = asked.requests[answer.prompt], ticket.times, ticket.settled
    self._keep(name, time=came, model=asked.model, workdir=str(run.workdir), endpoint=asked.endpoint,
               prompt=asked.texts[answer.prompt], row=asked.row, messages=asked.messages, answer=answer.best,
               choices=answer.ranked or None, log_probability=answer.log_probability,
               tokens={'prompt': len(request.prompt), 'answer': len(answer.written)},
               seconds={'queued': times.since(times.begun), 'first': times.since(times.first),
                        'total': times.since(times.ended)},
               ended=answer.ended, settings=how.settings(request) or None)

  def refused(self, name: str, came: float, body: dict[str, Any], endpoint: str, run: Served) -> None:
    """Keeps a request whose prompt was over the context.

    Args:
      name: of the request.
      came: when it did, in seconds since 1970.
      body: of the request.
      endpoint: that it was sent to.
      run: that would have answered.
    """
    said = body.get('prompt') or body.get('input') or body.get('messages') or body.get('row') or ''
    self._keep(name, time=came, model=run.name, workdir=str(run.workdir), endpoint=endpoint,
               prompt=said if isinstance(said, str) else repr(said), answer='', tokens={'prompt': 0, 'answer': 0},
               seconds={'queued': 0.0, 'first': 0.0, 'total': 0.0}, ended='refused')

  def _keep(self, name: str, **fields: Any) -> None:
    self._ids.add(name)
    self._jobs.put(lambda: self._writer.request(id=name, **fields))

  def feedback(self, body: Any) -> dict[str, Any]:
    """Keeps what is said of an answer.

    Args:
      body: of the request: {id, label or rating, or both}.
    Returns:
      What was kept.
    Raises:
      Refused: it is something else, or of an answer that the log has not.
    """
    if not isinstance(body, dict) or body.keys() - {'id', 'label', 'rating'}:
      raise Refused('the body must be an object with id, and label (a text) or rating (from 0 to 1)')
    name = how.field(body, 'id', str, '')
    label, rating = how.field(body, 'label', str, None), how.field(body, 'rating', float, None, 0, 1)
    if label is None and rating is None:
      raise Refused('label or rating: one of them is needed: what the answer should have been, or how good it is from 0 to 1')
    if name not in self._ids:
      raise Refused(f'id={name!r:.80}: no answer of this log has it; give the id of a response, or of one of its choices',
                    'id', 404)
    said = {field: value for field, value in (('label', label), ('rating', rating)) if value is not None}
    self._jobs.put(lambda: self._writer.feedback(id=name, **said))
    return {'id': name, **said}
