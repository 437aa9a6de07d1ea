"""Optimisers and schedules by name.

Learning rate and weight decay are arrays in the optimiser's state, not constants of the compiled step: runs that differ
in nothing else share one compilation.
"""

import re
from functools import lru_cache

import jax.numpy as jnp
import optax

from research import tree
from research.errors import InputError
from research.tree import Tree

SCHEDULES = {
    'constant': lambda steps: optax.constant_schedule(1.0),
    'linear': lambda steps: optax.linear_schedule(1.0, 0.0, steps),
    'cosine': lambda steps: optax.cosine_decay_schedule(1.0, steps),
}

OPTIMIZERS = {
    # name -> the direction of a step at rate 1, before weight decay
    'adamw': lambda b1, b2, eps: optax.scale_by_adam(b1=b1, b2=b2, eps=eps),
    # Shazeer & Stern 2018 (arXiv 1804.04235): factored second moments, updates clipped to root mean square 1
    'adafactor': lambda b1, b2, eps: optax.chain(optax.scale_by_factored_rms(), optax.clip_by_block_rms(1.0)),
}


def shape(schedule: str, warmup: int, steps: int) -> optax.Schedule:
  """Share of the peak learning rate at each step: a linear rise over `warmup` steps, none of them at 0, then the decay."""
  decay = SCHEDULES[schedule](max(1, steps - warmup))
  if not warmup:
    return decay
  return optax.join_schedules([optax.linear_schedule(1 / (warmup + 1), 1.0, warmup), decay], [warmup])


@lru_cache(maxsize=64)
def make(name: str, schedule: str, steps: int, warmup: int, clip: float, b1: float, b2: float,
         eps: float, rates: tuple[tuple[str, float], ...] = ()) -> optax.GradientTransformation:
  """The optimiser as a pure pair of functions; the same arguments give the same object.

  Args:
    name: a key of `OPTIMIZERS`; `schedule`: a key of `SCHEDULES`.
    steps: of the whole run, where the decay ends; warmup: of them, the first ones.
    clip: the gradients' largest global norm; 0 for no limit.
    rates: (pattern over leaves, factor of their learning rate); the first pattern that matches counts.
  """
  for field, value, known in (('optimizer', name, OPTIMIZERS), ('schedule', schedule, SCHEDULES)):
    if value not in known:
      raise InputError(f'training.{field}={value!r}: must be one of {", ".join(known)}')
  return optax.chain(
      optax.clip_by_global_norm(clip) if clip else optax.identity(),
      OPTIMIZERS[name](b1, b2, eps),
      optax.inject_hyperparams(optax.add_decayed_weights)(weight_decay=0.0),
      optax.inject_hyperparams(optax.scale_by_learning_rate)(learning_rate=0.0),
      optax.scale_by_schedule(shape(schedule, warmup, steps)),
      optax.stateless(lambda updates, _: tree.map_named(lambda name, u: u * _factor(rates, name), updates))
      if rates else optax.identity())


def _factor(rates: tuple[tuple[str, float], ...], name: str) -> float:
  return next((factor for pattern, factor in rates if re.search(pattern, name)), 1.0)


def init(tx: optax.GradientTransformation, trainable: Tree, learning_rate: float, weight_decay: float) -> Tree:
  """The optimiser's first state, with the two settings that differ between runs."""
  return optax.tree_utils.tree_set(tx.init(trainable), learning_rate=jnp.float32(learning_rate),
                                   weight_decay=jnp.float32(weight_decay))
