"""Small true steps and runs, for the tests of several folders."""

import contextlib
import functools
import importlib.util
import io
import json
import logging
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments.benchmarks import sides
from research import config as configs
from research import run_files, tree
from research.data import batches, prompts, sources, tasks
from research.data.batches import LineCapacity
from research.models import load, presets
from research.models.config import Execution
from research.programs.compile import compiled
from research.strategies.bind import bind
from research.training import optim
from research.training.objective import CROSS_ENTROPY
from research.training.steps import TrainState, train_step

ROOT = Path(__file__).parent.parent
OLDER_EMITTERS = 'xla_cpu_use_fusion_emitters=false' in os.environ.get('XLA_FLAGS', '')      # see conftest.py
# For processes that compile for TPUs: libtpu refuses flags of CPUs, and a second process where it is not told of it.
FOR_TPUS = {**{name: value for name, value in os.environ.items() if name != 'XLA_FLAGS'}, 'ALLOW_MULTIPLE_LIBTPU_LOAD': '1'}
AS_IN_A_RUN = {'xla_cpu_use_fusion_emitters': True} if OLDER_EMITTERS else {}      # what a run's compiler is told


@functools.cache
def scaled_up(name, quantize='none'):
  """A preset with weights so large that whatever it reads otherwise is seen in its loss; its logits deviate by about 1.

  `t5-odd` is t5-tiny with three layers.
  """
  presets.PRESETS.setdefault('t5-odd', presets.PRESETS['t5-tiny'] | {'num_layers': 3})
  loaded = load.load(f'random:{name}', Execution('float32', 'float32', True))
  c = loaded.model.config
  # T5 scales what the head reads, so that what comes before is larger by as much; and it does not scale its scores.
  sizes = {'embed': 0.12 / c.logit_scale, 'q': 0.12 if c.query_scale is None else 0.12 * c.head_dim ** -0.5, 'k': 0.12}

  def size(path, x):
    kind = path.split('/')[-2]
    if x.ndim < 2 or x.std() == 0 or kind == 'relative':
      return x
    return x * (sizes.get(kind, 0.12 * c.logit_scale ** -0.5) / x.std())
  keep = load.keep(Execution('float32', 'float32', True, quantize))
  return loaded._replace(params=tree.map_named(lambda path, x: keep(path, size(path, x)), loaded.params))


def torch_twin(loaded):
  """transformers' model with the same weights, as it is evaluated."""
  return sides.twin(loaded, attention='eager').eval()


def documents(loaded, count, task='translation', longest=10_000, slots=0):
  """The first `count` training rows of a built-in task that are no longer than `longest` tokens, after a soft prompt."""
  task = tasks.make(task, {})
  found = prompts.examples(task, task.rows('train')[:10 * count], loaded.tokenizer)
  found = [e._replace(prompt_ids=[*prompts.placeholders(slots), *e.prompt_ids]) for e in found]
  found = [batches.prompt_with_answer(e, loaded.model.config.decoder_start_id) for e in found]
  return [d for d in found if max(len(d.tokens), len(d.source)) <= longest][:count]


def batch(documents, length, per_line=1):
  """One batch of one microbatch, `per_line` documents a line of at least `length` tokens."""
  lines = [list(range(i, min(i + per_line, len(documents)))) for i in range(0, len(documents), per_line)]
  most = lambda size: max(sum(size(documents[i]) for i in line) for line in lines)
  source = most(lambda d: len(d.source))
  room = LineCapacity(batches.round_up(max(0 if source else length, most(lambda d: len(d.tokens))), 32),
                      batches.round_up(max(length, source), 32) if source else 0)
  packed, _ = batches.pack(documents, lines, room, batches.most_targets(documents, lines))
  return jax.tree.map(lambda x: x[None], packed)


def start(loaded, strategy, learning_rate=1e-2, weight_decay=0.0, optimizer='adamw', clip=0.0, seed=0):
  """(state, frozen, tx) of a run at step 0, at a constant rate."""
  trainable, frozen = bind(jax.random.key(seed), strategy, loaded.model, loaded.params)
  tx = optim.make(optimizer, 'constant', 100, clip, 0.9, 0.999, 1e-8, strategy.lr_multipliers)
  opt_state = optim.init(tx, trainable, learning_rate, weight_decay)
  return TrainState(jnp.int32(0), jax.random.key(seed), trainable, opt_state), frozen, tx


def moved(trainable, seed, by=0.1):
  """What learns, each leaf moved at random by about `by`."""
  drawn = lambda name, x: x + by * jax.random.normal(jax.random.fold_in(jax.random.key(seed), len(name)), x.shape)
  return tree.map_named(drawn, trainable)


def take(loaded, state, frozen, tx, of_steps, objective=CROSS_ENTROPY):
  """(state, losses) after a step on each of the batches."""
  losses = []
  for one in of_steps:
    step = compiled(train_step, state, frozen, one, model=loaded.model, tx=tx, objective=objective)
    state, metrics = step(state, frozen, one)
    losses.append(float(metrics['loss']))
  return state, losses


def logits(model, variables, one):
  """Of every position of a batch's first microbatch, [B, L, V]."""
  tokens = jax.tree.map(lambda x: x[0], one)
  return np.asarray(jax.jit(lambda v: model.logits(v, model.hidden(v, tokens)))(variables))


