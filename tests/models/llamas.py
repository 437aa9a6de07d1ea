"""Small random Llamas in the layouts of the outside world, written with nothing of research/models."""

import json
import math

import jax
import numpy as np
import safetensors.numpy

from research.data import tokenizer as tokenizers
from research.data.batch import Batch
from research.models.config import Execution

FLOAT32 = Execution('float32', 'float32', True)

CONFIGS = {   # grouped, separate and single key heads; tied and untied; widths that are no power of two
    'grouped_tied': dict(vocab_size=263, hidden_size=54, intermediate_size=77, num_hidden_layers=3,
                         num_attention_heads=6, num_key_value_heads=2, head_dim=10, tie_word_embeddings=True,
                         rope_theta=10_000.0, rms_norm_eps=1e-5),
    'separate_untied': dict(vocab_size=270, hidden_size=40, intermediate_size=96, num_hidden_layers=2,
                            num_attention_heads=4, num_key_value_heads=4, head_dim=10, tie_word_embeddings=False,
                            rope_theta=100_000.0, rms_norm_eps=1e-6),
    'single_untied': dict(vocab_size=261, hidden_size=55, intermediate_size=33, num_hidden_layers=3,
                          num_attention_heads=5, num_key_value_heads=1, head_dim=14, tie_word_embeddings=False,
                          rope_theta=500.0, rms_norm_eps=1e-3),
}


def hf_config(config):
  """config.json as Hugging Face writes it."""
  rope = {'rope_type': 'default', 'rope_theta': config['rope_theta']}
  return {'model_type': 'llama', 'architectures': ['LlamaForCausalLM'], 'hidden_act': 'silu',
          'max_position_embeddings': 128, **config, 'rope_parameters': rope}


def weights(config, seed=0):
  """Tensors under Hugging Face's names, so large that the logits' standard deviation is above 1."""
  c, rng = config, np.random.default_rng(seed)
  D, F = c['hidden_size'], c['intermediate_size']
  q, kv = c['num_attention_heads'] * c['head_dim'], c['num_key_value_heads'] * c['head_dim']
  matrix = lambda out, inputs: (rng.normal(size=(out, inputs)) * 1.5 / math.sqrt(inputs)).astype(np.float32)
  scale = lambda: (1 + 0.2 * rng.normal(size=D)).astype(np.float32)
  found = {'model.embed_tokens.weight': matrix(c['vocab_size'], D), 'model.norm.weight': scale()}
  for n in range(c['num_hidden_layers']):
    layer = {'self_attn.q_proj': matrix(q, D), 'self_attn.k_proj': matrix(kv, D), 'self_attn.v_proj': matrix(kv, D),
             'self_attn.o_proj': matrix(D, q), 'mlp.gate_proj': matrix(F, D), 'mlp.up_proj': matrix(F, D),
             'mlp.down_proj': matrix(D, F), 'input_layernorm': scale(), 'post_attention_layernorm': scale()}
    found |= {f'model.layers.{n}.{name}.weight': x for name, x in layer.items()}
  if not c['tie_word_embeddings']:
    found['lm_head.weight'] = matrix(c['vocab_size'], D)
  return found


def write_folder(folder, config, tensors, shards=1):
  """A folder in Hugging Face's layout with the byte tokenizer; gives its path as text."""
  folder.mkdir(parents=True, exist_ok=True)
  (folder / 'config.json').write_text(json.dumps(hf_config(config)))
  tokenizers.of_bytes().hf.save_pretrained(folder)
  if shards == 1:
    safetensors.numpy.save_file(tensors, folder / 'model.safetensors')
  else:
    names = sorted(tensors)
    files = {f'model-{i + 1:05}-of-{shards:05}.safetensors': names[i::shards] for i in range(shards)}
    for file, some in files.items():
      safetensors.numpy.save_file({n: tensors[n] for n in some}, folder / file)
    index = {'metadata': {}, 'weight_map': {n: file for file, some in files.items() for n in some}}
    (folder / 'model.safetensors.index.json').write_text(json.dumps(index))
  return str(folder)


def write_gguf(file, config, tensors, pre='smollm', architecture='llama', quantised=False):
  """The same model as llama.cpp's converter writes it, in F32 or its matrices in Q8_0; gives the path as text."""
  import gguf
  c = config
  names = {'model.embed_tokens': 'token_embd', 'model.norm': 'output_norm', 'lm_head': 'output',
           'self_attn.q_proj': 'attn_q', 'self_attn.k_proj': 'attn_k', 'self_attn.v_proj': 'attn_v',
           'self_attn.o_proj': 'attn_output', 'mlp.gate_proj': 'ffn_gate', 'mlp.up_proj': 'ffn_up',
           'mlp.down_proj': 'ffn_down', 'input_layernorm': 'attn_norm', 'post_attention_layernorm': 'ffn_norm'}
  w = gguf.GGUFWriter(file, architecture)
  w.add_vocab_size(c['vocab_size'])
  w.add_context_length(128)
  w.add_embedding_length(c['hidden_size'])
  w.add_feed_forward_length(c['intermediate_size'])
  w.add_block_count(c['num_hidden_layers'])
  w.add_head_count(c['num_attention_heads'])
  w.add_head_count_kv(c['num_key_value_heads'])
  w.add_key_length(c['head_dim'])
  w.add_value_length(c['head_dim'])
  w.add_rope_dimension_count(c['head_dim'])
  w.add_rope_freq_base(c['rope_theta'])
  w.add_layer_norm_rms_eps(c['rms_norm_eps'])
  alphabet = sorted(tokenizers.of_bytes().hf.get_vocab().items(), key=lambda x: x[1])
  tokens = [t for t, _ in alphabet] + ['Ġt']
  w.add_tokenizer_model('gpt2')
  w.add_tokenizer_pre(pre)
  w.add_token_list(tokens)
  w.add_token_types([3 if t in ('<bos>', '<eos>', '<pad>') else 1 for t in tokens])
  w.add_token_merges(['Ġ t'])
  w.add_bos_token_id(256)
  w.add_eos_token_id(257)
  w.add_add_bos_token(True)
  for name, x in tensors.items():
    base = name.removesuffix('.weight')
    block, _, part = base.removeprefix('model.layers.').partition('.')
    base = f'blk.{block}.{names[part]}' if name.startswith('model.layers.') else names[base]
    heads = {'q_proj': c['num_attention_heads'], 'k_proj': c['num_key_value_heads']}.get(part.split('.')[-1])
    if heads:   # rotary pairs side by side, as in convert_hf_to_gguf.py
      x = x.reshape(heads, 2, x.shape[0] // heads // 2, x.shape[1]).swapaxes(1, 2).reshape(x.shape)
    if quantised and x.ndim == 2:
      q8 = gguf.GGMLQuantizationType.Q8_0
      w.add_tensor(f'{base}.weight', gguf.quantize(x, q8), raw_dtype=q8)
    else:
      w.add_tensor(f'{base}.weight', np.ascontiguousarray(x))
  w.write_header_to_file()
  w.write_kv_data_to_file()
  w.write_tensors_to_file()
  w.close()
  return str(file)


def lone(ids):
  """A batch of whole sequences [B, L] that share their lines with nothing."""
  ids = np.array(ids, np.int32)
  positions = np.broadcast_to(np.arange(ids.shape[1], dtype=np.int32), ids.shape)
  return Batch(ids, positions, np.ones_like(ids))


def logits(model, params, ids):
  """[B, L, V] of whole sequences."""
  forward = jax.jit(lambda v, batch: model.logits(v, model.hidden(v, batch)))
  return np.asarray(forward({'params': params}, lone(ids)))
