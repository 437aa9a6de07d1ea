"""What does not learn is never differentiated, optimised or saved."""

import functools
import json
import math

import jax
import pytest
from small import batch, config, documents, start

from research import train, tree
from research.models import load
from research.models.config import Execution
from research.strategies import table
from research.training import flops
from research.training.steps import train_step

# Widths that no activation has, so that a shape in the program tells what it belongs to.
STRATEGIES = {'full': table.full(), 'lora': table.lora(rank=5), 'adapter': table.adapter(width=24)}


def weight_shapes(params):
  """(rows, columns) of one layer's matrices, the smaller first; tables that are only looked up in are in no product."""
  return {tuple(sorted(x.shape[-2:])) for path, x in tree.leaves(params).items()
          if path.endswith('/kernel') or path == 'embed/embedding'}


def products(loaded, strategy):
  """Shapes of the results of all matrix products of a step, the smaller side first."""
  state, frozen, tx = start(loaded, strategy)
  one = batch(documents(loaded, 2), 512)
  jaxpr = jax.make_jaxpr(functools.partial(train_step, model=loaded.model, tx=tx))(state, frozen, one)
  return {tuple(sorted(eqn.outvars[0].aval.shape)) for eqn, _ in flops.equations(jaxpr.jaxpr)
          if eqn.primitive.name == 'dot_general'}


KINDS = {'llama-tiny': 4,    # q and o; k and v; the MLP's; the embedding
         'gpt2-tiny': 3, 't5-tiny': 3}


@pytest.mark.parametrize('scan', [True, False])
@pytest.mark.parametrize('name', ['lora', 'adapter'])
@pytest.mark.parametrize('model', KINDS)
def test_no_product_of_a_step_has_a_frozen_weights_shape(model, name, scan):
  loaded = load.load(f'random:{model}', Execution('float32', 'float32', scan))
  shapes = weight_shapes(loaded.params)
  assert len(shapes) == KINDS[model]
  assert shapes <= products(loaded, STRATEGIES['full'])      # so the search finds them where they are
  assert not shapes & products(loaded, STRATEGIES[name])


@pytest.mark.parametrize('name', STRATEGIES)
def test_the_optimiser_has_slots_for_what_learns_alone(tiny, name):
  state, frozen, _ = start(tiny, STRATEGIES[name])
  moments = sorted(x.shape for x in jax.tree.leaves(state.opt_state) if x.ndim)
  assert moments == sorted(2 * [x.shape for x in jax.tree.leaves(state.trainable)])
  assert tree.leaves(state.trainable).keys().isdisjoint(tree.leaves(frozen))
  assert all(n.startswith('params/' if name == 'full' else 'delta/') for n in tree.leaves(state.trainable))


def test_a_checkpoint_of_lora_holds_no_weight_of_the_base(tmp_path):
  train.run(config(strategy__rank=2, training__steps=2), tmp_path / 'run')
  state, frozen, _ = start(load.load('random:llama-tiny', Execution('float32', 'float32', True)), table.lora(rank=2))
  for kind, copies in (('best', 1), ('latest', 3)):
    [folder] = (tmp_path / 'run' / 'checkpoints' / kind).iterdir()
    saved = json.loads((folder / 'record' / 'metadata').read_text())['arrays']
    assert len(saved) >= copies * 14
    assert [n for n, (shape, _) in saved.items() if 'delta/' not in n and math.prod(shape) > 2] == []
    size = sum(f.stat().st_size for f in folder.rglob('*') if f.is_file())
    assert copies * tree.nbytes(state.trainable) * 0.5 < size < tree.nbytes(frozen) / 2
