"""Runs that share a batch: each row as if its own run were alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import batch, documents, logits, moved, start
from strategies import rows
from strategies.rows import ROWS

from research import tree
from research.strategies import together

SHARE = [name for name in rows.ADDS if '+' not in name and 'too' not in name]      # alone, on a base that all have


def of_one(loaded, strategy, seed, by=0.1):
  state, frozen, _ = start(loaded, strategy)
  return tree.join(moved(state.trainable, seed, by), frozen)


def mixed(loaded, runs, numbers, one, spare=0):
  """Logits of a batch whose rows are of these runs."""
  variables = {**runs[0], **together.stack(runs, spare)}
  return logits(loaded.model, together.of_rows(variables, jnp.asarray(numbers)), one)


@pytest.mark.diagonal('preset', 'name')
@pytest.mark.parametrize('name', SHARE)
def test_a_row_gives_what_its_run_gives_alone(preset, name):
  row, strategy = ROWS[name], ROWS[name].make()
  runs = [of_one(preset, strategy, seed, min(row.moved, 0.03)) for seed in (1, 2, 3)]      # larger ones amplify rounding
  one = batch(documents(preset, 4, longest=100 + strategy.slots, slots=strategy.slots), 128)
  numbers = [2, 0, 1, 2]
  found = mixed(preset, runs, numbers, one)
  alone = [logits(preset.model, run, one) for run in runs]
  assert np.abs(alone[0] - alone[1]).max() > 0.01
  for row, number in enumerate(numbers):
    np.testing.assert_allclose(found[row], alone[number][row], rtol=1e-5, atol=3e-5 * alone[number].std())


def test_loras_of_other_ranks_and_sites_share_a_batch_with_the_base(tiny):
  made = [ROWS['lora'].make(), ROWS['rslora'].make(rank=3, targets='q,v'), ROWS['lora'].make(rank=2, targets='mlp')]
  runs = [of_one(tiny, strategy, seed) for seed, strategy in enumerate(made)]
  one = batch(documents(tiny, 4, longest=100), 128)
  assert len({together.kind(run) for run in runs}) == 1
  numbers = [1, together.NOBODY, 2, 0]
  found = mixed(tiny, runs, numbers, one)
  for row, number in enumerate(numbers):
    alone = logits(tiny.model, {'params': tiny.params} if number < 0 else runs[number], one)
    np.testing.assert_allclose(found[row], alone[row], rtol=1e-5, atol=3e-5 * alone.std())


@pytest.mark.parametrize('name', ['lora', 'ia3', 'vera'])
def test_a_run_takes_the_place_of_another_and_the_program_stays(tiny, name):
  strategy = ROWS[name].make()
  first, second, third = (of_one(tiny, strategy, seed) for seed in (1, 2, 3))
  one = batch(documents(tiny, 3, longest=100), 128)
  stacked = together.stack([first, second], spare=1)
  after = together.put(stacked, 2, third)
  assert jax.tree.structure(after) == jax.tree.structure(stacked)
  assert [x.shape for x in jax.tree.leaves(after)] == [x.shape for x in jax.tree.leaves(stacked)]
  numbers = [2, 1, 0]
  found = logits(tiny.model, together.of_rows({**first, **after}, jnp.asarray(numbers)), one)
  for row, run in enumerate((third, second, first)):
    alone = logits(tiny.model, run, one)
    np.testing.assert_allclose(found[row], alone[row], rtol=1e-5, atol=3e-5 * alone.std())


def test_only_runs_of_one_kind_and_shape_share_a_batch(tiny):
  kinds = [together.kind(of_one(tiny, strategy, 0)) for strategy in (
      ROWS['ia3'].make(), ROWS['dora'].make(), ROWS['dora'].make(rank=2), ROWS['lora'].make())]
  assert len({*kinds}) == 4
  assert together.kind(of_one(tiny, ROWS['prefix+vera'].make(), 0)) is None
  ia3 = of_one(tiny, ROWS['ia3'].make(), 0)
  with pytest.raises(ValueError, match='of another rank'):
    together.put(together.stack([of_one(tiny, ROWS['lora'].make(), 0)]), 0, of_one(tiny, ROWS['lora'].make(rank=2), 0))
  with pytest.raises(ValueError, match='other sites'):
    together.put(together.stack([ia3]), 0, of_one(tiny, ROWS['lora'].make(), 0))
