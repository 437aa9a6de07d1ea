"""The decoder: one arithmetic, however it is run."""


import jax
import jax.numpy as jnp
import llamas
import numpy as np
import pytest
from llamas import CONFIGS, FLOAT32, lone
from strategies import rows
from strategies.rows import ROWS

from research import tree
from research.data.batch import Batch
from research.data.prompts import placeholders
from research.models import functions, load, sites
from research.models.config import Execution
from research.models.functions import build, unstack_layers
from research.strategies.bind import bind
from research.training.losses import cross_entropy

IDS = np.random.default_rng(2).integers(0, 256, (3, 23))


@pytest.fixture(scope='module', params=CONFIGS)
def loaded(request, tmp_path_factory):
  config = CONFIGS[request.param]
  return load.load(llamas.write_folder(tmp_path_factory.mktemp('llama'), config, llamas.weights(config)), FLOAT32)


def test_scanned_equals_unrolled(loaded):
  np.testing.assert_allclose(llamas.logits(loaded.model, unstack_layers(loaded.params), IDS),
                             llamas.logits(loaded.model, loaded.params, IDS), rtol=0, atol=1e-4)


def test_a_token_changes_what_comes_after_it_and_nothing_before(loaded):
  other = IDS.copy()
  other[:, 11] = (other[:, 11] + 1) % 256
  before, after = llamas.logits(loaded.model, loaded.params, IDS), llamas.logits(loaded.model, loaded.params, other)
  np.testing.assert_array_equal(after[:, :11], before[:, :11])
  assert (np.abs(after[:, 11:] - before[:, 11:]).max(-1) > 1e-3).all()


def test_step_by_step_with_a_cache_equals_the_full_forward_also_where_prompts_are_padded(loaded):
  model, variables = loaded.model, {'params': loaded.params}
  full = llamas.logits(model, loaded.params, IDS)                      # [B, L, V]
  starts = [9, 5, 1]                                                   # tokens of each prompt, padded to 9 on the left
  batch = Batch(*np.zeros((3, 3, 9), np.int32))
  for row, n in enumerate(starts):
    batch.tokens[row, 9 - n:] = IDS[row, :n]
    batch.positions[row, 9 - n:] = range(n)
    batch.segments[row, 9 - n:] = 1
  hidden, cache = jax.jit(model.prefill, static_argnums=2)(variables, batch, 9 + 14)
  step, head = jax.jit(model.step), jax.jit(model.logits)
  for i in range(14):
    at = [n - 1 + i for n in starts]
    np.testing.assert_allclose(head(variables, hidden), full[range(3), at], rtol=0, atol=1e-4)
    hidden, cache = step(variables, cache, jnp.asarray(IDS[range(3), [n + i for n in starts]], jnp.int32))


def test_sites_are_the_places_where_deltas_can_stand(loaded):
  c, found = loaded.model.config, sites.sites(loaded.model.config, loaded.params)
  layers = [f'layers/{k}' for k in ('attn/q', 'attn/k', 'attn/v', 'attn/o', 'mlp/gate', 'mlp/up', 'mlp/down')]
  layers += [] if c.tied else ['head']
  assert found.keys() == {f'{k}/{leaf}' for k in layers for leaf in ('kernel', 'bias')} | {
      'layers/attn/output', 'layers/mlp/output', 'layers/attn/qkv', 'layers/attn/prefix', 'embed/embedding', 'embed/prompt'}
  outputs = c.kv_heads * c.head_dim
  assert found['layers/attn/k/kernel'][:4] == ('kernel', (c.layers,), c.width, outputs)
  assert found['layers/attn/qkv'][:4] == ('kernel', (c.layers,), c.width, c.heads * c.head_dim + 2 * outputs)
  assert found['layers/mlp/output'][:4] == ('output', (c.layers,), c.width, c.width)
  assert found['layers/attn/prefix'][:4] == ('prefix', (c.layers,), outputs, outputs)


def loss_and_gradient(name, model, params):
  """Of the learning variables, after every delta was moved away from where it changes nothing."""
  row = ROWS[name]
  strategy = row.make()
  config, params = functions.split_last_layers(model.config, params, strategy.last_layers)
  model = build(config)
  trainable, frozen = bind(jax.random.key(0), strategy, model, params)
  noise = iter(jax.random.split(jax.random.key(1), 99))
  trainable = tree.map_named(
      lambda path, x: x + row.moved * jax.random.normal(next(noise), x.shape) if path.startswith('delta') else x,
      trainable)
  batch = lone(IDS[:, :-1])
  batch.tokens[:, :strategy.slots] = placeholders(strategy.slots)
  batch = batch._replace(index=np.broadcast_to(np.arange(22, dtype=np.int32), (3, 22)), targets=IDS[:, 1:].astype(np.int32),
                         weights=np.ones((3, 22), np.float32))
  mean = lambda trainable: cross_entropy(model, tree.join(frozen, trainable), batch)[0] / 66
  loss, gradient = jax.jit(jax.value_and_grad(mean))(trainable)
  return float(loss), tree.leaves(gradient)


@pytest.mark.parametrize('name', rows.ALONE)
def test_bfloat16_losses_and_gradients_stay_near_float32(tmp_path, name):
  config = CONFIGS['separate_untied']
  folder = llamas.write_folder(tmp_path, config, llamas.weights(config))
  found = []
  for dtype in ('float32', 'bfloat16'):
    kept = 'float32' if name == 'pissa' else dtype      # rounded kernels have other singular vectors, and so another start
    model, params, *_ = load.load(folder, Execution(dtype, kept, True))
    found.append(loss_and_gradient(name, model, params))
  (loss, gradient), (rough_loss, rough) = found
  assert gradient.keys() == rough.keys() and bool(gradient) == (name != 'few_shot')
  assert abs(rough_loss - loss) < 0.02 * loss
  for path, g in gradient.items():
    assert rough[path].dtype == jnp.float32, path
    a, b = np.ravel(g), np.ravel(rough[path])
    assert np.linalg.norm(a) > 0, path
    assert np.linalg.norm(a - b) < 0.15 * np.linalg.norm(a), path
