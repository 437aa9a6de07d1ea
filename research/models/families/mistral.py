"""Mistral: Llama with a sliding window in every layer (Jiang et al. 2023, arXiv 2310.06825)."""

from research.models import header_fields
from research.models.config import Kind, ModelConfig
from research.models.families import llama
from research.models.fields import Fields
from research.models.names import FREQUENCIES, Family


def config(f: Fields) -> ModelConfig:
  found = llama.base('mistral', f, tied=f.flag('tie_word_embeddings'))
  window = f.window(4096) or 0
  return ModelConfig(**found | dict(layer_kinds=(Kind(window, found['layer_kinds'][0].rope),)))


# Without a window, which GGUF's Llama has no field for, it is a Llama; with one the file comes back as another model.
FAMILY = Family('mistral', config, llama.rows, 'MistralForCausalLM', prefix='model.', ignored=FREQUENCIES,
                to_gguf=header_fields.decoder, to_gguf_layout=llama.to_gguf_layout, gguf_name='llama')