def without_times(value):
  """A result, a line of metrics or a comparison without what differs each time it is measured."""
  if isinstance(value, list):
    return [without_times(v) for v in value]
  if not isinstance(value, dict):
    return value
  return {k: without_times(v) for k, v in value.items()
          if not k.endswith('seconds') and k not in ('tokens_per_second', 'matrix_peak', 'utilisation')}


WORDS = ['amber', 'birch', 'cedar', 'delta', 'ember', 'fjord', 'grove', 'heath', 'inlet', 'jetty', 'knoll', 'lagoon']


def write_pairs(path, pairs):
  path.write_text(''.join(json.dumps({'a': a, 'b': b}) + '\n' for a, b in pairs))
  return str(path)


@functools.cache
def _reviews(longest, counts):
  """The folder that `reviews` speaks of; it lasts as long as this process."""
  kept = tempfile.TemporaryDirectory()
  for split, count in counts:
    short = [row for row in sources.sample('sentiment_sentences')[split] if len(row['text']) < longest][:count]
    assert len(short) == count and len({row['label'] for row in short}) == 2
    run_files.write_jsonl(Path(kept.name) / f'{split}.jsonl', short)
  return kept


def reviews(longest=40, **counts):
  """Fields of a task of files: of each split so many of the shipped reviews that are shorter than `longest` characters."""
  kept = _reviews(longest, tuple(counts.items()))
  return {'task__name': 'files', 'task__prompt': 'Review: {text}\nSentiment:', 'task__target': ' {label}',
          'task__choices': ('negative', 'positive'), **{f'task__{split}': f'{kept.name}/{split}.jsonl' for split in counts}}


def by_heart(folder, **fields):
  """A config that learns six rows by heart while validation asks for their opposite, with patience 1."""
  pairs = list(zip(WORDS[:6], WORDS[6:]))
  return config(**{
      'task__name': 'files', 'task__train': write_pairs(folder / 'train.jsonl', pairs),
      'task__valid': write_pairs(folder / 'valid.jsonl', [(a, b[::-1]) for a, b in pairs]), 'task__prompt': '{a}:',
      'task__target': ' {b}', 'task__metrics': ('exact_match',), 'task__max_new_tokens': 8, 'strategy__name': 'lora',
      'training__schedule': 'constant', 'training__warmup': 0.0, 'training__learning_rate': 1e-2, 'training__patience': 1,
      'training__steps': 100, 'training__eval_every': 10, 'training__checkpoint_every': 0, **fields})


def steady(folder, **fields):
  """A config of six steps on short rows, with dropout, whose loss falls smoothly."""
  pairs = [(a, b) for a in WORDS[:6] for b in WORDS[6:]]
  return by_heart(folder, **{
      'task__train': write_pairs(folder / 'train.jsonl', pairs[:28]),
      'task__valid': write_pairs(folder / 'valid.jsonl', pairs[28:]),
      'strategy__dropout': 0.1, 'training__learning_rate': 1e-3, 'training__patience': 0, 'training__batch_size': 8,
      'training__steps': 6, 'training__eval_every': 3, 'training__checkpoint_every': 3, **fields})


def config(**fields):
  """`configs/default.py` on llama-tiny for a few steps, as plain data; `training__steps=3` sets `training.steps`."""
  spec = importlib.util.spec_from_file_location('default', ROOT / 'configs' / 'default.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  made = module.get_config()
  made.update_from_flattened_dict({
      'model.source': 'random:llama-tiny', 'training.steps': 4, 'training.batch_size': 4, 'training.eval_every': 2,
      'training.checkpoint_every': 2, 'training.learning_rate': 3e-3, 'check_memory': False})
  made.update_from_flattened_dict({name.replace('__', '.'): value for name, value in fields.items()})
  return configs.plain(made)


def as_flags(fields):
  """These fields as they are given to a verb: `training__steps=3` is `--config.training.steps=3`."""
  return [f'--config.{name.replace("__", ".")}={value}' for name, value in fields.items()]


def process(name, *given, **how):
  """A verb in a process of its own, when it has ended."""
  return subprocess.run([sys.executable, '-m', f'research.{name}', *given], cwd=ROOT, capture_output=True, text=True, **how)


def verb(name, *given, cwd=ROOT):
  """The same in this process, through the verb's own entry: what it printed, and its exit status."""
  out, err, status = io.StringIO(), io.StringIO(), 0
  known, handlers = {*flags.FLAGS}, {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)}
  hook = sys.unraisablehook
  try:
    with (contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), contextlib.chdir(cwd), warnings.catch_warnings(),
          mock.patch.object(sys, 'argv', [f'research/{name}.py', *given])):
      warnings.filterwarnings('ignore', message='.*found in sys.modules.*', category=RuntimeWarning)      # it is imported, too
      runpy.run_module(f'research.{name}', run_name='__main__', alter_sys=True)
  except SystemExit as e:
    status = e.code or 0
  finally:
    for s, handler in handlers.items():
      signal.signal(s, handler)
    logging.disable(logging.NOTSET)
    sys.unraisablehook = hook
    flags.FLAGS.unparse_flags()
    for flag in {*flags.FLAGS} - known:
      delattr(flags.FLAGS, flag)
  return subprocess.CompletedProcess(given, status, out.getvalue(), err.getvalue())
