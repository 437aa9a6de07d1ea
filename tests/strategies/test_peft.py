"""Every method that PEFT has too, against PEFT: the same logits, the same losses while it learns, and the same files."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from helpers import batch, documents, logits, moved, scaled_up, start, take, torch_twin
from strategies.rows import METHODS, ROWS

from research import tree
from research.adapters import modules, reading, writing
from research.deployment import folder as folders
from research.errors import InputError
from research.models import names, presets
from research.strategies import deltas, table
from research.strategies.bind import bind
from research.strategies.values import placed_in

pytestmark = pytest.mark.parity

LLAMA_MODULES = ['q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj']
GPT2_MODULES = ['c_attn', 'c_proj', 'c_fc']
RANKED = METHODS['lora'][2]
SLOTS = METHODS['prompt'][2]['num_virtual_tokens']


def with_peft(loaded, kind='LoraConfig', seed=0, **fields):
  """The same base in transformers, with an adapter as PEFT initialises it."""
  import peft as theirs
  import torch
  torch.manual_seed(seed)
  twin = torch_twin(loaded)
  task = 'SEQ_2_SEQ_LM' if twin.config.is_encoder_decoder else 'CAUSAL_LM'
  return theirs.get_peft_model(twin, getattr(theirs, kind)(task_type=task, **fields)).eval()


def shaken(model, seed=1):
  """Its trainable parameters moved away from where they began, so that each is seen in the logits."""
  import torch
  generator = torch.Generator().manual_seed(seed)
  with torch.no_grad():
    for name, x in model.named_parameters():
      if x.requires_grad:
        size = 0.3 if 'prompt_encoder' in name else 0.1
        x += size * torch.randn(x.shape, generator=generator)
  return model


def ours_from(loaded, folder):
  """(strategy, trainable, frozen) of an adapter folder; one of PiSSA has not learned yet."""
  found = reading.read(folder, loaded.model.config, names.shapes(loaded.model.config))
  strategy, values = table.make(found.name, found.fields), found.values
  if found.name == 'pissa':      # begins where it is: singular vectors as PEFT found them, not as they are found again here
    values = values | {f'{n[:-1]}fixed_{n[-1]}': x for n, x in values.items()}
  return strategy, *placed_in(*bind(jax.random.key(0), strategy, loaded.model, loaded.params), values, str(folder))


def their_logits(model, b, slots=0):
  """Of every position: a decoder reads packed lines, an encoder one document a line; the first `slots` are a soft prompt."""
  import torch
  if b.source_tokens is not None:
    return model(input_ids=b.source_tokens[:, slots:], attention_mask=(b.source_segments[:, slots:] > 0).long(),
                 decoder_input_ids=b.tokens).logits
  if model.active_peft_config.is_prompt_learning:
    return model(input_ids=b.tokens[:, slots:], attention_mask=(b.segments[:, slots:] > 0).long()).logits
  earlier = torch.ones(2 * b.tokens.shape[1:]).tril().bool()
  sees = earlier & (b.segments[:, None, :, None] == b.segments[:, None, None, :])
  mask = torch.zeros(sees.shape).masked_fill(~sees, torch.finfo(torch.float32).min)
  return model(input_ids=b.tokens, attention_mask=mask, position_ids=b.positions).logits


def their_losses(model, of_steps, learning_rate, weight_decay, slots=0, groups=None):
  import torch
  from torch.nn.functional import cross_entropy
  learn = groups(model) if groups else [p for p in model.parameters() if p.requires_grad]
  tx = torch.optim.AdamW(learn, lr=learning_rate, betas=(0.9, 0.999), eps=1e-8, weight_decay=weight_decay)
  losses = []
  for one in of_steps:
    b = jax.tree.map(lambda x: torch.tensor(x[0]), one)
    found = their_logits(model, b, slots)
    found = found.gather(1, b.index.long()[..., None].expand(-1, -1, found.shape[-1]))
    each = cross_entropy(found.flatten(0, 1), b.targets.long().flatten(), reduction='none')
    loss = (each * b.weights.flatten()).sum() / b.weights.sum()
    tx.zero_grad()
    loss.backward()
    tx.step()
    losses.append(loss.item())
  return losses


def batches_for(loaded, per_line, slots=0):
  """Two batches of one shape."""
  docs = documents(loaded, 8, longest=100 + slots, slots=slots)
  of_steps = [batch(docs[i:i + 4], 200, per_line) for i in (0, 4)]
  wide = max(one.targets.shape[-1] for one in of_steps)
  wider = lambda x: np.pad(x, ((0, 0), (0, 0), (0, wide - x.shape[-1])))
  return [one._replace(index=wider(one.index), targets=wider(one.targets), weights=wider(one.weights)) for one in of_steps]


def written(loaded, strategy, trainable, frozen, folder):
  """The folder as the export writes it."""
  learned = {n: np.asarray(x) for n, x in tree.leaves(trainable).items()}
  config, tensors, row = writing.write(tree.join(trainable, frozen), strategy, loaded.model.config, 'base', learned)
  folder.mkdir()
  folders.adapter(folder, config, tensors, {modules.RECORD: '{"strategy": {}, "base": {"sha256": "1"}}'})
  return row


def differences(loaded, model, variables, one, slots):
  """The largest difference between a position's logits in PEFT and here, and PEFT's standard deviation."""
  import torch
  b = jax.tree.map(lambda x: torch.tensor(x[0]), one)
  with torch.no_grad():
    theirs = their_logits(model, b, slots).numpy()
  ours, real = logits(loaded.model, variables, one), one.segments[0] > 0
  return np.abs(ours - theirs)[real].max(), theirs[real].std()


def is_refused_by_both(loaded, strategy, kind, fields, folder):
  """What PEFT cannot load is not written."""
  with pytest.raises(TypeError, match='is not supported'):
    with_peft(loaded, kind, **fields)
  with pytest.raises(InputError, match='PEFT rotates no inputs of gpt2'):
    written(loaded, strategy, *bind(jax.random.key(0), strategy, loaded.model, loaded.params), folder)


@pytest.mark.diagonal('name', 'method')
@pytest.mark.parametrize('name', ['llama-tiny', 'gpt2-tiny', 't5-odd'])
@pytest.mark.parametrize('method', METHODS)
def test_logits_losses_and_files_are_pefts(method, name, tmp_path):
  import peft as theirs
  loaded = scaled_up(name)
  row, kind, fields = METHODS[method]
  if name == 'gpt2-tiny' and fields.get('target_modules'):
    fields = fields | {'target_modules': GPT2_MODULES}      # PEFT's own all-linear takes the tied head with it
  if name == 'gpt2-tiny' and kind == 'OFTConfig':
    return is_refused_by_both(loaded, ROWS[row].make(fused=True), kind, fields, tmp_path)
  slots = SLOTS if method == 'prompt' else 0
  soft = 'num_virtual_tokens' in fields
  of_steps = batches_for(loaded, 1 if soft or name == 't5-odd' else 2, slots)

  # What PEFT wrote, read here.
  model = with_peft(loaded, kind, **fields)
  if method != 'pissa':                    # whose base is another once it has moved
    shaken(model)
  model.save_pretrained(tmp_path / 'theirs')
  strategy, trainable, frozen = ours_from(loaded, tmp_path / 'theirs')
  assert strategy.name == ROWS[row].name
  variables = tree.join(trainable, frozen)
  largest, spread = differences(loaded, model, variables, of_steps[0], slots)
  assert spread > 0.5 and largest < 1e-4
  base = logits(loaded.model, {'params': loaded.params}, of_steps[0]) if method != 'prompt' else None
  if base is not None and method != 'pissa':
    assert np.abs(logits(loaded.model, variables, of_steps[0]) - base).max() > 1e-2      # so the adapter is seen

  # Learning from there.
  if 'prefix_projection' not in fields:          # its file has no MLP any more
    state, _, tx = start(loaded, strategy, 3e-3, weight_decay=0.01)
    _, ours = take(loaded, state._replace(trainable=trainable), frozen, tx, of_steps * 5)
    np.testing.assert_allclose(ours, their_losses(model, of_steps * 5, 3e-3, 0.01, slots), rtol=1e-3)
    assert ours[-1] < ours[0]

  # What is written here, read by PEFT.
  record = written(loaded, strategy, trainable, frozen, tmp_path / 'ours')
  assert record['name'] == {'pissa': 'lora'}.get(strategy.name, strategy.name)
  again = theirs.PeftModel.from_pretrained(torch_twin(loaded), str(tmp_path / 'ours')).eval()
  expected = {n for n in theirs.get_peft_model_state_dict(again) if 'vera_A' not in n and 'vera_B' not in n}
  stored = safetensors.numpy.load_file(tmp_path / 'ours' / modules.TENSORS)
  assert expected == {n for n in stored if 'vera_A' not in n and 'vera_B' not in n}
  largest, _ = differences(loaded, again, variables, of_steps[0], slots)
  assert largest < 1e-4


def test_lora_plus_learns_at_pefts_two_rates(tiny, tmp_path):
  from peft.optimizers import create_loraplus_optimizer
  model = with_peft(tiny, **RANKED)
  model.save_pretrained(tmp_path / 'theirs')
  _, trainable, _ = ours_from(tiny, tmp_path / 'theirs')
  of_steps = batches_for(tiny, 2) * 5
  state, frozen, tx = start(tiny, table.lora_plus(rank=4, alpha=6.0, ratio=8.0), 1e-3)
  _, ours = take(tiny, state._replace(trainable=trainable), frozen, tx, of_steps)

  def groups(model):
    import torch
    tx = create_loraplus_optimizer(model, torch.optim.AdamW, lr=1e-3, loraplus_lr_ratio=8.0)
    return [{'params': g['params'], 'lr': g['lr']} for g in tx.param_groups if g['params']]
  np.testing.assert_allclose(ours, their_losses(model, of_steps, 1e-3, 0.0, groups=groups), rtol=1e-3)
  state, frozen, tx = start(tiny, table.lora(rank=4, alpha=6.0), 1e-3)
  _, plain = take(tiny, state._replace(trainable=trainable), frozen, tx, of_steps)
  assert abs(plain[-1] / ours[-1] - 1) > 1e-2      # so the ratio is seen


@pytest.mark.parametrize('name, module', [('llama-tiny', 'embed_tokens'), ('gpt2-tiny', 'wte')])
def test_lora_on_the_embedding_is_pefts(name, module, tmp_path):
  loaded = scaled_up(name)
  model = shaken(with_peft(loaded, r=4, lora_alpha=6, target_modules=[module]))
  model.save_pretrained(tmp_path / 'theirs')             # the embedding itself with it
  strategy, trainable, frozen = ours_from(loaded, tmp_path / 'theirs')
  assert 'embed/embedding' in strategy.fields['targets']
  [one, _] = batches_for(loaded, 1)
  largest, _ = differences(loaded, model, tree.join(trainable, frozen), one, 0)
  assert largest < 1e-4


@pytest.mark.parametrize('strategy', [table.lora(rank=3, targets='attn/[qv]/kernel,mlp'), table.ia3()], ids=lambda s: s.name)
def test_gpt2s_own_q_k_and_v_become_one_module_of_pefts(strategy, tmp_path):
  import peft as theirs
  loaded = scaled_up('gpt2-tiny')
  trainable, frozen = bind(jax.random.key(0), strategy, loaded.model, loaded.params)
  trainable = moved(trainable, seed=0)
  written(loaded, strategy, trainable, frozen, tmp_path / 'ours')
  again = theirs.PeftModel.from_pretrained(torch_twin(loaded), str(tmp_path / 'ours')).eval()
  largest, _ = differences(loaded, again, tree.join(trainable, frozen), batches_for(loaded, 2)[0], 0)
  assert largest < 1e-4


def test_pefts_prefix_of_a_t5_with_an_even_number_of_layers(tmp_path):
  """Two of its layers share one (see `soft.prefix_entries`): read so, and refused where ours have learned apart."""
  loaded = scaled_up('t5-tiny')
  model = shaken(with_peft(loaded, 'PrefixTuningConfig', num_virtual_tokens=SLOTS))
  model.save_pretrained(tmp_path / 'theirs')
  strategy, trainable, frozen = ours_from(loaded, tmp_path / 'theirs')
  largest, _ = differences(loaded, model, tree.join(trainable, frozen), batches_for(loaded, 1)[0], 0)
  assert largest < 1e-4
  written(loaded, strategy, trainable, frozen, tmp_path / 'ours')
  apart = tree.map_named(lambda n, x: x.at[0].add(1.0), trainable)
  with pytest.raises(InputError, match='the same prefix'):
    written(loaded, strategy, apart, frozen, tmp_path / 'apart')


def uneven(encoder, decoder):
  """t5-tiny with so many layers."""
  name = f't5-{encoder}-{decoder}'
  presets.PRESETS.setdefault(name, presets.PRESETS['t5-tiny'] | {'num_layers': encoder, 'num_decoder_layers': decoder})
  return scaled_up(name)


@pytest.mark.parametrize('encoder, decoder', [(3, 2), (4, 3)])
def test_pefts_prefix_of_a_t5_whose_encoder_is_deeper_is_for_the_encoders_layers(encoder, decoder, tmp_path):
  import peft as theirs
  loaded = uneven(encoder, decoder)
  model = shaken(with_peft(loaded, 'PrefixTuningConfig', num_virtual_tokens=SLOTS))
  model.save_pretrained(tmp_path / 'theirs')
  strategy, trainable, frozen = ours_from(loaded, tmp_path / 'theirs')
  [one, _] = batches_for(loaded, 1)
  largest, spread = differences(loaded, model, tree.join(trainable, frozen), one, 0)
  assert spread > 0.5 and largest < 1e-4
  written(loaded, strategy, trainable, frozen, tmp_path / 'ours')
  again = theirs.PeftModel.from_pretrained(torch_twin(loaded), str(tmp_path / 'ours')).eval()
  largest, _ = differences(loaded, again, tree.join(trainable, frozen), one, 0)
  assert largest < 1e-4


def test_a_prefix_for_a_t5_whose_decoder_is_deeper_is_refused_where_peft_fails(tmp_path):
  import torch
  loaded = uneven(2, 3)
  model = with_peft(loaded, 'PrefixTuningConfig', num_virtual_tokens=SLOTS)
  model.save_pretrained(tmp_path / 'theirs')
  with pytest.raises(IndexError):
    their_logits(model, jax.tree.map(lambda x: torch.tensor(x[0]), batches_for(loaded, 1)[0]))
  with pytest.raises(InputError, match=r'as many layers as the encoder has \(2\).*num_decoder_layers=3'):
    ours_from(loaded, tmp_path / 'theirs')
  strategy = table.prefix(SLOTS)
  with pytest.raises(InputError, match='--format=peft: PEFT makes a prefix'):
    written(loaded, strategy, *bind(jax.random.key(0), strategy, loaded.model, loaded.params), tmp_path / 'ours')


def test_pissa_by_a_randomised_svd_is_refused_with_pefts_conversion_which_loads(tmp_path):
  loaded = scaled_up('llama-tiny')
  model = with_peft(loaded, **RANKED | {'init_lora_weights': 'pissa_niter_4'})
  initial = tmp_path / 'initial'
  model.peft_config['default'].init_lora_weights = True      # as PEFT's example does it: A and B as they began
  model.save_pretrained(initial)
  model.peft_config['default'].init_lora_weights = 'pissa_niter_4'
  shaken(model)
  model.save_pretrained(tmp_path / 'theirs')
  with pytest.raises(InputError, match=r"init_lora_weights='pissa_niter_4' is not supported.*"
                                       'path_initial_model_for_weight_conversion=INITIAL'):
    ours_from(loaded, tmp_path / 'theirs')
  model.save_pretrained(tmp_path / 'converted', path_initial_model_for_weight_conversion=str(initial))
  strategy, trainable, frozen = ours_from(loaded, tmp_path / 'converted')
  assert strategy.name == 'lora'
  largest, spread = differences(loaded, model, tree.join(trainable, frozen), batches_for(loaded, 1)[0], 0)
  assert spread > 0.5 and largest < 1e-3


BY_LAYER = {   # what is said -> a model, PEFT's settings, the row that it is
    'some layers': ('llama-tiny', {'layers_to_transform': [1]}, 'lora'),
    'ranks by layer': ('llama-tiny', {'rank_pattern': {r'layers\.0\..*': 2, r'layers\.2\.mlp.*': 7}}, 'lora'),
    'alphas by layer': ('gpt2-tiny', {'alpha_pattern': {r'h\.1\..*': 17}, 'rank_pattern': {r'h\.2\..*': 6}}, 'lora'),
    'rsLoRA with ranks by layer': ('llama-tiny', {'rank_pattern': {r'layers\.0\..*': 9}, 'use_rslora': True}, 'rslora'),
    'DoRA with rsLoRA': ('llama-tiny', {'use_dora': True, 'use_rslora': True}, 'dora'),
    'DoRA with rsLoRA and ranks by layer': ('llama-tiny', {'use_dora': True, 'use_rslora': True,
                                                           'rank_pattern': {r'layers\.1\..*q_proj': 2}}, 'dora')}


@pytest.mark.parametrize('what', BY_LAYER)
def test_adapters_that_differ_between_layers_compute_what_pefts_do(what, tmp_path):
  name, fields, row = BY_LAYER[what]
  loaded = scaled_up(name)
  targets = GPT2_MODULES if name == 'gpt2-tiny' else LLAMA_MODULES
  model = shaken(with_peft(loaded, **RANKED | {'target_modules': targets} | fields))
  model.save_pretrained(tmp_path / 'theirs')
  strategy, trainable, frozen = ours_from(loaded, tmp_path / 'theirs')
  assert strategy.name == row
  [one, _] = batches_for(loaded, 1)
  largest, spread = differences(loaded, model, tree.join(trainable, frozen), one, 0)
  assert spread > 0.5 and largest < 1e-4
  assert len(reading.read(tmp_path / 'theirs', loaded.model.config, names.shapes(loaded.model.config)).notes) == (
      what != 'DoRA with rsLoRA')


def test_what_fills_up_missing_layers_and_ranks_stays_zero_and_the_losses_are_pefts(tmp_path):
  loaded = scaled_up('llama-tiny')
  fields = {'layers_to_transform': [0, 2], 'rank_pattern': {r'layers\.0\..*': 2}, 'alpha_pattern': {r'layers\.0\..*': 3}}
  model = with_peft(loaded, **RANKED | {'target_modules': LLAMA_MODULES} | fields)      # alpha over rank is 1.5 in both
  model.save_pretrained(tmp_path / 'theirs')
  strategy, trainable, frozen = ours_from(loaded, tmp_path / 'theirs')
  of_steps = batches_for(loaded, 2) * 3
  state, _, tx = start(loaded, strategy, 3e-3, weight_decay=0.01)
  state, ours = take(loaded, state._replace(trainable=trainable), frozen, tx, of_steps)
  np.testing.assert_allclose(ours, their_losses(model, of_steps, 3e-3, 0.01), rtol=1e-3)
  for path, x in tree.leaves(state.trainable).items():
    assert not np.any(x[1]) and np.any(x[2]), path
    assert not np.any(x[0][:, 2:] if path.endswith('/a') else x[0][2:]), path


WHOLE = {   # what is said -> a model, PEFT's settings, what `also` says
    'head': ('llama-untied', {'modules_to_save': ['lm_head']}, 'head'),
    'head and embedding': ('llama-untied', {'modules_to_save': ['embed_tokens', 'lm_head']}, 'embed,head'),
    'a norm': ('llama-tiny', {'modules_to_save': ['model.norm']}, '^norm/scale$'),
    'tied embedding': ('llama-tiny', {'modules_to_save': ['embed_tokens'], 'ensure_weight_tying': True}, 'embed'),
    'all biases': ('gpt2-tiny', {'bias': 'all'}, 'bias'),
    'biases of what changes': ('gpt2-tiny', {'bias': 'lora_only', 'target_modules': ['c_fc']}, '^layers/mlp/up/bias$'),
    'biases where there are none': ('llama-tiny', {'bias': 'all'}, ''),
    'DoRA and a head': ('llama-untied', {'use_dora': True, 'modules_to_save': ['lm_head']}, 'head')}


@pytest.mark.parametrize('what', WHOLE)
def test_what_learned_in_full_beside_an_adapter_goes_from_peft_and_back(what, tmp_path):
  import peft as theirs
  name, fields, also = WHOLE[what]
  presets.PRESETS.setdefault('llama-untied', presets.PRESETS['llama-tiny'] | {'tie_word_embeddings': False})
  loaded = scaled_up(name)
  targets = {'target_modules': GPT2_MODULES} if name == 'gpt2-tiny' else {'target_modules': ['q_proj', 'down_proj']}
  model = shaken(with_peft(loaded, **RANKED | targets | fields))
  model.save_pretrained(tmp_path / 'theirs')
  strategy, trainable, frozen = ours_from(loaded, tmp_path / 'theirs')
  assert strategy.fields['also'] == also
  variables, [one, _] = tree.join(trainable, frozen), batches_for(loaded, 1)
  largest, spread = differences(loaded, model, variables, one, 0)
  assert spread > 0.5 and largest < 1e-4
  row = written(loaded, strategy, trainable, frozen, tmp_path / 'ours')
  assert row['also'] == also
  again = theirs.PeftModel.from_pretrained(torch_twin(loaded), str(tmp_path / 'ours')).eval()
  largest, _ = differences(loaded, again, variables, one, 0)
  assert largest < 1e-4
  back, _, _ = ours_from(loaded, tmp_path / 'ours')
  assert back.fields['also'] == also


@pytest.mark.parametrize('name, fields, says', [
    ('llama-tiny', {'modules_to_save': ['lm_head']}, 'gives the head of a model with tied embeddings weights of its own'),
    ('llama-tiny', {'modules_to_save': ['embed_tokens']}, 'ensure_weight_tying=True'),
    ('llama-tiny', {'modules_to_save': ['o_proj']}, "a layer's kernels learn in full by strategy full alone"),
    ('llama-tiny', {'use_dora': True, 'layers_to_transform': [1]}, 'holds 1 of the 3 layers'),
    ('llama-tiny', {'init_lora_weights': 'pissa', 'use_dora': True}, 'only one of use_dora and init_lora_weights=pissa')])
def test_what_peft_makes_of_single_parameters_and_layers_and_has_no_form_here_is_refused(name, fields, says, tmp_path):
  loaded = scaled_up(name)
  with_peft(loaded, **RANKED | {'target_modules': ['q_proj', 'down_proj']} | fields).save_pretrained(tmp_path / 'theirs')
  with pytest.raises(InputError, match=says):
    ours_from(loaded, tmp_path / 'theirs')


@pytest.mark.smollm2
def test_twenty_losses_of_lora_equal_pefts_on_smollm2(smollm2, tmp_path):
  docs = documents(smollm2, 8, 'sentiment', longest=32)
  of_steps = [batch(docs[i:i + 2], 32) for i in (0, 2, 4, 6)] * 5
  model = with_peft(smollm2, r=8, lora_alpha=16, target_modules='all-linear')
  model.save_pretrained(tmp_path / 'theirs', save_embedding_layers=False)
  strategy, trainable, _ = ours_from(smollm2, tmp_path / 'theirs')
  state, frozen, tx = start(smollm2, strategy, 5e-4, weight_decay=0.01)
  _, ours = take(smollm2, state._replace(trainable=trainable), frozen, tx, of_steps)
  assert ours[-1] < 0.9 * ours[0]
  np.testing.assert_allclose(ours, their_losses(model, of_steps, 5e-4, 0.01), rtol=1e-3)


def test_a_new_delta_is_distributed_as_pefts(tiny, tmp_path):
  with_peft(tiny, r=32, lora_alpha=16, target_modules='all-linear').save_pretrained(tmp_path / 'theirs')
  strategy, trainable, _ = ours_from(tiny, tmp_path / 'theirs')
  theirs, (state, _, _) = tree.leaves(trainable), start(tiny, strategy)
  for name, ours in tree.leaves(state.trainable).items():
    if name.endswith('/b'):
      assert not np.any(ours) and not np.any(theirs[name])
    else:
      bound = 1 / math.sqrt(ours.shape[-2])
      for x in (ours, theirs[name]):
        assert 0.98 * bound < np.abs(x).max() <= bound
        assert np.isclose(x.std(), bound / math.sqrt(3), rtol=0.03) and abs(x.mean()) < 0.03 * bound


def test_lora_without_a_key_equals_pefts_layer_in_evaluation():
  import peft as theirs
  import torch
  base = torch.nn.Sequential(torch.nn.Linear(24, 40, bias=False))
  model = theirs.get_peft_model(base, theirs.LoraConfig(r=4, lora_alpha=12, lora_dropout=0.5, target_modules=['0'],
                                                        init_lora_weights=False)).eval()
  weights = [model.state_dict()[f'base_model.model.0.{n}.weight'].numpy().T
             for n in ('base_layer', 'lora_A.default', 'lora_B.default')]
  kernel, a, b = map(jnp.asarray, weights)
  x = np.random.default_rng(0).normal(size=(2, 3, 24)).astype(np.float32)
  delta = deltas.LowRank(a, b, jnp.float32(0.5), 12 / 4)
  np.testing.assert_allclose(delta(jnp.asarray(x), kernel, None), model(torch.tensor(x)).detach(), rtol=1e-4, atol=1e-5)
  assert np.abs(delta(jnp.asarray(x), kernel, None, jax.random.key(0)) - delta(jnp.asarray(x), kernel, None)).max() > 0.1
