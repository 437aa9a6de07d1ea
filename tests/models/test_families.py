"""Every family computes what transformers' torch model computes, with and without padding, forward and backward."""


import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo

from research.data import tokenizer as tokenizers
from research.data.batch import Batch
from research.models import huggingface, names
from research.models.config import Execution
from research.models.functions import build, unstack_layers
from research.models.load import load

pytestmark = pytest.mark.parity

FLOAT32 = Execution('float32', 'float32', True)
RNG = np.random.default_rng(3)
IDS = RNG.integers(3, 256, (3, 23))          # what a decoder reads
SOURCE = RNG.integers(3, 256, (3, 19))       # what an encoder reads
LENGTHS = (23, 17, 9), (19, 11, 5)           # real tokens of each row where there is padding


@pytest.fixture(scope='module', params=zoo.CONFIGS)
def pair(request, tmp_path_factory):
  """(name, torch model, what we loaded from the folder that it saved, the folder)"""
  folder = tmp_path_factory.mktemp('model')
  theirs = zoo.torch_model(request.param)
  save(theirs, folder)
  return request.param, theirs, load(str(folder), FLOAT32), folder


def save(theirs, folder):
  import safetensors.torch
  theirs.save_pretrained(folder)
  if 'lm_head.weight' in theirs.state_dict() and theirs.config.is_encoder_decoder:
    state = {n: x for n, x in theirs.state_dict().items() if 'embed_tokens' not in n}
    if not (state['lm_head.weight'] is state['shared.weight'] or (state['lm_head.weight'] == state['shared.weight']).all()):
      safetensors.torch.save_file({n: x.contiguous() for n, x in state.items()}, folder / 'model.safetensors', {'format': 'pt'})
  tokenizers.of_bytes().hf.save_pretrained(folder)


def batch_of(config, lengths=None, left=False):
  """Rows that share their lines with nothing; padding on the right, or on the left."""
  def one(ids, lengths):
    rows = np.zeros_like(ids), np.zeros_like(ids), np.zeros_like(ids)
    for row, n in enumerate(lengths):
      at = slice(ids.shape[1] - n, None) if left else slice(0, n)
      rows[0][row, at], rows[1][row, at], rows[2][row, at] = ids[row, :n], range(n), 1
    return Batch(*(x.astype(np.int32) for x in rows))
  whole = (IDS.shape[1],) * 3, (SOURCE.shape[1],) * 3
  decoder, encoder = lengths or whole
  batch = one(IDS, decoder)
  if config.has_encoder:
    batch = batch.with_source(one(SOURCE, encoder))
  return batch


def torch_logits(theirs, config, batch):
  import torch
  t = lambda x: torch.tensor(np.asarray(x), dtype=torch.long)
  if config.has_encoder:
    return theirs(input_ids=t(batch.source_tokens), attention_mask=t(batch.source_segments),
                  decoder_input_ids=t(batch.tokens), decoder_attention_mask=t(batch.segments)).logits
  return theirs(input_ids=t(batch.tokens), attention_mask=t(batch.segments), position_ids=t(batch.positions)).logits


def row_by_row(theirs, config, batch):
  """transformers' logits of every row without its padding, at the places where the row stands in the batch."""
  found = np.zeros((*batch.tokens.shape, config.vocab), np.float32)
  real = batch.segments > 0
  for row in np.argsort(real.sum(1)):      # transformers' dynamic rope stays stretched until it reads a short row
    at = real[row]
    source = batch.source_segments[row] > 0 if config.has_encoder else None
    one = Batch(*(x[row:row + 1, at] for x in batch[:3]))
    if config.has_encoder:
      one = one.with_source(Batch(*(x[row:row + 1, source] for x in (
          batch.source_tokens, batch.source_positions, batch.source_segments))))
    found[row, at] = torch_logits(theirs, config, one)[0]
  return found


def our_logits(model, params, batch):
  return np.asarray(jax.jit(lambda v: model.logits(v, model.hidden(v, batch)))({'params': params}))


@pytest.mark.parametrize('padding', ['none', 'right', 'left'])
def test_logits_equal_transformers(pair, padding):
  import torch
  name, theirs, loaded, _ = pair
  config = loaded.model.config
  batch = batch_of(config, None if padding == 'none' else LENGTHS, padding == 'left')
  # Two models of transformers read padded rows otherwise than alone: dynamic rope stretches all rows of a batch by the
  # longest, and T5 counts its distances from the left end, padding included. There we equal them on each row alone.
  alone = (name == 'llama-dynamic' and padding != 'none') or (config.has_encoder and padding == 'left')
  with torch.no_grad():
    expected = (row_by_row if alone else torch_logits)(theirs, config, batch)
  real = batch.segments > 0
  assert expected[real].std() >= 1
  np.testing.assert_allclose(our_logits(loaded.model, loaded.params, batch)[real], expected[real], rtol=0, atol=1e-4)


