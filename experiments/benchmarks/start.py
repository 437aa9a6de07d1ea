"""How long it takes from the command to the first step of a run.

    python -m experiments.benchmarks.start
    python -m experiments.benchmarks.start --config=configs/quickstart.py --override=model.scan=False

One JSON line a row, the machine first: `cold` compiles everything, `warm` finds what the cold start compiled; `compiled` says
how many programs a start added to the cache. A start is the verb `train` in a process of its own, and it ends when the first
step's line is in metrics.jsonl.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from absl import app, flags

from experiments.benchmarks import measure

FLAGS = flags.FLAGS
flags.DEFINE_string('config', 'configs/default.py', 'of the run')
flags.DEFINE_multi_string('override', [], 'FIELD=VALUE, more of the config')
flags.DEFINE_integer('rounds', 3, 'warm starts')


def start(cache: Path) -> float:
  """Seconds from the command to the first step, with the compiled programs that `cache` holds."""
  with tempfile.TemporaryDirectory() as folder:
    workdir = Path(folder) / 'run'
    fields = ['training.steps=2', 'training.eval_every=2', 'training.log_every=1', *FLAGS.override]
    command = [sys.executable, '-m', 'research.train', f'--config={FLAGS.config}', f'--workdir={workdir}',
               *(f'--config.{field}' for field in fields)]
    began = time.perf_counter()
    with open(Path(folder) / 'said', 'w+') as said:
      process = subprocess.Popen(command, env={**os.environ, 'JAX_COMPILATION_CACHE_DIR': str(cache)}, stderr=said)
      lines = workdir / 'metrics.jsonl'
      while not (lines.exists() and lines.stat().st_size):
        if process.poll() is not None:
          said.seek(0)
          raise RuntimeError(f'{" ".join(command)} ended with {process.returncode}: {said.read()}')
        time.sleep(0.02)
      seconds = time.perf_counter() - began
      process.kill()
      process.wait()
  return seconds


def main(_) -> None:
  measure.tell(benchmark='start', config=FLAGS.config, override=FLAGS.override, **measure.setting())
  with tempfile.TemporaryDirectory() as cache:
    programs = lambda: len([*Path(cache).glob('*-cache')])
    measure.tell(row='cold', seconds=round(start(Path(cache)), 2), compiled=programs())
    before = programs()
    warm = [start(Path(cache)) for _ in range(FLAGS.rounds)]
    measure.tell(row='warm', seconds=round(statistics.median(warm), 2), rounds=[round(s, 2) for s in warm],
                 compiled=programs() - before)


if __name__ == '__main__':
  app.run(main)
