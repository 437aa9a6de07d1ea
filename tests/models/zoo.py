"""Small random models of every family: a config.json that takes each of its branches, and how to switch a branch off."""

import dataclasses

import numpy as np

from research.models.config import Kind
from research.models.positions import still


def _llama(**fields):
  return dict(model_type='llama', vocab_size=270, hidden_size=48, intermediate_size=80, num_hidden_layers=3,
              num_attention_heads=6, num_key_value_heads=2, head_dim=10, max_position_embeddings=128,
              tie_word_embeddings=False) | fields


def _rope(kind, **fields):
  return dict(rope_parameters={'rope_type': kind, 'rope_theta': 50_000.0} | fields)


_GEMMA = dict(vocab_size=270, hidden_size=48, intermediate_size=80, num_hidden_layers=4, num_attention_heads=6,
              num_key_value_heads=2, head_dim=10, max_position_embeddings=128)
_T5 = dict(vocab_size=270, d_model=40, d_kv=12, d_ff=64, num_layers=2, num_decoder_layers=3, num_heads=4,
           relative_attention_num_buckets=8, relative_attention_max_distance=16, decoder_start_token_id=0, pad_token_id=0,
           eos_token_id=1)

CONFIGS = {
    'llama': _llama(attention_bias=True, mlp_bias=True),
    'llama-tied': _llama(tie_word_embeddings=True, num_key_value_heads=6, hidden_act='gelu'),
    'llama-linear': _llama(**_rope('linear', factor=4.0)),
    'llama-llama3': _llama(**_rope('llama3', factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                   original_max_position_embeddings=64)),
    'llama-yarn': _llama(**_rope('yarn', factor=4.0, original_max_position_embeddings=32)),
    'llama-dynamic': _llama(max_position_embeddings=16, **_rope('dynamic', factor=4.0)),
    'mistral': _llama(model_type='mistral', sliding_window=7),
    'qwen2': _llama(model_type='qwen2', use_sliding_window=True, sliding_window=6, max_window_layers=1) | {'head_dim': 8},
    'qwen3': _llama(model_type='qwen3', attention_bias=True, use_sliding_window=True, sliding_window=6, max_window_layers=2),
    'gpt2': dict(model_type='gpt2', vocab_size=270, n_embd=48, n_layer=3, n_head=6, n_positions=64, n_inner=80),
    'gemma': dict(model_type='gemma', attention_bias=True) | _GEMMA,
    'gemma2': dict(model_type='gemma2', sliding_window=6, query_pre_attn_scalar=24, attn_logit_softcapping=3.0,
                   final_logit_softcapping=4.0) | _GEMMA,
    'gemma3_text': dict(model_type='gemma3_text', sliding_window=6, query_pre_attn_scalar=24, rope_parameters={
        'full_attention': {'rope_type': 'linear', 'factor': 8.0, 'rope_theta': 1e6},
        'sliding_attention': {'rope_type': 'default', 'rope_theta': 1e4}},
        layer_types=['sliding_attention', 'sliding_attention', 'full_attention', 'sliding_attention']) | _GEMMA,
    'gpt_neox': dict(model_type='gpt_neox', vocab_size=270, hidden_size=48, intermediate_size=80, num_hidden_layers=3,
                     num_attention_heads=4, max_position_embeddings=64,
                     rope_parameters={'rope_type': 'default', 'rope_theta': 1e4, 'partial_rotary_factor': 0.5}),
    'gpt_neox-serial': dict(model_type='gpt_neox', vocab_size=270, hidden_size=48, intermediate_size=80, num_hidden_layers=2,
                            num_attention_heads=4, max_position_embeddings=64, use_parallel_residual=False,
                            attention_bias=False, tie_word_embeddings=True),
    'smollm3': _llama(model_type='smollm3', no_rope_layers=[1, 0, 1], use_sliding_window=True, sliding_window=5,
                      pad_token_id=0, bos_token_id=1, eos_token_id=2) | {'head_dim': 8},
    'olmo2': _llama(model_type='olmo2') | {'head_dim': 8},
    'phi3': _llama(model_type='phi3', sliding_window=7, pad_token_id=0, bos_token_id=1, eos_token_id=2) | {'head_dim': 8},
    't5': dict(model_type='t5', feed_forward_proj='relu', tie_word_embeddings=True) | _T5,
    't5-1.1': dict(model_type='t5', feed_forward_proj='gated-gelu', tie_word_embeddings=False) | _T5,
    'mt5': dict(model_type='mt5', feed_forward_proj='gated-gelu') | _T5,
    'umt5': dict(model_type='umt5', feed_forward_proj='gated-gelu', tie_word_embeddings=False) | _T5,
}
SEPARATE_HEADS = ('t5-1.1', 'mt5', 'umt5')    # transformers ties them all; files on the hub hold two tensors


