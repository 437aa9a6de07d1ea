"""OLMo 2: norms after the sublayers, not before, and of queries and keys (OLMo et al. 2024, arXiv 2501.00656)."""

from functools import partial

from research.models.config import ModelConfig
from research.models.families import llama
from research.models.fields import Fields
from research.models.names import FREQUENCIES, Family


def config(f: Fields) -> ModelConfig:
  return ModelConfig(**llama.base(
      'olmo2', f, tied=f.flag('tie_word_embeddings'), norms=('after',), qk_norm='heads',
      norm_eps=f.number('rms_norm_eps', 1e-5), biases=llama.ATTENTION if f.flag('attention_bias') else ()))


rows = partial(llama.rows, norms={'norm_attn_after': 'post_attention_layernorm',
                                  'norm_mlp_after': 'post_feedforward_layernorm'})
FAMILY = Family('olmo2', config, rows, 'Olmo2ForCausalLM', prefix='model.', ignored=FREQUENCIES)
