"""The OpenAI interface over HTTP: routes, keys, limits, streams, the log and what Prometheus reads. The engine answers."""

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from research import json_text
from research.serving import asked as reading
from research.serving import keys as api_keys
from research.serving import told
from research.serving.asked import CHAT, COMPLETIONS, EMBEDDINGS, Asked, Limits
from research.serving.engine import Busy, Closed, Engine
from research.serving.how import Refused
from research.serving.measures import Measures
from research.serving.record import Record
from research.serving.requests import CANCELLED, Embedded, Ended, Event, Ticket
from research.serving.told import Answer

GONE = 499      # the status of a request whose client went away, as nginx has it; nobody reads it


class Server:
  """What the routes share."""

  def __init__(self, engine: Engine, limits: Limits, keys: Sequence[bytes] = (), record: Record | None = None,
               most_bytes: int = 4_000_000):
    """
    Args:
      engine: answers.
      limits: of a request.
      keys: digests of the API keys; none: nobody is asked for one.
      record: keeps requests and feedback; None: nothing is kept.
      most_bytes: of a request's body.
    """
    self.engine, self.limits, self.keys, self.record, self.most_bytes = engine, limits, keys, record, most_bytes
    self.measures = Measures(engine.load)

  def app(self) -> Starlette:
    """The application."""
    post = lambda path, handle: Route(path, partial(self._guarded, handle), methods=['POST'])
    get = lambda path, handle: Route(path, partial(self._guarded, handle), methods=['GET'])
    answers = lambda endpoint: partial(self._answer, endpoint)
    return Starlette(routes=[
        post('/v1/chat/completions', answers(CHAT)), post('/v1/completions', answers(COMPLETIONS)),
        post('/v1/embeddings', answers(EMBEDDINGS)), post('/v1/feedback', self._feedback), get('/v1/models', self._models),
        get('/v1/models/{name:path}', self._model), get('/metrics', self._metrics), Route('/health', self._health)],
        exception_handlers={404: self._no_route, 405: self._no_route})

  # ---------------------------------------------------------------- what all routes have

  async def _guarded(self, handle: Callable[[HttpRequest], Awaitable[Response]], request: HttpRequest) -> Response:
    """A route for those with a key; what it refuses becomes a response."""
    scheme, _, key = request.headers.get('authorization', '').partition(' ')
    if self.keys and not (scheme.lower() == 'bearer' and api_keys.is_known(key.strip(), self.keys)):
      return self._refusal(Refused('the API key is missing or unknown; send "Authorization: Bearer KEY"', status=401,
                                   code='invalid_api_key'))
    try:
      return await handle(request)
    except Busy:
      return self._refusal(Refused('as many requests wait as may; try again later', status=429, code='queue_full'))
    except Closed:
      return self._refusal(Refused('the server is being stopped; try again later', status=503, code='stopping'))
    except Refused as e:
      return self._refusal(e)
    except ClientDisconnect:
      return Response(status_code=GONE)

  def _refusal(self, refused: Refused) -> Response:
    self.measures.refused('', refused.status)
    again = {'retry-after': '1'} if refused.status in (429, 503) else {}
    return JSONResponse(told.error(refused), refused.status, again)

  async def _no_route(self, request: HttpRequest, error: Exception) -> Response:
    says = f'{request.method} {request.url.path[:100]}: there is no such route'
    return self._refusal(Refused(says, status=getattr(error, 'status_code', 404)))

  async def _body(self, request: HttpRequest) -> Any:
    """A request's JSON.

    Raises:
      Refused: it is too long, or no JSON.
    """
    if request.headers.get('content-type', '').partition(';')[0].strip().lower() != 'application/json':
      raise Refused('the body must be JSON; send "Content-Type: application/json"')      # which no foreign page can send
    found = bytearray()
    async for part in request.stream():
      found += part
      if len(found) > self.most_bytes:
        raise Refused(f'the body is longer than {self.most_bytes:,} bytes', status=413, code='body_too_long')
    try:
      return json_text.loads(found.decode('utf-8'))
    except ValueError as e:
      raise Refused(f'the body is not JSON ({e})') from None

  # ---------------------------------------------------------------- routes

  async def _health(self, request: HttpRequest) -> Response:
    return JSONResponse({'status': 'ok'})

  async def _metrics(self, request: HttpRequest) -> Response:
    return Response(self.measures.text(), media_type='text/plain; version=0.0.4')

  def _described(self, name: str) -> dict[str, Any]:
    one = self.engine.models[name]
    return {'id': name, 'object': 'model', 'created': one.created, 'owned_by': 'flaxtune', 'root': str(one.workdir),
            'parent': one.exp.settings.model.source, 'task': one.exp.called, 'strategy': one.exp.strategy.name,
            'max_model_len': min(self.limits.context, one.exp.context)}

  async def _models(self, request: HttpRequest) -> Response:
    return JSONResponse({'object': 'list', 'data': [self._described(name) for name in self.engine.models]})

  async def _model(self, request: HttpRequest) -> Response:
    name = request.path_params['name']
    if name not in self.engine.models:
      raise Refused(f'the model {name[:100]!r} is not served (models: {", ".join(self.engine.models)})', 'model', 404,
                    'model_not_found')
    return JSONResponse(self._described(name))

  async def _feedback(self, request: HttpRequest) -> Response:
    body = await self._body(request)
    if self.record is None:
      raise Refused('feedback is kept in the log, and this server has none (--log=FILE.jsonl)', status=404)
    return JSONResponse({'object': 'feedback', **self.record.feedback(body)})

  async def _answer(self, endpoint: str, request: HttpRequest) -> Response:
    body = await self._body(request)
    came, name = time.time(), f'{"chatcmpl" if endpoint == CHAT else "cmpl"}-{uuid.uuid4().hex}'
    try:
      asked = reading.read(endpoint, body, self.engine.models, self.limits)
    except Refused as e:
      if self.record and e.code == 'context_length_exceeded':
        self.record.refused(name, came, body, endpoint, self.engine.models[body['model']])
      raise
    events = self._events(asked, name, came, request)
    if asked.stream:
      first = await anext(events)      # what is refused now has a status of its own
      return StreamingResponse(self._stream(asked, name, int(came), first, events), media_type='text/event-stream',
                               headers={'cache-control': 'no-store', 'x-accel-buffering': 'no'})
    found = [(answer, event) async for answer, event in events]
    if endpoint == EMBEDDINGS:
      vectors = {answer.index: event.vector for answer, event in found if isinstance(event, Embedded)}
      return JSONResponse(told.embeddings(asked, [vectors[i] for i in sorted(vectors)]))
    answers = sorted({answer.index: answer for answer, _ in found}.values(), key=lambda answer: answer.index)
    return Response(json_text.dumps(told.response(asked, name, int(came), answers, self.engine.tokenizer)),
                    media_type='application/json')

  async def _stream(self, asked: Asked, name: str, created: int, first: tuple[Answer, Event],
                    rest: AsyncGenerator[tuple[Answer, Event]]) -> AsyncIterator[str]:
    """A response as it grows, in server-sent events."""
    line = lambda value: f'data: {json_text.dumps(value)}\n\n'
    tokenizer, begun, offsets, answers = self.engine.tokenizer, set[int](), dict[int, int](), dict[int, Answer]()

    async def all_of_them() -> AsyncIterator[tuple[Answer, Event]]:
      yield first
      async with aclosing(rest):      # so that the engine is left at once, however this ends
        async for one in rest:
          yield one
    try:
      async for answer, event in all_of_them():
        answers[answer.index] = answer
        echo = asked.requests[answer.prompt].echo
        if answer.index not in begun and echo:
          yield line(told.chunk(asked, name, created, answer.index, asked.texts[answer.prompt], (), tokenizer))
        grown, tokens = getattr(event, 'text', ''), getattr(event, 'tokens', ())
        ended = event.how if isinstance(event, Ended) else None
        yield line(told.chunk(asked, name, created, answer.index, grown, tokens, tokenizer, offsets.get(answer.index, 0), ended,
                              answer.index not in begun))
        begun.add(answer.index)
        offsets[answer.index] = offsets.get(answer.index, 0) + sum(len(told.token_text(tokenizer, t.id)) for t in tokens)
      if asked.usage:
        yield line(told.last_chunk(asked, name, created, [*answers.values()]))
    except ClientDisconnect:
      return      # nobody reads on
    except Refused as e:
      yield line(told.error(e))
    yield 'data: [DONE]\n\n'

  async def _events(self, asked: Asked, name: str, came: float, request: HttpRequest) -> AsyncGenerator[tuple[Answer, Event]]:
    """What the engine tells of a request, each event with the answer that it has grown.

    However it ends, the engine is left with nothing of it.

    Raises:
      ClientDisconnect: nobody waits for the answer any more.
    """
    loop, queue = asyncio.get_running_loop(), asyncio.Queue[tuple[int, Event] | None]()
    tickets: list[Ticket] = []
    answers = [Answer(number, prompt) for number, prompt in enumerate(
        prompt for prompt, one in enumerate(asked.requests) for _ in range(one.answers))]

    async def watch() -> None:
      while (await request.receive())['type'] != 'http.disconnect':
        pass
      queue.put_nowait(None)

    def put(first: int, event: Event) -> None:
      loop.call_soon_threadsafe(queue.put_nowait, (first + getattr(event, 'answer', 0), event))
    watching = asyncio.ensure_future(watch())
    try:
      first = 0
      for one in asked.requests:
        tickets.append(self.engine.submit(one, partial(put, first)))
        first += one.answers
      while not all(answer.ended for answer in answers):
        told_of = await queue.get()
        if told_of is None:
          raise ClientDisconnect
        index, event = told_of
        answer = answers[index]
        if not isinstance(event, Embedded):
          echoed = asked.requests[answer.prompt]
          answer.add(event, len(echoed.prompt) if echoed.echo else 0)
        if isinstance(event, Ended):
          self._answered(asked, name, came, answer, len(answers), tickets[answer.prompt])
        yield answer, event
    finally:
      watching.cancel()
      for ticket in tickets:
        self.engine.cancel(ticket)
      for answer in answers:
        if not answer.ended and answer.prompt < len(tickets):
          answer.ended = CANCELLED
          self._answered(asked, name, came, answer, len(answers), tickets[answer.prompt])

  def _answered(self, asked: Asked, name: str, came: float, answer: Answer, count: int, ticket: Ticket) -> None:
    """Counts an answer, and keeps it in the log."""
    request = asked.requests[answer.prompt]
    self.measures.answered(asked.model, len(request.prompt), len(answer.written), answer.ended, ticket.times)
    if self.record and asked.endpoint != EMBEDDINGS:
      self.record.answered(told.answer_id(name, answer.index, count), came, asked, answer, ticket)
