"""What a training step takes, from its shapes alone: bytes on each device by kind, FLOPs, and bytes between devices.

What a device does is traced as a program of its own: the same step of the same strategy on a model with a device's share of the
heads, of the inner width and of the vocabulary, and with its share of the lines. Weights that lie over `fsdp` are whole where a
layer reads them, and a part of them elsewhere.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from research import tree
from research.data.batch import Batch
from research.data.batches import round_up
from research.distributed import mesh, partition
from research.experiment import restore
from research.experiment.assemble import Experiment
from research.models import functions, load
from research.models.config import DTYPES, ModelConfig
from research.programs import compile as compilation
from research.programs import flops, memory
from research.training.steps import TrainState, train_step
from research.tree import Tree

KINDS = ('weights', 'trainables', 'optimizer', 'gradients', 'activations', 'cache')


class Account(NamedTuple):
  """Of one step, on each device."""
  kinds: dict[str, float]      # bytes: `KINDS`; a cache stands in memory at another time than gradients and activations
  flops: float                 # of matrix products
  bytes_accessed: float                  # bytes read from and written to its memory, at least
  bytes_sent: float                  # bytes that it sends to others
  tokens: float                # that the whole mesh reads in a step, padding with them

  @property
  def static_bytes(self) -> float:
    """Bytes that a step takes of however few tokens."""
    return sum(self.kinds[kind] for kind in ('weights', 'trainables', 'optimizer', 'gradients'))

  @property
  def total(self) -> float:
    """Bytes at the worst moment."""
    always = sum(self.kinds[kind] for kind in ('weights', 'trainables', 'optimizer'))
    return always + max(self.kinds['gradients'] + self.kinds['activations'], self.kinds['cache'])


def begun(exp: Experiment) -> tuple[TrainState, Tree]:
  """(state, frozen) at step 0, as shapes, which an earlier run or adapter to start from does not change."""
  exp = exp._replace(settings=exp.settings.replace({'training.init_from': None, 'strategy.init_from': None}))
  return jax.eval_shape(lambda params: restore.begin(exp._replace(params=params)), exp.params)


def of_a_device(exp: Experiment, tensor: int) -> Experiment:
  """The experiment on a model of which `tensor` devices have a part each: its leaves are those of a device, as shapes.

  What a strategy adds to such a model is what it adds there, whichever sides of a kernel its leaves have.

  Args:
    exp: of shapes.
    tensor: the size of that axis, which divides the numbers of heads.
  """
  share = lambda n: n // tensor if n % tensor == 0 else n
  c = exp.model.config
  config = dataclasses.replace(c, heads=c.heads // tensor, kv_heads=c.kv_heads // tensor, hidden=share(c.hidden),
                               vocab=share(c.vocab), devices=tensor)
  begins = exp.settings.replace({'strategy.init_from': None, 'training.init_from': None})
  whole = dataclasses.replace(config, last_layers=0)
  params = load.shapes(whole, exp.execution)
  if config.last_layers:
    params = jax.eval_shape(lambda params: functions.split_last_layers(whole, params, config.last_layers)[1], params)
  return exp._replace(settings=begins, model=functions.build(config), params=params)


def batch_shapes(exp: Experiment, sizes: Mapping[str, int], tokens: int = 0) -> Batch:
  """The shapes of a training batch on a mesh of these sizes.

  Args:
    exp: of weights or of shapes.
    sizes: of the mesh's axes, of which no device needs to exist.
    tokens: of every row, each on a line of its own, all of them targets; an encoder reads so many, and its decoder a quarter.
      0: as the data has it in the first steps.
  """
  t = exp.settings.training
  if not tokens:
    with mesh.use_abstract(sizes):
      return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), exp.training_batches(looked_at=4)(0))
  lead, encoder = (t.microbatches, t.batch_size // t.microbatches), exp.model.config.has_encoder
  shape = lambda length, dtype='int32': jax.ShapeDtypeStruct((*lead, length), dtype)
  line = shape(tokens // 4 if encoder else tokens)
  read, branches = shape(tokens) if encoder else None, line if exp.objective.of_pairs else None
  return Batch(line, line, line, branches, read, read, read, line, line, shape(line.shape[-1], 'float32'))


def _parts(x: Tree, sizes: Mapping[str, int]) -> Tree:
  return tree.map_named(lambda n, leaf: jax.ShapeDtypeStruct(partition.shard_shape(n, leaf.shape, sizes), leaf.dtype), x)


def _bytes(x: Tree) -> float:
  return sum(memory.nbytes(leaf) for leaf in jax.tree.leaves(x))


def account(exp: Experiment, sizes: Mapping[str, int], tokens: int = 0) -> Account:
  """The account of an experiment (of shapes) on a mesh of these sizes; it has at least one step to take.

  Args:
    exp: of shapes.
    sizes: of the mesh's axes, of which no device needs to exist.
    tokens: as for `batch_shapes`.
  """
  config = exp.model.config
  state, frozen = begun(exp)
  spread, fsdp, tensor = sizes['data'] * sizes['fsdp'], sizes['fsdp'], sizes['tensor']
  there = of_a_device(exp, tensor) if tensor > 1 else exp
  batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct((x.shape[0], x.shape[1] // spread, *x.shape[2:]), x.dtype),
                       batch_shapes(exp, sizes, tokens))
  given = (*(begun(there) if tensor > 1 else (state, frozen)), batch)      # what a layer reads: gathered
  traced = compilation.trace(train_step, *given, donate=(0,), model=there.model, tx=restore.optimizer(exp),
                             objective=exp.objective)
  here, learning = _parts(frozen, sizes), _parts(state.trainable, sizes)
  parts = {x.shape: memory.nbytes(p) / memory.nbytes(x) for x, p in
           zip(jax.tree.leaves(given[0].trainable), jax.tree.leaves(learning)) if len(x.shape) > 1}
  size = lambda aval: memory.nbytes(aval) * parts.get(aval.shape, 1.0)      # gradients lie as their parameters do
  temporary = memory.peak(traced.jaxpr, len(jax.tree.leaves(given[0])), size)
  if fsdp > 1:                                                     # a table, or the head, where it is read
    temporary += max((memory.nbytes(x) for n, x in tree.leaves(tree.join(given[0].trainable, given[1])).items()
                      if 'layers/' not in n), default=0.0)
  gradients = _bytes(learning)
  kinds = {'weights': _bytes(here), 'trainables': _bytes(learning),
           'optimizer': _bytes(_parts(state.opt_state, sizes)), 'gradients': gradients,
           'activations': max(0.0, temporary - gradients), 'cache': _cache(exp, sizes)}
  microbatches, lines = batch.tokens.shape[:2]
  passes = 3 if config.remat != 'none' else 2                      # forward, backward, and forward again
  moved = _bytes(given[1]) + _bytes(given[0].trainable)
  read = (passes * microbatches * moved + 2 * microbatches * kinds['activations'] + 2 * gradients
          + 2 * (kinds['trainables'] + kinds['optimizer']))
  return Account(kinds, flops.count(traced.jaxpr), read,
                 microbatches * _sent(exp, sizes, given, learning, lines, passes),
                 math.prod(batch.tokens.shape) * spread + _source(batch) * spread)


def _itemsize(config: ModelConfig) -> int:
  """Bytes of a number among the activations."""
  return jnp.dtype(DTYPES[config.dtype]).itemsize


def _source(batch: Batch) -> int:
  return 0 if batch.source_tokens is None else math.prod(batch.source_tokens.shape)


def _sent(exp: Experiment, sizes: Mapping[str, int], given: tuple[Any, ...], learning: Tree, lines: int, passes: int) -> float:
  """Bytes that a device sends for one microbatch, by rings: gathers of weights, sums of gradients, sums of activations."""
  config, (state, frozen, batch) = exp.model.config, given
  ring = lambda n: (n - 1) / n
  data, fsdp, tensor = (sizes[axis] for axis in partition.AXES)
  sent = passes * ring(fsdp) * (_bytes(frozen) + _bytes(state.trainable))      # each weight is gathered once a pass
  sent += ring(fsdp) * _bytes(state.trainable) + 2 * ring(data) * _bytes(learning)
  width = config.width * _itemsize(config)
  sublayers = (2 + config.has_encoder) * config.layers
  tokens = lines * batch.tokens.shape[2] * sublayers + (
      lines * batch.source_tokens.shape[2] * 2 * config.encoder_layers if config.has_encoder else 0)
  return sent + 2 * ring(tensor) * passes * width * tokens                     # each sublayer's result is summed up once a pass


def _cache(exp: Experiment, sizes: Mapping[str, int]) -> float:
  """Bytes of the keys and values where validation writes free text."""
  config, task, t = exp.model.config, exp.task, exp.settings.training
  if not task.writes or 'valid' not in task.splits:
    return 0.0
  longest = max(len(e.prompt_ids) for e in exp.examples('valid'))
  rows = round_up(t.eval_batch_size, sizes['data'] * sizes['fsdp']) // (sizes['data'] * sizes['fsdp'])
  slots = (1 if config.has_encoder else round_up(longest, 32)) + task.max_new_tokens
  slots += round_up(longest, 32) if config.has_encoder else 0
  each = config.kv_heads // sizes['tensor'] * config.head_dim * _itemsize(config)
  return 2.0 * config.layers * rows * slots * each
