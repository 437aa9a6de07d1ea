"""A server on a port of this machine, in a thread of the test's own process."""

import asyncio
import contextlib
import socket
import threading
import time

import openai
import uvicorn

from research.serving.app import Server
from research.serving.asked import Limits


@contextlib.contextmanager
def listening(engine, limits=None, **how):
  """(the server, an official client of it); its end leaves no request behind."""
  context = engine.reader.context
  server = Server(engine, limits or Limits(context, context, context, 60.0), **how)
  listens = socket.socket()
  listens.bind(('127.0.0.1', 0))
  http = uvicorn.Server(uvicorn.Config(server.app(), log_level='warning', access_log=False, lifespan='off'))
  answering = threading.Thread(target=engine.run, daemon=True)
  serving = threading.Thread(target=lambda: asyncio.run(http.serve([listens])), daemon=True)
  answering.start()
  serving.start()
  while not http.started:
    time.sleep(0.01)
  url = f'http://127.0.0.1:{listens.getsockname()[1]}'
  client = openai.OpenAI(base_url=f'{url}/v1', api_key='a key that is long enough', max_retries=0, timeout=60)
  try:
    yield server, client
  finally:
    client.close()
    http.should_exit = True
    serving.join(10)
    engine.stop()
    answering.join(10)
  assert not serving.is_alive() and not answering.is_alive()
