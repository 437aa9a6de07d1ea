"""SmolLM3: Llama whose every fourth layer knows no positions (NoPE; Kazemnejad et al. 2023, arXiv 2305.19466)."""

from research.errors import InputError
from research.models.config import Kind, ModelConfig
from research.models.families import llama
from research.models.fields import Fields
from research.models.names import Family
from research.models.positions import still


def config(f: Fields) -> ModelConfig:
  biases = (llama.ATTENTION if f.take('attention_bias') else ()) + (llama.MLP if f.take('mlp_bias') else ())
  found = llama.base('smollm3', f, theta=2_000_000.0, tied=f.take('tie_word_embeddings', True), biases=biases)
  layers, rope = found['layers'], found['kinds'][0].rope
  every = f.size('no_rope_layer_interval', 4)
  turns = f.list_of('no_rope_layers', layers) or [(n + 1) % every != 0 for n in range(layers)]   # theirs: 1 is 'has rope'
  window = f.take('sliding_window') if f.take('use_sliding_window') else 0
  types = f.list_of('layer_types', layers) or ['full_attention' if turn else 'sliding_attention' for turn in turns]
  kinds = [Kind(window if one == 'sliding_attention' and window else 0, rope if turn else still(found['head_dim']))
           for turn, one in zip(turns, types)]
  if not set(types) <= {'full_attention', 'sliding_attention'}:
    raise InputError(f'{f.where}: layer_types={types} is not supported (known: full_attention, sliding_attention)')
  different = tuple(dict.fromkeys(kinds))
  return ModelConfig(**found | dict(kinds=different, pattern=tuple(different.index(kind) for kind in kinds)))


FAMILY = Family('smollm3', config, llama.rows, prefix='model.', ignored=(r'rotary_emb\.inv_freq$',))
