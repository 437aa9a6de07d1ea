"""SmolLM3: Llama whose every fourth layer knows no positions (NoPE; Kazemnejad et al. 2023, arXiv 2305.19466)."""

from research.errors import InputError
from research.models.config import Kind, ModelConfig
from research.models.families import llama
from research.models.fields import Fields
from research.models.names import FREQUENCIES, Family
from research.models.positions import still


def config(f: Fields) -> ModelConfig:
  biases = (llama.ATTENTION if f.flag('attention_bias') else ()) + (llama.MLP if f.flag('mlp_bias') else ())
  found = llama.base('smollm3', f, theta=2_000_000.0, tied=f.flag('tie_word_embeddings', True), biases=biases)
  layers, rope = found['layers'], found['kinds'][0].rope
  every = f.size('no_rope_layer_interval', 4)
  turns = f.list_of('no_rope_layers', layers) or [(n + 1) % every != 0 for n in range(layers)]   # theirs: 1 is 'has rope'
  window, uses = f.optional('sliding_window', None) or 0, f.flag('use_sliding_window')
  types = f.list_of('layer_types', layers) or ['full_attention' if turn else 'sliding_attention' for turn in turns]
  if any(one not in ('full_attention', 'sliding_attention') for one in types):
    raise InputError(f'{f.where}: layer_types={types} is not supported (known: full_attention, sliding_attention)')
  kinds = [Kind(window if uses and one == 'sliding_attention' else 0, rope if turn else still(found['head_dim']))
           for turn, one in zip(turns, types)]
  different = tuple(dict.fromkeys(kinds))
  return ModelConfig(**found | dict(kinds=different, pattern=tuple(different.index(kind) for kind in kinds)))


FAMILY = Family('smollm3', config, llama.rows, 'SmolLM3ForCausalLM', prefix='model.', ignored=FREQUENCIES)
