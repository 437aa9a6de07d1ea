"""LoRA against PEFT, the implementation that most people run."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import batch, documents, start, take

from research import tree
from research.models import names
from research.models.families import FAMILIES
from research.strategies import deltas, table

pytestmark = pytest.mark.parity


def with_peft(loaded, rank, alpha):
  """The same base in transformers, with PEFT's LoRA on all linear layers as PEFT initialises it."""
  import peft
  import torch
  import transformers
  c = loaded.model.config
  torch.manual_seed(0)
  model = transformers.LlamaForCausalLM(transformers.LlamaConfig(
      vocab_size=c.vocab, hidden_size=c.width, intermediate_size=c.hidden, num_hidden_layers=c.layers,
      num_attention_heads=c.heads, num_key_value_heads=c.kv_heads, head_dim=c.head_dim, rms_norm_eps=c.norm_eps,
      max_position_embeddings=c.context, tie_word_embeddings=c.tied, attn_implementation='eager',
      rope_parameters={'rope_type': 'default', 'rope_theta': c.rope_theta}))
  theirs = names.export_params(FAMILIES[c.family], c, loaded.params)
  missing, unexpected = model.load_state_dict({n: torch.tensor(x) for n, x in theirs.items()}, strict=False)
  assert not unexpected and set(missing) <= {'lm_head.weight'}
  return peft.get_peft_model(model, peft.LoraConfig(
      r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules='all-linear', bias='none', task_type='CAUSAL_LM'))


def their_deltas(loaded, model):
  """PEFT's A and B under our names, in our layout."""
  state, c, found = model.state_dict(), loaded.model.config, {}
  for row in FAMILIES[c.family].rows(c):
    if row.ours.startswith('layers/') and row.ours.endswith('/kernel'):
      modules = [row.theirs.format(n=n).removesuffix('.weight') for n in range(c.layers)]
      for ours, part in (('a', 'lora_A'), ('b', 'lora_B')):
        of_layers = [state[f'base_model.model.{m}.{part}.default.weight'].numpy().T for m in modules]
        found[f'delta/{row.ours}/{ours}'] = jnp.asarray(np.stack(of_layers))
  return found


def their_losses(model, of_steps, learning_rate, weight_decay):
  import torch
  from torch.nn.functional import cross_entropy
  learn = [p for p in model.parameters() if p.requires_grad]
  tx = torch.optim.AdamW(learn, lr=learning_rate, betas=(0.9, 0.999), eps=1e-8, weight_decay=weight_decay)
  losses = []
  for one in of_steps:
    b = {name: torch.tensor(x[0]) for name, x in one.items()}
    earlier = torch.ones(2 * b['tokens'].shape[1:]).tril().bool()
    sees = earlier & (b['segments'][:, None, :, None] == b['segments'][:, None, None, :])
    mask = torch.zeros(sees.shape).masked_fill(~sees, torch.finfo(torch.float32).min)
    logits = model(input_ids=b['tokens'], attention_mask=mask, position_ids=b['positions']).logits
    logits = logits.gather(1, b['index'].long()[..., None].expand(-1, -1, logits.shape[-1]))
    each = cross_entropy(logits.flatten(0, 1), b['targets'].long().flatten(), reduction='none')
    loss = (each * b['weights'].flatten()).sum() / b['weights'].sum()
    tx.zero_grad()
    loss.backward()
    tx.step()
    losses.append(loss.item())
  return losses


def both_losses(loaded, of_steps, learning_rate):
  model = with_peft(loaded, rank=8, alpha=16)
  state, frozen, tx = start(loaded, table.lora(rank=8, alpha=16.0), learning_rate, weight_decay=0.01)
  theirs = their_deltas(loaded, model)
  assert theirs.keys() == tree.leaves(state.trainable).keys()
  _, ours = take(loaded, state._replace(trainable=tree.replace(state.trainable, theirs)), frozen, tx, of_steps)
  return ours, their_losses(model, of_steps, learning_rate, 0.01)


def test_twenty_losses_of_lora_equal_pefts_on_a_random_llama(tiny):
  docs = documents(tiny, 16, longest=100)
  of_steps = [batch(docs[i:i + 4], 200, per_line=2) for i in (0, 4, 8, 12)] * 5
  ours, theirs = both_losses(tiny, of_steps, 1e-2)
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
