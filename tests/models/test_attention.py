"""Long lines attend a block of queries at a time, and windows to the stretch that they reach: the same numbers, for less."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import scaled_up

from research.data.batch import Batch
from research.errors import InputError
from research.models import layers
from research.models.config import Kind
from research.models.functions import LONGEST_BIAS, build
from research.programs import flops

LENGTHS = 23, 14, 27       # of the documents that share a line of 64
WINDOW = 9


def windowed(loaded, *windows):
  """The same model, whose layers see so far back, in turn."""
  c = loaded.model.config
  kinds = tuple(Kind(window, c.layer_kinds[0].rope) for window in windows)
  return build(dataclasses.replace(c, layer_kinds=kinds, layer_pattern=tuple(i % len(kinds) for i in range(c.layers))))


@pytest.fixture(scope='module', params=['llama', 'llama, window', 'llama, windows', 'gpt2', 't5'])
def case(request):
  """(model, params): all that the layers of a stack can see."""
  loaded = scaled_up(f'{request.param.split(",")[0]}-tiny')
  windows = {'llama, window': (WINDOW,), 'llama, windows': (0, WINDOW, 3)}.get(request.param, (0,))
  return windowed(loaded, *windows), loaded.params


def line(model, seed=0, lengths=LENGTHS):
  """One line of documents, straight ones."""
  rng = np.random.default_rng(seed)
  row = lambda parts: np.concatenate(parts).astype(np.int32)[None]
  side = lambda: Batch(rng.integers(3, 250, (1, sum(lengths))).astype(np.int32), row([np.arange(n) for n in lengths]),
                       row([np.full(n, i + 1) for i, n in enumerate(lengths)]))
  return side().with_source(side()) if model.config.has_encoder else side()


def logits(model, params, batch):
  return jax.jit(lambda params: model.logits({'params': params}, model.hidden({'params': params}, batch)))(params)


def gradient(model, params, batch):
  weights = np.random.default_rng(1).normal(size=(64, model.config.vocab)).astype(np.float32)
  return jax.jit(jax.grad(lambda params: jnp.mean(logits(model, params, batch)[0] * weights)))(params)


@pytest.fixture
def short_blocks(monkeypatch):
  """Lines of above 8 tokens are long ones, and blocks have 5."""
  monkeypatch.setattr(layers, 'WHOLE', 8)
  monkeypatch.setattr(layers, 'BLOCK', 5)


@pytest.fixture
def whole(case, short_blocks):
  """Logits and gradient of a line as one block, made as if there were no others."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(layers, 'WHOLE', 64)
    return (lambda batch: (logits(*case, batch), gradient(*case, batch)))(line(case[0]))


@pytest.mark.diagonal('case', 'branches')
@pytest.mark.parametrize('branches', [False, True])
def test_blocks_compute_what_one_block_does(case, whole, branches):
  batch = line(case[0])
  if branches:                 # says that documents may have several answers: windows are looked up, not cut out
    batch = batch._replace(branches=np.zeros_like(batch.tokens))
  np.testing.assert_allclose(logits(*case, batch), whole[0], rtol=0, atol=1e-5 * np.abs(whole[0]).max())
  ours, expected = gradient(*case, batch), whole[1]
  assert jax.tree.structure(ours) == jax.tree.structure(expected)
  for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(expected)):
    assert np.linalg.norm(a - b) <= 1e-5 * np.linalg.norm(b) + 5e-9      # a key's bias has no gradient but rounding's


def test_a_document_changes_no_other_by_a_bit(case, short_blocks):
  first, second, _ = LENGTHS
  batch = line(case[0])
  other = jax.tree.map(np.copy, batch)
  for side in (other.tokens, other.source_tokens):
    if side is not None:
      side[:, first:first + second] = 255 - side[:, first:first + second]
  before, after = (np.asarray(logits(*case, b))[0] for b in (batch, other))
  np.testing.assert_array_equal(after[:first], before[:first])
  np.testing.assert_array_equal(after[first + second:], before[first + second:])
  assert (np.abs(after - before)[first:first + second].max(-1) > 1e-3).all()


def test_a_prompt_is_read_into_a_cache_in_blocks_as_in_one(case, short_blocks):
  model, params = case
  batch = jax.tree.map(lambda x: x[:, :20], line(model))
  read = lambda: jax.jit(model.prefill, static_argnums=2)({'params': params}, batch, 30)
  in_blocks = read()
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(layers, 'WHOLE', 64)
    jax.clear_caches()
    for a, b in zip(jax.tree.leaves(in_blocks), jax.tree.leaves(read())):
      np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * max(1, np.abs(b).max()))


def products(model, params, batch):
  """FLOPs of the matrix products of a forward pass."""
  return flops.count(jax.make_jaxpr(lambda p: model.hidden({'params': p}, batch))(params))


def test_windows_cost_less_than_seeing_all():
  loaded = scaled_up('llama-tiny')
  cost = {window: products(windowed(loaded, window), loaded.params, line(loaded.model, lengths=(3000, 1096)))
          for window in (0, 512)}
  c = loaded.model.config
  kernels = 2 * 4096 * sum(x.size for path, x in jax.tree_util.tree_leaves_with_path(loaded.params)
                           if 'kernel' in str(path) and 'head' not in str(path[0]))
  attention = {window: flop - kernels for window, flop in cost.items()}
  pairs = {0: 1024 * (1024 + 2048 + 3072 + 4096), 512: 4096 * 1023}
  assert attention == {window: 4 * c.layers * c.heads * c.head_dim * n for window, n in pairs.items()}
  assert attention[512] == 0.4 * attention[0] * 1023 / 1024
  # Where layers see differently far, one of two programs runs in each, and each counts for half.
  assert products(windowed(loaded, 0, 512), loaded.params, line(loaded.model, lengths=(3000, 1096))) == sum(cost.values()) / 2


def test_memory_of_a_long_line_grows_with_its_length_and_not_with_its_square():
  loaded = scaled_up('llama-tiny')

  def temporaries(length):
    batch = line(loaded.model, lengths=(length,))
    weights = np.ones((1, length, 1), np.float32)
    loss = lambda p: jnp.sum(loaded.model.hidden({'params': p}, batch) * weights)
    return jax.jit(jax.grad(loss)).lower(loaded.params).compile().memory_analysis().temp_size_in_bytes
  short, long = temporaries(2048), temporaries(8192)
  scores = 4 * loaded.model.config.heads * 8192 ** 2
  assert long < 0.75 * loaded.model.config.layers * scores and long < 8 * short      # all scores: 16 times as much


def test_relative_biases_of_very_long_lines_are_refused():
  loaded = scaled_up('t5-tiny')
  batch = line(loaded.model, lengths=(LONGEST_BIAS + 1,))
  with pytest.raises(InputError, match=r'model\.context: relative biases are kept for every pair .* 8193 x 8193'):
    jax.eval_shape(lambda p: loaded.model.hidden({'params': p}, batch), loaded.params)