def _kinds(change):
  return lambda c: dataclasses.replace(c, layer_kinds=tuple(change(kind) for kind in c.layer_kinds))


def _without(**fields):
  return lambda c: dataclasses.replace(c, **fields)


def _no_rope(kind: Kind) -> Kind:
  return kind._replace(rope=still(2 * len(kind.rope.inverse)))


_PLAIN = {'rope': _kinds(_no_rope), 'activation': _without(activation='relu')}
_WINDOW = {'window': _kinds(lambda kind: kind._replace(window=0))}
_DEFAULT_ROPE = {'scaling': _kinds(lambda kind: kind._replace(rope=kind.rope._replace(
    inverse=tuple(50_000.0 ** -(np.arange(0, 10, 2) / 10)), scale=1.0, dynamic=None)))}

# family -> {branch: the config without it}; the parameters stay as they are.
BRANCHES = {
    'llama': _PLAIN, 'llama-tied': _PLAIN, 'llama-linear': _DEFAULT_ROPE, 'llama-llama3': _DEFAULT_ROPE,
    'llama-yarn': _DEFAULT_ROPE | {'warmth': _kinds(lambda kind: kind._replace(rope=kind.rope._replace(scale=1.0)))},
    'llama-dynamic': _DEFAULT_ROPE, 'mistral': _PLAIN | _WINDOW, 'qwen2': _PLAIN | _WINDOW, 'qwen3': _PLAIN | _WINDOW,
    'gpt2': {'activation': _without(activation='relu')},
    'gemma': _PLAIN | {'1 + scale': _without(norm_offset=0.0), 'embedding scale': _without(embed_scale=1.0)},
    'gemma2': _PLAIN | _WINDOW | {
        '1 + scale': _without(norm_offset=0.0), 'embedding scale': _without(embed_scale=1.0),
        'attention cap': _without(attention_cap=0.0), 'logit cap': _without(logit_cap=0.0),
        'query scale': _without(query_scale=None)},
    'gemma3_text': _PLAIN | _WINDOW | {
        '1 + scale': _without(norm_offset=0.0), 'query scale': _without(query_scale=None),
        'ropes of their own': lambda c: dataclasses.replace(
            c, layer_kinds=(c.layer_kinds[0], c.layer_kinds[1]._replace(rope=c.layer_kinds[0].rope)))},
    'gpt_neox': _PLAIN | {'parallel': _without(parallel=False)},
    'gpt_neox-serial': {'serial': _without(parallel=True)},
    'smollm3': _PLAIN | _WINDOW | {'NoPE': lambda c: dataclasses.replace(c, layer_kinds=tuple(
        kind._replace(rope=c.layer_kinds[0].rope) for kind in c.layer_kinds))},
    'olmo2': _PLAIN, 'phi3': _PLAIN | _WINDOW,
    't5': {'head scale': _without(logit_scale=1.0), 'distances': _without(max_distance=8),
           'scores': _without(query_scale=None), 'activation': _without(activation='silu')},
    't5-1.1': {'distances': _without(max_distance=8), 'scores': _without(query_scale=None),
               'activation': _without(activation='relu')},
    'mt5': {'distances': _without(max_distance=8), 'scores': _without(query_scale=None)},
    'umt5': {'distances': _without(max_distance=8), 'scores': _without(query_scale=None)},
}


def torch_model(name, seed=0):
  """transformers' own model, its weights so large that the logits' standard deviation is above 1."""
  import torch
  from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM
  fields = dict(CONFIGS[name])
  config = AutoConfig.for_model(fields.pop('model_type'), **fields)
  config._attn_implementation = 'eager'
  kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
  model = kind.from_config(config).eval().float()
  if name in SEPARATE_HEADS:
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
  generator = torch.Generator().manual_seed(seed)
  draw = lambda like: torch.randn(like.shape, generator=generator)
  offset = 0.0 if name.startswith('gemma') else 1.0
  with torch.no_grad():
    for path, x in model.named_parameters():
      if x.ndim == 1:
        norm = path.endswith('weight')
        x.copy_(draw(x) * (0.2 if norm else 0.3) + (offset if norm else 0.0))
      elif 'relative_attention_bias' in path:
        x.copy_(draw(x))
      else:
        inputs = x.shape[0] if 'gpt2' in name and '.h.' in path else x.shape[1]
        scaled = name == 't5' and path in ('shared.weight', 'lm_head.weight')    # what the head divides by √D
        inputs = 1 if scaled else inputs
        gain = 0.7 if config.is_encoder_decoder and path.split('.')[-2] in ('q', 'k') else 1.5
        x.copy_(draw(x) * gain / inputs ** 0.5)
  return model
