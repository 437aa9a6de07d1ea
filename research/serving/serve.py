"""A server from its settings to its end: it reads the runs, compiles, opens its port, and stops when it is asked to."""

import asyncio
import signal
import socket
import threading
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import uvicorn

from research.console import say
from research.errors import InputError
from research.serving import follow, models
from research.serving import keys as api_keys
from research.serving.app import Server
from research.serving.asked import Limits
from research.serving.engine import CONTEXT, Engine
from research.serving.record import Record


class Settings(NamedTuple):
  """Of a server; what is usual is said by the flags of `research.serve`."""
  host: str
  port: int                      # 0: one that is free
  api_keys: Path | None
  slots: int                     # answers that are written at one time
  context: int | None            # tokens of a slot; None: the models' own, or `CONTEXT` where that is more
  queue: int                     # answers that may wait
  max_prompt: int | None         # tokens; None: what the context holds
  max_answer: int | None
  max_body: int                  # bytes of a request
  timeout: float                 # seconds that a request may take
  grace: float                   # seconds that requests have to end in when the server is stopped
  log: Path | None
  follow: Path | None            # what says which run is served under a name, and each next one
  allow_changed: bool


SECONDS_BETWEEN_LOOKS = 1.0      # at the file that is followed


def serve(workdirs: Sequence[Path], study: Path | None, settings: Settings) -> None:
  """Answers requests until SIGTERM or Ctrl-C.

  An address that is taken, keys or a log that cannot be read, and runs that cannot be served together are refused
  (`InputError`) before anything is computed.

  Args:
    workdirs: of runs.
    study: of a study whose chosen runs are served.
    settings: of the server.
  """
  keys = api_keys.read(settings.api_keys) if settings.api_keys else []
  api_keys.check_address(settings.host, bool(keys))
  listening = _bound(settings.host, settings.port)
  record = Record(settings.log) if settings.log else None
  try:
    places, first = models.named(workdirs, study), None
    if settings.follow and (settings.follow.exists() or not places):
      first = follow.current(settings.follow)
      places = [(name, path) for name, path in places if name != first.model] + [(first.model, first.workdir)]
    engine = _engine(models.load(places, settings.allow_changed), settings, first)
    context = engine.reader.context
    limits = Limits(context, min(settings.max_prompt or context, context), min(settings.max_answer or context, context),
                    settings.timeout)
    server = Server(engine, limits, keys, record, settings.max_body)
    _compile(engine)
    asyncio.run(_run(server, listening, settings, first))
  finally:
    listening.close()
    if record:
      record.close()


def _bound(host: str, port: int) -> socket.socket:
  """A socket at the address, which does not listen yet.

  Raises:
    InputError: another program has it, or there is no such address.
  """
  try:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    found = socket.socket(family, kind, protocol)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    found.bind(address)
  except (OSError, OverflowError) as e:
    raise InputError(f'--port={port}: {host}:{port} cannot be opened ({getattr(e, "strerror", None) or e}); is another server '
                     'there? give another --port') from None
  return found


def _engine(runs: Sequence[models.Loaded], settings: Settings, first: follow.Current | None) -> Engine:
  follows = [] if not settings.follow else [first.model] if first else [run.name for run in runs]
  longest = max(run.exp.context for run in runs)
  context = min(settings.context or CONTEXT, longest)
  return Engine(*models.group(runs, follows), slots=settings.slots, context=context, queue=settings.queue)


def _compile(engine: Engine) -> None:
  before = time.monotonic()
  count = engine.reader.warm(engine.groups)
  say(f'serve: {count} programs compiled in {time.monotonic() - before:.0f} s; {engine.reader.slots} slots of '
      f'{engine.reader.context} tokens, {engine.reader.nbytes() / 2 ** 20:,.0f} MiB')


class _Uvicorn(uvicorn.Server):
  """It leaves signals to `_run`, which ends what runs before it closes."""

  def capture_signals(self) -> Any:
    return nullcontext()


async def _follow(engine: Engine, settings: Settings, seen: follow.Current | None) -> None:
  """Takes each next version that the file names; of one that cannot be served it is told why, and the one before goes on.

  Args:
    engine: answers.
    settings: of the server.
    seen: the version that is served now; None: the file was not there.
  """
  assert settings.follow is not None      # as the caller has looked
  told = ''
  while True:
    await asyncio.sleep(SECONDS_BETWEEN_LOOKS)
    try:
      if not seen and not settings.follow.exists():
        continue
      now = follow.current(settings.follow)
      if now != seen:
        await asyncio.to_thread(_take, engine, now, seen, settings)
        seen, told = now, ''
        say(f'serve: {now.model} is version {now.version} now ({now.workdir})')
    except InputError as e:
      if str(e) != told:
        told = str(e)
        say(f'warning: {e}; what is served stays as it is')


def _take(engine: Engine, now: follow.Current, seen: follow.Current | None, settings: Settings) -> None:
  """Answers with another version from the next request on.

  Raises:
    InputError: it is of a model that is not followed.
  """
  if now.model != (seen.model if seen else now.model) or now.model not in engine.models:
    raise InputError(f'{settings.follow}: names the model {now.model!r}, which is not '
                     f'{repr(seen.model) if seen else "among " + ", ".join(engine.models)}')
  if engine.models[now.model].workdir == now.workdir:
    return
  [run] = models.load([(now.model, now.workdir)], settings.allow_changed)
  models.check_base(engine.models[now.model], run)
  engine.replace(run)


async def _run(server: Server, listening: socket.socket, settings: Settings, first: follow.Current | None) -> None:
  """Serves until a signal, and ends what runs.

  Args:
    server: answers.
    listening: a socket at the address.
    settings: of the server.
    first: the version that is served of what is followed; None: the file is not there yet.

  Raises:
    KeyboardInterrupt: the signal was that of Ctrl-C.
  """
  engine, loop = server.engine, asyncio.get_running_loop()
  http = _Uvicorn(uvicorn.Config(server.app(), log_level='warning', access_log=False, lifespan='off',
                                 timeout_graceful_shutdown=2))
  asked = asyncio.Queue[int]()
  for number in (signal.SIGTERM, signal.SIGINT):
    loop.add_signal_handler(number, asked.put_nowait, number)
  thread = threading.Thread(target=engine.run, name='engine', daemon=True)
  thread.start()
  listening.listen(2048)
  host, port = listening.getsockname()[:2]
  address = f'[{host}]' if ':' in host else host
  say(f'serve: {", ".join(engine.models)} at http://{address}:{port}/v1')
  serving = asyncio.ensure_future(http.serve([listening]))
  waiting = asyncio.ensure_future(asked.get())
  following = asyncio.ensure_future(_follow(engine, settings, first)) if settings.follow else None
  await asyncio.wait({serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
  if following:
    following.cancel()
  say(f'serve: no new requests; those that run have {settings.grace:g} s (a second signal ends them)')
  stopping = asyncio.ensure_future(asyncio.to_thread(engine.stop, settings.grace))
  again = asyncio.ensure_future(asked.get())
  await asyncio.wait({stopping, again}, return_when=asyncio.FIRST_COMPLETED)
  if not stopping.done():
    await asyncio.to_thread(engine.stop, 0.0)
  again.cancel()
  http.should_exit = True
  await serving
  await stopping
  await asyncio.to_thread(thread.join, 10.0)
  if waiting.done() and waiting.result() == signal.SIGINT:
    raise KeyboardInterrupt
