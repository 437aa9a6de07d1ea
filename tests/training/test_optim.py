"""Schedules, clipping and the update rule."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from research.errors import InputError
from research.training import optim


@pytest.mark.parametrize('schedule, decayed', [
    ('constant', [1, 1, 1, 1]),
    ('linear', [1, 0.75, 0.5, 0.25]),
    ('cosine', [1, (1 + 2 ** -0.5) / 2, 0.5, (1 - 2 ** -0.5) / 2])])
def test_the_rate_rises_over_the_warm_up_and_then_decays(schedule, decayed):
  for warmup, risen in ((3, [0.25, 0.5, 0.75]), (0, [])):
    found = [optim.shape(schedule, warmup + 4, step, warmup) for step in range(warmup + 4)]
    np.testing.assert_allclose(found, [*risen, *decayed], rtol=1e-6, atol=1e-7)


def test_an_unknown_optimiser_or_schedule_is_refused():
  for name, schedule, message in (('sgd', 'linear', "optimizer='sgd'"), ('adamw', 'step', "schedule='step'")):
    with pytest.raises(InputError, match=message):
      optim.make(name, schedule, 10, 1.0, 0.9, 0.999, 1e-8)


def after(gradients, clip):
  """A parameter after Adam's steps on these gradients."""
  tx = optim.make('adamw', 'constant', 10, clip, 0.9, 0.999, 1e-8)
  x = {'x': jnp.zeros(2)}
  state = optim.init(tx, x, 0.1, 0.0)
  for g in gradients:
    updates, state = tx.update({'x': jnp.float32(g)}, state, x)
    x = optax.apply_updates(x, updates)
  return np.asarray(x['x'])


def test_a_gradient_longer_than_clip_counts_with_that_length():
  small = [0.1, -0.2]
  np.testing.assert_allclose(after([[3, 4], small], clip=1.0), after([[0.6, 0.8], small], clip=0.0), rtol=1e-5)
  np.testing.assert_allclose(after([[3, 4], small], clip=5.1), after([[3, 4], small], clip=0.0), rtol=1e-5)
  assert not np.allclose(after([[3, 4], small], clip=0.0), after([[0.6, 0.8], small], clip=0.0), rtol=1e-2)


@pytest.mark.parity
def test_ten_steps_are_torchs_adamw():
  import torch
  rng = np.random.default_rng(0)
  begin, steps, warmup = rng.normal(size=(5, 3)).astype(np.float32), 10, 2
  tx = optim.make('adamw', 'linear', steps, 1.0, 0.8, 0.95, 1e-6)
  ours = jnp.asarray(begin)
  state = optim.init(tx, ours, 0.05, 0.3, warmup)
  theirs = torch.nn.Parameter(torch.tensor(begin))
  torch_tx = torch.optim.AdamW([theirs], lr=0.05, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.3)
  schedule = torch.optim.lr_scheduler.LambdaLR(
      torch_tx, lambda s: (s + 1) / 3 if s < warmup else (steps - s) / (steps - warmup))
  for _ in range(steps):
    g = rng.normal(size=begin.shape).astype(np.float32)
    updates, state = tx.update(jnp.asarray(g), state, ours)
    ours = optax.apply_updates(ours, updates)
    theirs.grad = torch.tensor(g)
    torch.nn.utils.clip_grad_norm_([theirs], 1.0)
    torch_tx.step()
    schedule.step()
  assert np.abs(np.asarray(ours) - begin).max() > 0.1
  np.testing.assert_allclose(ours, theirs.detach(), rtol=1e-5, atol=1e-6)
