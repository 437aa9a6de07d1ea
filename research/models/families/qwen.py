"""Qwen2 and 2.5: Llama with biases on q, k and v (arXiv 2407.10671); Qwen3: norms of queries and keys (arXiv 2505.09388)."""

from typing import Any

from research.models import header_fields
from research.models.config import ModelConfig
from research.models.families import llama
from research.models.fields import Fields
from research.models.header import Header
from research.models.names import FREQUENCIES, Family


def _sliding(f: Fields, found: dict[str, Any]) -> dict[str, Any]:
  uses = f.flag('use_sliding_window')
  window = f.window(4096)
  first = f.count('max_window_layers', 28)
  layers = found['layers']
  return llama.windowed(f, layers, window if uses else None, [n >= first for n in range(layers)], found['layer_kinds'][0].rope)


def qwen2(f: Fields) -> ModelConfig:
  found = llama.base('qwen2', f, tied=f.flag('tie_word_embeddings'), biases=('attn/q', 'attn/k', 'attn/v'))
  return ModelConfig(**found | _sliding(f, found))


def qwen3(f: Fields) -> ModelConfig:
  found = llama.base('qwen3', f, tied=f.flag('tie_word_embeddings'), qk_norm='head', head_dim=f.size('head_dim', 128),
                     biases=llama.ATTENTION if f.flag('attention_bias') else ())
  return ModelConfig(**found | _sliding(f, found))


def gguf(h: Header) -> dict[str, Any]:
  biases = {'attention_bias': 'blk.0.attn_q.bias' in h.tensors} if h.architecture == 'qwen3' else {}
  return {'model_type': h.architecture, **biases, **h.decoder()}


def to_gguf3(c: ModelConfig, hf: dict[str, Any]) -> dict[str, Any]:
  header_fields.without_biases(c)
  return header_fields.decoder(c, hf)


QWEN2 = Family('qwen2', qwen2, llama.rows, 'Qwen2ForCausalLM', prefix='model.', ignored=FREQUENCIES, gguf=gguf,
               to_gguf=header_fields.decoder)
QWEN3 = Family('qwen3', qwen3, llama.rows, 'Qwen3ForCausalLM', prefix='model.', ignored=FREQUENCIES, gguf=gguf,
               to_gguf=to_gguf3)
