"""Phi-3: Llama with q, k, v in one tensor, and gate and up in another (Abdin et al. 2024, arXiv 2404.14219)."""

from functools import partial

from research.errors import InputError
from research.models.config import Kind, ModelConfig
from research.models.families import llama
from research.models.fields import Fields
from research.models.names import FREQUENCIES, Family


def config(f: Fields) -> ModelConfig:
  given = f.mapping('rope_scaling') or f.mapping('rope_parameters')
  kind = given.get('rope_type', given.get('type', 'default'))
  if kind != 'default':                        # in Phi-3's files 'su' and 'yarn' are older names of longrope
    raise InputError(f'{f.where}: rope_type={kind!r} (longrope) is not supported for phi3 (known: default)')
  found = llama.base('phi3', f, share=1.0, tied=f.flag('tie_word_embeddings'), norm_eps=f.number('rms_norm_eps', 1e-5))
  return ModelConfig(**found | dict(layer_kinds=(Kind(f.window(None) or 0, found['layer_kinds'][0].rope),)))


rows = partial(llama.rows, kernels={
    ('attn/q', 'attn/k', 'attn/v'): 'self_attn.qkv_proj', 'attn/o': 'self_attn.o_proj',
    ('mlp/gate', 'mlp/up'): 'mlp.gate_up_proj', 'mlp/down': 'mlp.down_proj'})
FAMILY = Family('phi3', config, rows, 'Phi3ForCausalLM', prefix='model.', ignored=FREQUENCIES)
