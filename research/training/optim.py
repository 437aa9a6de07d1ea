"""Optimisers and schedules by name.

Learning rate, weight decay and warm-up are arrays in the optimiser's state, not constants of the compiled step: runs that
differ in nothing else share one compilation.
"""

import re
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from research import tree
from research.errors import InputError
from research.models.functions import in_stack
from research.tree import Tree
from research.unstacked import is_unstacked

SCHEDULES = {
    # name -> share of the peak rate, once a share `t` of the decay is behind
    'constant': lambda t: 1.0,
    'linear': lambda t: 1.0 - t,
    'cosine': lambda t: (1 + jnp.cos(jnp.pi * t)) / 2,
}

OPTIMIZERS = {
    # name -> the direction of a step at rate 1, before weight decay
    'adamw': lambda b1, b2, eps: optax.scale_by_adam(b1=b1, b2=b2, eps=eps),
    # Shazeer & Stern 2018 (arXiv 1804.04235): factored second moments, updates clipped to root mean square 1
    'adafactor': lambda b1, b2, eps: optax.chain(optax.scale_by_factored_rms(), optax.stateless(_clip_by_parameter)),
}


def _clip_by_parameter(updates: Tree, params: Tree | None = None) -> Tree:
  """The updates of each parameter with a root mean square of at most 1; of a stack each layer's are a parameter's."""
  def one(name: str, u: jax.Array) -> jax.Array:
    of_layers = in_stack(name) and not name.startswith('shared/') and not is_unstacked(u)
    axes = tuple(range(1, u.ndim)) if of_layers else None
    rms = lambda x: jnp.sqrt(jnp.mean(x * x, axes, keepdims=axes is not None))
    return jax.tree.map(lambda x: x / jnp.maximum(1.0, rms(x)), u)
  return tree.map_named(one, updates, is_leaf=is_unstacked)


def shape(schedule: str, steps: int, step: jax.Array | int, warmup: jax.Array | int) -> jax.Array:
  """Share of the peak learning rate at a step: a linear rise over `warmup` steps, none of them at 0, then the decay.

  Args:
    schedule: a key of `SCHEDULES`, for the decay.
    steps: of the whole run, where the decay ends.
    step: number of steps taken so far, of any shape.
    warmup: steps of the rise, of a shape that goes with that of `step`.
  Returns:
    float32, of the shape of both, between 0 and 1.
  """
  decayed = jnp.clip((step - warmup) / jnp.maximum(1, steps - warmup), 0.0, 1.0)
  return jnp.where(step < warmup, (step + 1) / (warmup + 1), SCHEDULES[schedule](decayed)).astype(jnp.float32)


class Scheduled(NamedTuple):
  """The state of `scheduled`."""
  count: jax.Array     # type: ignore[assignment]  # [] int32, steps taken; tuple's method of this name is not used
  warmup: jax.Array    # [] int32, steps


def scheduled(schedule: str, steps: int) -> optax.GradientTransformation:
  """Scales updates by `shape`; the warm-up stands in the state."""
  def update(updates: Tree, state: Any, params: Tree | None = None) -> tuple[Tree, Any]:
    share = shape(schedule, steps, state.count, state.warmup)
    return jax.tree.map(lambda u: u * share, updates), Scheduled(state.count + 1, state.warmup)
  return optax.GradientTransformation(lambda params: Scheduled(jnp.int32(0), jnp.int32(0)), update)


@lru_cache(maxsize=64)
def make(name: str, schedule: str, steps: int, clip: float, b1: float, b2: float, eps: float,
         rates: tuple[tuple[str, float], ...] = ()) -> optax.GradientTransformation:
  """The optimiser as a pure pair of functions; the same arguments give the same object.

  Args:
    name: a key of `OPTIMIZERS`.
    schedule: a key of `SCHEDULES`.
    steps: of the whole run, where the decay ends.
    clip: the gradients' largest global norm; 0 for no limit.
    b1: decay of adamw's first moment; adafactor reads none of these three.
    b2: decay of adamw's second moment.
    eps: what adamw adds to the second moment's root.
    rates: (pattern over leaves, factor of their learning rate); the first pattern that matches counts.
  Raises:
    InputError: there is no such optimiser, or schedule.
  """
  for field, value, known in (('optimizer', name, OPTIMIZERS), ('schedule', schedule, SCHEDULES)):
    if value not in known:
      raise InputError(f'training.{field}={value!r}: must be one of {", ".join(known)}')
  return optax.chain(
      optax.clip_by_global_norm(clip) if clip else optax.identity(),
      OPTIMIZERS[name](b1, b2, eps),
      optax.inject_hyperparams(optax.add_decayed_weights)(weight_decay=0.0),
      optax.inject_hyperparams(optax.scale_by_learning_rate)(learning_rate=0.0),
      scheduled(schedule, steps),
      optax.stateless(lambda updates, _: tree.map_named(lambda name, u: u * _factor(rates, name), updates))
      if rates else optax.identity())


def _factor(rates: tuple[tuple[str, float], ...], name: str) -> float:
  return next((factor for pattern, factor in rates if re.search(pattern, name)), 1.0)


def init(tx: optax.GradientTransformation, trainable: Tree, learning_rate: float, weight_decay: float,
         warmup: int = 0) -> Tree:
  """The optimiser's first state, with the settings that differ between runs.

  Args:
    tx: as `make` gives it.
    trainable: what the state is for.
    learning_rate: the schedule's peak.
    weight_decay: decoupled: a step takes this share of every leaf off it, times the learning rate at that step.
    warmup: steps in which the rate rises.
  """
  return optax.tree_utils.tree_set(tx.init(trainable), learning_rate=jnp.float32(learning_rate),
                                   weight_decay=jnp.float32(weight_decay), warmup=jnp.int32(warmup))
