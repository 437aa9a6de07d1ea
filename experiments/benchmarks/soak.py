"""Whether a server stays as it is under many clients: errors, slots and memory, minute by minute.

    python -m experiments.benchmarks.soak --minutes=10

It trains a tiny run, serves it in a process of its own, and asks it with --clients at one time; every tenth client goes away in
the middle of its answer. One JSON line a minute, the machine first, and a last one with what must hold: no error, no slot lost,
and a memory that is within 5 % of what it was after the first minute.
"""

import asyncio
import contextlib
import logging
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import httpx
from absl import app, flags

from experiments.benchmarks import measure

FLAGS = flags.FLAGS
flags.DEFINE_integer('clients', 100, 'that ask at one time')
flags.DEFINE_float('minutes', 10, 'how long')
flags.DEFINE_float('gone', 0.1, 'the share of requests whose client goes away in the middle')
flags.DEFINE_integer('slots', 16, 'of the server')

CONFIG = ['--config=default', '--config.model.source=random:llama-tiny', '--config.task.name=sentiment',
          '--config.task.rows=40', '--config.training.steps=2', '--config.training.batch_size=4',
          '--config.training.eval_every=2', '--config.training.checkpoint_every=2', '--config.check_memory=False']
RUNS = {'a': ['--config.strategy.name=lora'], 'b': ['--config.strategy.name=lora', '--config.training.seed=1'],
        'c': ['--config.strategy.name=ia3']}


def trained(folder: Path) -> list[Path]:
  """Runs of two kinds over one base."""
  for name, more in RUNS.items():
    subprocess.run([sys.executable, '-m', 'research.train', *CONFIG, *more, f'--workdir={folder / name}'], check=True,
                   capture_output=True)
  return [folder / name for name in RUNS]


@contextlib.contextmanager
def server(workdirs: list[Path], log: Path):
  """(its process, its address)."""
  command = [sys.executable, '-m', 'research.serve', f'--workdir={",".join(map(str, workdirs))}', '--port=0', '--context=256',
             f'--slots={FLAGS.slots}', f'--log={log}']
  said = log.with_suffix('.err')
  with open(said, 'w', encoding='utf-8') as err, subprocess.Popen(command, stderr=err) as process:
    try:
      while not (found := re.search(r'http://\S+', said.read_text(encoding='utf-8'))):
        assert process.poll() is None, said.read_text(encoding='utf-8')
        time.sleep(.2)
      yield process, found[0]
    finally:
      process.terminate()
  lines = said.read_text(encoding='utf-8').splitlines()
  measure.tell(server_status=process.returncode, server_lines=len(lines), last=lines[-1:])


def resident(process: subprocess.Popen) -> int:
  """Bytes of memory that a process holds."""
  return int(re.search(r'VmRSS:\s+(\d+)', Path(f'/proc/{process.pid}/status').read_text())[1]) * 1024


async def client(http: httpx.AsyncClient, url: str, until: float, counts: Counter, rng: random.Random) -> None:
  """Asks one request after the other."""
  while time.monotonic() < until:
    body = {'model': rng.choice([*RUNS]), 'prompt': 'word ' * rng.randint(1, 30), 'max_tokens': rng.randint(1, 60),
            'temperature': rng.choice([0, 1]), 'stream': True}
    goes = rng.random() < FLAGS.gone
    try:
      async with http.stream('POST', f'{url}/completions', json=body) as response:
        if response.status_code != 200:
          counts[f'status {response.status_code}'] += 1
          continue
        last = ''
        async for line in response.aiter_lines():
          last = line or last
          if goes and rng.random() < .2:
            break
      ended = goes or last == 'data: [DONE]'
      counts['gone' if goes else 'answered' if ended else 'cut'] += 1
    except httpx.HTTPError as e:
      counts[type(e).__name__] += 1


async def soak(process: subprocess.Popen, url: str) -> dict:
  counts, found = Counter(), []
  until = time.monotonic() + 60 * FLAGS.minutes
  limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
  async with httpx.AsyncClient(timeout=120, limits=limits) as http:
    asking = [asyncio.ensure_future(client(http, url, until, counts, random.Random(n))) for n in range(FLAGS.clients)]
    minute = 0
    while not all(one.done() for one in asking):
      await asyncio.wait(asking, timeout=60, return_when=asyncio.ALL_COMPLETED)
      minute += 1
      found.append(resident(process))
      measure.tell(minute=minute, resident_mib=round(found[-1] / 2 ** 20, 1), **counts)
    for one in asking:
      one.result()
    for _ in range(100):
      text = (await http.get(url.removesuffix('/v1') + '/metrics')).text
      left = [float(re.search(rf'^vllm:num_requests_{name} (\S+)', text, re.M)[1]) for name in ('running', 'waiting')]
      if not any(left):
        break
      await asyncio.sleep(.1)
    body = {'model': 'a', 'prompt': 'x', 'max_tokens': 8, 'n': FLAGS.slots}      # all slots answer at one time
    whole = (await http.post(f'{url}/completions', json=body)).json()
  errors = sum(count for name, count in counts.items() if name not in ('gone', 'answered'))
  return {'requests': counts.total(), 'gone': counts['gone'], 'errors': errors, 'left': sum(left),
          'slots': len(whole['choices']), 'memory_growth': round(max(found[1:], default=found[0]) / found[0] - 1, 4)}


def main(_) -> None:
  logging.getLogger('httpx').setLevel(logging.WARNING)
  measure.tell(benchmark='soak', clients=FLAGS.clients, minutes=FLAGS.minutes, slots=FLAGS.slots, **measure.setting())
  with tempfile.TemporaryDirectory() as folder, server(trained(Path(folder)), Path(folder) / 'log.jsonl') as (process, url):
    found = asyncio.run(soak(process, url))
  holds = not found['errors'] and not found['left'] and found['slots'] == FLAGS.slots and found['memory_growth'] <= .05
  measure.tell(**found, holds=holds)


if __name__ == '__main__':
  app.run(main)
