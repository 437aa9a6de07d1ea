"""LoRA against PEFT, the implementation that most people run."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import batch, documents, loud, start, take, torch_twin

from research import tree
from research.models import names
from research.models.families import FAMILIES
from research.strategies import deltas, table

pytestmark = pytest.mark.parity


def with_peft(loaded, rank, alpha, modules='all-linear'):
  """The same base in transformers, with PEFT's LoRA on these modules as PEFT initialises it."""
  import peft
  import torch
  torch.manual_seed(0)
  twin = torch_twin(loaded)
  kind = 'SEQ_2_SEQ_LM' if twin.config.is_encoder_decoder else 'CAUSAL_LM'
  return peft.get_peft_model(twin, peft.LoraConfig(
      r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules=modules, bias='none', task_type=kind)).eval()


def their_deltas(loaded, model):
  """PEFT's A and B under our names, in our layout."""
  state, c, found = model.state_dict(), loaded.model.config, {}
  for row in FAMILIES[c.family].rows(c):
    modules = [name.removesuffix('.weight') for name in names.theirs(row, names.shapes(c))]
    for ours, part in (('a', 'lora_A'), ('b', 'lora_B')):
      keys = [f'base_model.model.{m}.{part}.default.weight' for m in modules]
      if keys[0] in state:
        [path] = row.paths
        found[f'delta/{path}/{ours}'] = jnp.asarray(np.stack([state[key].numpy().T for key in keys]))
  return found


def their_logits(model, b):
  """Of every position: a decoder reads packed lines, an encoder one document a line."""
  import torch
  if 'source_tokens' in b:
    return model(input_ids=b['source_tokens'], attention_mask=b['source_segments'], decoder_input_ids=b['tokens']).logits
  earlier = torch.ones(2 * b['tokens'].shape[1:]).tril().bool()
  sees = earlier & (b['segments'][:, None, :, None] == b['segments'][:, None, None, :])
  mask = torch.zeros(sees.shape).masked_fill(~sees, torch.finfo(torch.float32).min)
  return model(input_ids=b['tokens'], attention_mask=mask, position_ids=b['positions']).logits


def their_losses(model, of_steps, learning_rate, weight_decay):
  import torch
  from torch.nn.functional import cross_entropy
  learn = [p for p in model.parameters() if p.requires_grad]
  tx = torch.optim.AdamW(learn, lr=learning_rate, betas=(0.9, 0.999), eps=1e-8, weight_decay=weight_decay)
  losses = []
  for one in of_steps:
    b = {name: torch.tensor(x[0]) for name, x in one.items()}
    logits = their_logits(model, b)
    logits = logits.gather(1, b['index'].long()[..., None].expand(-1, -1, logits.shape[-1]))
    each = cross_entropy(logits.flatten(0, 1), b['targets'].long().flatten(), reduction='none')
    loss = (each * b['weights'].flatten()).sum() / b['weights'].sum()
    tx.zero_grad()
    loss.backward()
    tx.step()
    losses.append(loss.item())
  return losses


def both_losses(loaded, of_steps, learning_rate, targets='all_linear', modules='all-linear'):
  model = with_peft(loaded, 8, 16, modules)
  state, frozen, tx = start(loaded, table.lora(rank=8, alpha=16.0, targets=targets), learning_rate, weight_decay=0.01)
  theirs = their_deltas(loaded, model)
  assert theirs.keys() == tree.leaves(state.trainable).keys()
  _, ours = take(loaded, state._replace(trainable=tree.replace(state.trainable, theirs)), frozen, tx, of_steps)
  return ours, their_losses(model, of_steps, learning_rate, 0.01)


# PEFT gives GPT-2's q, k and v one A, because there they are one matrix: another model, so they are left out here.
@pytest.mark.parametrize('name, per_line, targets, modules', [
    ('llama-tiny', 2, 'all_linear', 'all-linear'), ('t5-tiny', 1, 'all_linear', 'all-linear'),
    ('gpt2-tiny', 2, r'^layers/(attn/o|mlp/(up|down))/kernel$', ['c_proj', 'c_fc'])], ids=['llama', 't5', 'gpt2'])
def test_twenty_losses_of_lora_equal_pefts(name, per_line, targets, modules):
  loaded = loud(name)
  docs = documents(loaded, 16, longest=100)
  of_steps = [batch(docs[i:i + 4], 200, per_line) for i in (0, 4, 8, 12)]
  targets_a_line = max(one['targets'].shape[-1] for one in of_steps)
  of_steps = [one | {n: np.pad(one[n], ((0, 0), (0, 0), (0, targets_a_line - one[n].shape[-1])))
                     for n in ('index', 'targets', 'weights')} for one in of_steps] * 5
  ours, theirs = both_losses(loaded, of_steps, 1e-2, targets, modules)
  assert ours[-1] < 0.9 * ours[0]
  np.testing.assert_allclose(ours, theirs, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.smollm2
def test_twenty_losses_of_lora_equal_pefts_on_smollm2(smollm2):
  docs = documents(smollm2, 8, 'sentiment', longest=32)
  of_steps = [batch(docs[i:i + 2], 32) for i in (0, 2, 4, 6)] * 5
  ours, theirs = both_losses(smollm2, of_steps, 5e-4)
  assert ours[-1] < 0.9 * ours[0]
  np.testing.assert_allclose(ours, theirs, rtol=1e-3)


def test_a_new_delta_is_distributed_as_pefts(tiny):
  theirs = their_deltas(tiny, with_peft(tiny, rank=32, alpha=16))
  state, _, _ = start(tiny, table.lora(rank=32))
  for name, ours in tree.leaves(state.trainable).items():
    assert ours.shape == theirs[name].shape
    if name.endswith('/b'):
      assert not np.any(ours) and not np.any(theirs[name])
    else:
      bound = 1 / math.sqrt(ours.shape[-2])
      for x in (ours, theirs[name]):
        assert 0.98 * bound < np.abs(x).max() <= bound
        assert np.isclose(x.std(), bound / math.sqrt(3), rtol=0.03) and abs(x.mean()) < 0.03 * bound


def test_lora_without_a_key_equals_pefts_layer_in_evaluation():
  import peft
  import torch
  base = torch.nn.Sequential(torch.nn.Linear(24, 40, bias=False))
  theirs = peft.get_peft_model(base, peft.LoraConfig(r=4, lora_alpha=12, lora_dropout=0.5, target_modules=['0'],
                                                     init_lora_weights=False)).eval()
  weights = [theirs.state_dict()[f'base_model.model.0.{n}.weight'].numpy().T
             for n in ('base_layer', 'lora_A.default', 'lora_B.default')]
  kernel, a, b = map(jnp.asarray, weights)
  x = np.random.default_rng(0).normal(size=(2, 3, 24)).astype(np.float32)
  delta = deltas.LowRank(a, b, 12 / 4, 0.5)
  np.testing.assert_allclose(delta(jnp.asarray(x), kernel), theirs(torch.tensor(x)).detach(), rtol=1e-4, atol=1e-5)
  assert np.abs(delta(jnp.asarray(x), kernel, jax.random.key(0)) - delta(jnp.asarray(x), kernel)).max() > 0.1
