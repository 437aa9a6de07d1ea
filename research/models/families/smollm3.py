"""SmolLM3: Llama whose every fourth layer knows no positions (NoPE; Kazemnejad et al. 2023, arXiv 2305.19466)."""

from research.models.config import Kind, ModelConfig
from research.models.families import llama
from research.models.fields import Fields
from research.models.names import FREQUENCIES, Family
from research.models.positions import still


def config(f: Fields) -> ModelConfig:
  biases = (llama.ATTENTION if f.flag('attention_bias') else ()) + (llama.MLP if f.flag('mlp_bias') else ())
  found = llama.base('smollm3', f, theta=2_000_000.0, tied=f.flag('tie_word_embeddings', True), biases=biases)
  layers, rope = found['layers'], found['layer_kinds'][0].rope
  every = f.size('no_rope_layer_interval', 4)
  turns = f.list_of('no_rope_layers', layers) or [(n + 1) % every != 0 for n in range(layers)]   # theirs: 1 is 'has rope'
  window, uses = f.window(None) or 0, f.flag('use_sliding_window')
  kinds = [Kind(window if uses and local else 0, rope if turn else still(found['head_dim']))
           for turn, local in zip(turns, f.local_layers(layers, [not turn for turn in turns]))]
  different = tuple(dict.fromkeys(kinds))
  return ModelConfig(**found | dict(layer_kinds=different, layer_pattern=tuple(different.index(kind) for kind in kinds)))


FAMILY = Family('smollm3', config, llama.rows, 'SmolLM3ForCausalLM', prefix='model.', ignored=FREQUENCIES)