def test_gradients_equal_transformers_leaf_by_leaf(pair):
  import torch
  name, theirs, loaded, folder = pair
  batch = batch_of(loaded.model.config, None if name == 'llama-dynamic' else LENGTHS)
  weights = np.random.default_rng(4).normal(size=(*IDS.shape, loaded.model.config.vocab)).astype(np.float32)
  weights *= (batch.segments > 0)[..., None] / batch.segments.sum()
  theirs.zero_grad()
  (torch_logits(theirs, loaded.model.config, batch) * torch.tensor(weights)).sum().backward()
  renamed = {'lm_head.weight': 'embed_out.weight'} if name == 'gpt_neox' else {}     # as transformers saves it
  expected = {renamed.get(n, n): x.grad.numpy() for n, x in theirs.named_parameters()}

  def loss(params):
    variables = {'params': params}
    return jnp.sum(loaded.model.logits(variables, loaded.model.hidden(variables, batch)) * weights)
  family, config, _, _ = huggingface.read(folder)
  ours = names.export_params(family, config, jax.jit(jax.grad(loss))(loaded.params))
  assert ours.keys() == expected.keys()
  for tensor, g in expected.items():
    assert np.linalg.norm(ours[tensor] - g) <= 1e-3 * np.linalg.norm(g) + 1e-6, tensor


def test_step_by_step_with_a_cache_equals_the_full_forward(pair):
  name, _, loaded, _ = pair
  model, config, variables = loaded.model, loaded.model.config, {'params': loaded.params}
  full = our_logits(model, loaded.params, batch_of(config, (LENGTHS[0][:1] * 3, LENGTHS[1])))
  if config.has_encoder:
    starts = [1, 1, 1]
    batch = batch_of(config, (starts, LENGTHS[1]))
    batch = batch._replace(tokens=batch.tokens[:, :1], positions=batch.positions[:, :1], segments=batch.segments[:, :1])
  else:
    starts = [9, 9, 9] if name == 'llama-dynamic' else [9, 5, 1]
    batch = batch_of(config, (starts, None), left=True)
    batch = jax.tree.map(lambda x: x[:, -9:], batch)
  L = batch.tokens.shape[1]
  steps = 6 if name == 'llama-dynamic' else 14       # as far as nothing is stretched: what was read keeps its angles
  hidden, cache = jax.jit(model.prefill, static_argnums=2)(variables, batch, L + 14)
  step, head = jax.jit(model.step), jax.jit(model.logits)
  reference = full if name != 'llama-dynamic' else our_logits(
      model, loaded.params, jax.tree.map(lambda x: x[:, :16], batch_of(config)))
  for i in range(steps):
    at = [n - 1 + i for n in starts]
    np.testing.assert_allclose(head(variables, hidden), reference[range(3), at], rtol=0, atol=1e-4)
    hidden, cache = step(variables, cache, jnp.asarray(IDS[range(3), [n + i for n in starts]], jnp.int32))


def test_every_branch_is_seen_by_the_logits(pair):
  name, _, loaded, _ = pair
  config = loaded.model.config
  batch = batch_of(config)
  whole = our_logits(loaded.model, loaded.params, batch)
  for branch, switch in zoo.BRANCHES[name].items():
    off = switch(config)
    assert off != config, branch
    assert np.abs(our_logits(build(off), loaded.params, batch) - whole).max() > 1e-2, branch


@pytest.mark.diagonal(pair=('llama', 'gpt2', 'gemma3_text', 'smollm3', 't5', 'umt5'))
def test_scanned_equals_unrolled(pair):
  _, _, loaded, _ = pair
  batch = batch_of(loaded.model.config, LENGTHS)
  real = batch.segments > 0
  np.testing.assert_allclose(our_logits(loaded.model, unstack_layers(loaded.params), batch)[real],
                             our_logits(loaded.model, loaded.params, batch)[real], rtol=0, atol=1e-4)


def test_export_of_import_is_the_same_bit_for_bit(pair):
  _, _, loaded, folder = pair
  family, config, tensors, _ = huggingface.read(folder)
  exported = names.export_params(family, config, loaded.params)
  assert exported.keys() == set(tensors)
  for tensor, x in exported.items():
    np.testing.assert_array_equal(x, tensors[tensor], err_msg=tensor)
