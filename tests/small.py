"""Small true steps and runs, for the tests of several folders."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from research import experiment
from research.data import batches, prompts, tasks
from research.strategies.bind import bind
from research.training import optim
from research.training.compile import compiled
from research.training.steps import TrainState, train_step

ROOT = Path(__file__).parent.parent


def documents(tokenizer, count, task='translation', longest=10_000):
  """The first `count` training rows of a built-in task that are no longer than `longest` tokens."""
  task = tasks.make(task, {})
  found = [batches.answered(e) for e in prompts.examples(task, task.rows('train')[:10 * count], tokenizer)]
  return [d for d in found if len(d.tokens) <= longest][:count]


def batch(documents, length, per_line=1):
  """One batch of one microbatch, `per_line` documents a line."""
  lines = [list(range(i, min(i + per_line, len(documents)))) for i in range(0, len(documents), per_line)]
  packed, _ = batches.pack(documents, lines, batches.room_for(documents, length), batches.most_targets(documents, lines))
  return {name: x[None] for name, x in packed.items()}


def start(loaded, strategy, learning_rate=1e-2, weight_decay=0.0, optimizer='adamw', clip=0.0, seed=0):
  """(state, frozen, tx) of a run at step 0, at a constant rate."""
  trainable, frozen = bind(jax.random.key(seed), strategy, loaded.model, loaded.params)
  tx = optim.make(optimizer, 'constant', 100, 0, clip, 0.9, 0.999, 1e-8)
  opt_state = optim.init(tx, trainable, learning_rate, weight_decay)
  return TrainState(jnp.int32(0), jax.random.key(seed), trainable, opt_state), frozen, tx


def take(loaded, state, frozen, tx, of_steps, label_smoothing=0.0):
  """(state, losses) after a step on each of the batches."""
  losses = []
  for one in of_steps:
    step = compiled(train_step, state, frozen, one, model=loaded.model, tx=tx, label_smoothing=label_smoothing)
    state, metrics = step(state, frozen, one)
    losses.append(float(metrics['loss']))
  return state, losses


def logits(model, variables, one):
  """Of every position of a batch's first microbatch, [B, L, V]."""
  tokens = {name: x[0] for name, x in one.items()}
  return np.asarray(jax.jit(lambda v: model.logits(v, model.hidden(v, tokens)))(variables))


def config(**fields):
  """`configs/default.py` on llama-tiny for a few steps, as plain data; `training__steps=3` sets `training.steps`."""
  spec = importlib.util.spec_from_file_location('default', ROOT / 'configs' / 'default.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  made = module.get_config()
  made.update_from_flattened_dict({
      'model.source': 'random:llama-tiny', 'training.steps': 4, 'training.batch_size': 4, 'training.eval_every': 2,
      'training.checkpoint_every': 2, 'training.learning_rate': 3e-3})
  made.update_from_flattened_dict({name.replace('__', '.'): value for name, value in fields.items()})
  return experiment.plain(made)
