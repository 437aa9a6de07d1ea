"""What does not learn is never differentiated, optimised or saved."""

import functools
import json
import math

import jax
import optax
import pytest
from helpers import batch, config, documents, reviews, start
from strategies import rows
from strategies.rows import ROWS

from research import tree
from research.data.batch import Batch
from research.models import load, names
from research.models.config import Execution
from research.models.families import FAMILIES
from research.models.functions import build, split_last_layers, unstack_layers
from research.models.presets import PRESETS
from research.programs import flops
from research.runs.train import train_one
from research.strategies import table
from research.strategies.bind import bind
from research.training.steps import TrainState, train_step


def weight_shapes(params):
  """(rows, columns) of one layer's matrices, the smaller first; tables that are only looked up in are in no product."""
  return {tuple(sorted(x.shape[-2:])) for path, x in tree.leaves(params).items()
          if path.endswith('/kernel') or path == 'embed/embedding'}


@functools.cache
def loaded(model, scan):
  return load.load(f'random:{model}', Execution('float32', 'float32', scan))


@functools.cache
def products(model, scan, name):
  """Shapes of the results of all matrix products of a step, the smaller side first."""
  strategy = ROWS[name].make()
  state, frozen, tx = start(loaded(model, scan), strategy)
  one = batch(documents(loaded(model, scan), 2, slots=strategy.slots), 512)
  jaxpr = jax.make_jaxpr(functools.partial(train_step, model=loaded(model, scan).model, tx=tx))(state, frozen, one)
  return {tuple(sorted(eqn.outvars[0].aval.shape)) for eqn, _ in flops.equations(jaxpr.jaxpr)
          if eqn.primitive.name == 'dot_general'}


KINDS = {'llama-tiny': 4,    # q and o; k and v; the MLP's; the embedding
         'gpt2-tiny': 3, 't5-tiny': 3}


@pytest.mark.diagonal('model', 'name', 'scan')
@pytest.mark.parametrize('scan', [True, False])
@pytest.mark.parametrize('name', rows.ADDS)
@pytest.mark.parametrize('model', KINDS)
def test_no_product_of_a_step_has_a_frozen_weights_shape(model, name, scan):
  shapes = weight_shapes(loaded(model, scan).params)
  assert len(shapes) == KINDS[model]
  assert shapes <= products(model, scan, 'full')      # so the search finds them where they are
  learns = {tuple(sorted(loaded(model, scan).params['embed']['embedding'].shape))} if ROWS[name].fields.get('also') else set()
  assert not (shapes - learns) & products(model, scan, name)


@pytest.mark.parametrize('name', ['full', *rows.ADDS])
def test_the_optimiser_has_slots_for_what_learns_alone(tiny, name):
  state, frozen, _ = start(tiny, ROWS[name].make())
  moments = sorted(x.shape for x in jax.tree.leaves(state.opt_state) if x.ndim)
  assert moments == sorted(2 * [x.shape for x in jax.tree.leaves(state.trainable)])
  assert tree.leaves(state.trainable).keys().isdisjoint(tree.leaves(frozen))
  also = ('params/embed/',) if ROWS[name].fields.get('also') else ()
  assert all(n.startswith('params/' if name == 'full' else ('delta/', 'shared/', *also)) and 'fixed' not in n
             for n in tree.leaves(state.trainable))


def test_the_last_layers_alone_are_differentiated():
  """Of gate, up and down, gradients are computed in the layers that learn and in no other."""
  loaded = load.load('random:llama-tiny', Execution('float32', 'float32', False))
  strategy = table.last_layers(layers=1)
  config, params = split_last_layers(loaded.model.config, loaded.params, 1)
  apart = loaded._replace(model=build(config), params=params)
  shape = loaded.params['layers']['mlp']['up']['kernel'].shape[1:]

  def gradients(loaded, strategy):
    state, frozen, tx = start(loaded, strategy)
    one = batch(documents(loaded, 2), 512)
    jaxpr = jax.make_jaxpr(functools.partial(train_step, model=loaded.model, tx=tx))(state, frozen, one)
    return sum(times for eqn, times in flops.equations(jaxpr.jaxpr)
               if eqn.primitive.name == 'dot_general' and sorted(eqn.outvars[0].aval.shape) == sorted(shape))
  assert gradients(loaded, table.full()) == 3 * 3        # gate, up and down of three layers
  assert gradients(apart, strategy) == 3


@pytest.mark.parametrize('name, most', [('lora', 0.72), ('dora', 0.76), ('full', 1.0)])
def test_flops_of_a_step_on_smollm2s_shape(name, most):
  """Unrolled, 256 tokens, rank 8 on all linear layers; counted over the dot_generals."""
  hf = PRESETS['llama-tiny'] | {'vocab_size': 49152, 'hidden_size': 576, 'intermediate_size': 1536, 'num_hidden_layers': 30,
                                'num_attention_heads': 9, 'num_key_value_heads': 3, 'max_position_embeddings': 2048}
  config = names.config_of(FAMILIES['llama'], hf, 'SmolLM2', False)
  model = build(config)
  kernels = {tuple(sorted(shape[-2:])) for path, shape in names.shapes(config).items() if path.endswith('/kernel')}

  def count(strategy):
    params = jax.eval_shape(lambda key: unstack_layers(model.init(key)), jax.random.key(0))
    trainable, frozen = jax.eval_shape(lambda params: bind(jax.random.key(0), strategy, model, params), params)
    tx = optax.adam(1e-3)
    state = TrainState(jax.ShapeDtypeStruct((), 'int32'), jax.eval_shape(lambda: jax.random.key(0)), trainable,
                       jax.eval_shape(tx.init, trainable))
    ids, weights = (jax.ShapeDtypeStruct((1, 1, 256), dtype) for dtype in ('int32', 'float32'))
    one = Batch(ids, ids, ids, index=ids, targets=ids, weights=weights)
    jaxpr = jax.make_jaxpr(functools.partial(train_step, model=model, tx=tx))(state, frozen, one)
    found = {tuple(sorted(eqn.outvars[0].aval.shape)) for eqn, _ in flops.equations(jaxpr.jaxpr)
             if eqn.primitive.name == 'dot_general'}
    return flops.count(jaxpr), found
  whole, found = count(table.full())
  assert kernels <= found
  part, found = count(table.make(name, {'rank': 8} if name != 'full' else {}))
  print(f'{name}: {part / whole:.4f} of full')
  assert part <= most * whole and (name == 'full' or not kernels & found)


def test_a_checkpoint_of_lora_holds_no_weight_of_the_base(tmp_path):
  train_one(config(strategy__rank=2, training__steps=2, **reviews(train=8, valid=2)), tmp_path / 'run')
  state, frozen, _ = start(load.load('random:llama-tiny', Execution('float32', 'float32', True)), table.lora(rank=2))
  for kind, copies in (('best', 1), ('latest', 3)):
    [folder] = (tmp_path / 'run' / 'checkpoints' / kind).iterdir()
    saved = json.loads((folder / 'record' / 'metadata').read_text())['arrays']
    assert len(saved) >= copies * 14
    assert [n for n, (shape, _) in saved.items() if 'delta/' not in n and math.prod(shape) > 2] == []
    size = sum(f.stat().st_size for f in folder.rglob('*') if f.is_file())
    assert copies * tree.nbytes(state.trainable) * 0.5 < size < tree.nbytes(frozen) / 2
