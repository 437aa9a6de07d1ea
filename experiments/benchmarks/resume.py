"""A run that is stopped and resumed against one that is not: whether all losses and all that was learned are equal to the bit.

    python -m experiments.benchmarks.resume

One JSON line for each strategy, the machine first.
"""

import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from absl import app, flags

from experiments.benchmarks import measure
from research import run_files, tree
from research.distributed import device
from research.experiment import restore

FLAGS = flags.FLAGS
flags.DEFINE_string('model', 'random:llama-small', 'model.source')
flags.DEFINE_list('strategies', ['lora', 'full'], 'rows of the strategy table')
flags.DEFINE_integer('steps', 60, 'of the training; it is stopped once two fifths of them are logged')


def begin(workdir: Path, strategy: str) -> subprocess.Popen:
  """Starts the training; one that was stopped is resumed."""
  fields = {'model.source': FLAGS.model, 'strategy.name': strategy, 'training.steps': FLAGS.steps, 'training.log_every': 1,
            'training.eval_every': FLAGS.steps // 3, 'training.checkpoint_every': FLAGS.steps // 6}
  return subprocess.Popen([sys.executable, '-m', 'research.train', '--config=configs/llama.py', f'--workdir={workdir}',
                           *(f'--config.{name}={value}' for name, value in fields.items())], stdout=subprocess.DEVNULL)


def stop(run: subprocess.Popen, workdir: Path) -> None:
  """Ends the process once it has come far enough, as a scheduler would.

  Raises:
    RuntimeError: it had ended before.
  """
  while run.poll() is None and steps_logged(workdir) < FLAGS.steps * 2 // 5:
    time.sleep(0.05)
  if run.poll() is not None:
    raise RuntimeError(f'the run ended (exit status {run.returncode}) before it was stopped; give more --steps')
  run.send_signal(signal.SIGTERM)
  run.wait()


def steps_logged(workdir: Path) -> int:
  """The last step of which there are metrics; 0: none yet."""
  return max((line['step'] for line in logged(workdir)), default=0)


def logged(workdir: Path) -> list[dict]:
  """The run's metrics, one line a step; what is being written is left out."""
  path = workdir / run_files.METRICS
  return [json.loads(line) for line in path.read_text().splitlines() if line.endswith('}')] if path.exists() else []


def learned(workdir: Path) -> dict[str, np.ndarray]:
  """What the run had learned at its best step, by name."""
  trainable, _ = restore.learned_and_frozen(workdir, restore.of_run(workdir))
  return {name: np.asarray(x) for name, x in tree.leaves(trainable).items()}


def main(_) -> None:
  device.configure_jax()
  measure.tell(benchmark='resume', model=FLAGS.model, steps=FLAGS.steps, **measure.setting())
  for strategy in FLAGS.strategies:
    with tempfile.TemporaryDirectory() as folder:
      whole, parts = Path(folder, 'whole'), Path(folder, 'parts')
      for workdir in (whole, parts):
        run = begin(workdir, strategy)
        if workdir == parts:
          stop(run, workdir)
          run = begin(workdir, strategy)
        if run.wait():
          raise RuntimeError(f'{strategy}: exit status {run.returncode}')
      losses = [[line.get('train/loss') for line in logged(workdir)] for workdir in (whole, parts)]
      one, two = learned(whole), learned(parts)
      measure.tell(row=strategy, same_losses=losses[0] == losses[1],
                   same_numbers=one.keys() == two.keys() and all(np.array_equal(one[n], two[n]) for n in one))


if __name__ == '__main__':
  app.run(main)
