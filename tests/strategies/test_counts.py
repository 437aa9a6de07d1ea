"""How many parameters learn, on the shapes of real models: nothing is allocated."""

import jax
import pytest

from research import tree
from research.models import functions, names
from research.models.families import FAMILIES
from research.models.functions import build, split_last_layers
from research.strategies import table
from research.strategies.bind import bind

LLAMA_3_8B = dict(model_type='llama', vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
                  num_attention_heads=32, num_key_value_heads=8, max_position_embeddings=8192, rms_norm_eps=1e-5,
                  rope_theta=500000.0, tie_word_embeddings=False)
GPT2_MEDIUM = dict(model_type='gpt2', vocab_size=50257, n_embd=1024, n_layer=24, n_head=16, n_positions=1024,
                   tie_word_embeddings=True)
MODELS = {'llama': LLAMA_3_8B, 'gpt2': GPT2_MEDIUM}
MODULES = {'llama': 'all-linear', 'gpt2': ['c_attn', 'c_proj', 'c_fc']}


def learning(model, name, **fields):
  """How many parameters learn of a strategy on these shapes."""
  hf = MODELS[model]
  config = names.config_of(FAMILIES[hf['model_type']], hf, model, not hf['tie_word_embeddings'])
  strategy = table.make(name, fields)

  def trainable(key):
    apart, params = split_last_layers(config, functions.build(config).init(key), strategy.last_layers)
    return bind(key, strategy, build(apart), params)[0]
  return tree.size(jax.eval_shape(trainable, jax.random.key(0)))


def pefts(model, kind, **fields):
  import peft
  import torch
  from transformers import AutoConfig, AutoModelForCausalLM
  with torch.device('meta'):
    base = AutoModelForCausalLM.from_config(AutoConfig.for_model(**MODELS[model]))
    return peft.get_peft_model(base, getattr(peft, kind)(task_type='CAUSAL_LM', **fields)).get_nb_trainable_parameters()[0]


@pytest.mark.parity
@pytest.mark.parametrize('model', MODELS)
@pytest.mark.parametrize('name, fields, kind, theirs', [
    ('lora', {'rank': 8}, 'LoraConfig', {'r': 8}),
    ('lora', {'rank': 4, 'targets': 'peft'}, 'LoraConfig', {'r': 4, 'target_modules': None}),
    ('rslora', {'rank': 16}, 'LoraConfig', {'r': 16, 'use_rslora': True}),
    ('dora', {'rank': 8}, 'LoraConfig', {'r': 8, 'use_dora': True}),
    ('vera', {'rank': 256}, 'VeraConfig', {'r': 256}),
    ('ia3', {}, 'IA3Config', {'target_modules': None}),
    ('prompt', {'slots': 20}, 'PromptTuningConfig', {'num_virtual_tokens': 20}),
    ('prefix', {'slots': 20}, 'PrefixTuningConfig', {'num_virtual_tokens': 20}),
    ('prefix', {'slots': 20, 'hidden': 512}, 'PrefixTuningConfig',
     {'num_virtual_tokens': 20, 'prefix_projection': True, 'encoder_hidden_size': 512})])
def test_what_learns_is_as_many_as_pefts(model, name, fields, kind, theirs):
  if kind in ('LoraConfig', 'VeraConfig') and 'target_modules' not in theirs:
    theirs = theirs | {'target_modules': MODULES[model]}
  if model == 'gpt2' and name in ('lora', 'rslora', 'dora', 'vera'):
    fields = fields | {'fused': True}
  if model == 'gpt2' and name == 'ia3':
    fields = {'targets': 'peft'}
  assert learning(model, name, **fields) == pefts(model, kind, **theirs)


D, F, N, K, V = 4096, 14336, 32, 1024, 128256      # Llama-3-8B: width, hidden, layers, outputs of k and v, vocabulary
LAYER = 2 * D * D + 2 * D * K + 3 * D * F + 2 * D


@pytest.mark.parametrize('name, fields, expected', [
    ('full', {}, N * LAYER + 2 * V * D + D),
    ('last_layers', {'layers': 2}, 2 * LAYER),
    ('bitfit', {}, N * (2 * D + 2 * K + 2 * F + D)),
    ('lora_plus', {'rank': 8}, N * 8 * (4 * D + 2 * (D + K) + 3 * (D + F))),
    ('pissa', {'rank': 8}, N * 8 * (4 * D + 2 * (D + K) + 3 * (D + F))),
    ('adapter', {'width': 64}, N * 2 * (2 * 64 * D + 64 + D)),
    ('adapter', {'width': 64, 'placement': 'pfeiffer'}, N * (2 * 64 * D + 64 + D)),
    ('adapter', {'width': 64, 'placement': 'parallel'}, N * (2 * 64 * D + 64 + D)),
    ('few_shot', {}, 0)])
def test_what_learns_is_the_papers_formula_on_llama_3_8b(name, fields, expected):
  assert learning('llama', name, **fields) == expected


@pytest.mark.parametrize('name, fields, expected', [
    ('full', {}, 354_823_168),
    ('lora', {'rank': 4, 'targets': 'attn/[qv]/kernel'}, 393_216),      # Hu et al. 2021, table 3: 0.35 M
    ('last_layers', {'layers': 2}, 25_192_448),                         # there: 25.19 M
    ('bitfit', {}, 24 * (4 * 1024 + 4096 + 1024 + 2 * 1024) + 1024),
    ('adapter', {'width': 64}, 24 * 2 * (2 * 64 * 1024 + 64 + 1024))])
def test_what_learns_is_the_papers_formula_on_gpt2_medium(name, fields, expected):
  assert learning('gpt2', name, **fields) == expected
