"""Models that read images too, of which the text part is a family of ours: Gemma 3 from 4B up, Mistral 3, LLaVA, SmolVLM, ...

Without an image they compute what their text part computes, so that part is loaded alone: the `text_config` of their
config.json, and the tensors under their text part's prefix. What is exported from it is a model of the text part's family.
"""

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from research.errors import InputError


class Whole(NamedTuple):
  """A model with a text part."""
  text: str                                    # the part's model_type where the config does not say it
  inside: str = 'model.language_model.'        # where the part stands among transformers' modules


WHOLES = {   # model_type -> what it is
    'gemma3': Whole('gemma3_text'), 'mistral3': Whole('mistral'), 'llava': Whole('llama'), 'llava_next': Whole('llama'),
    'vipllava': Whole('llama'), 'llava_onevision': Whole('qwen2'), 'internvl': Whole('qwen2'),
    'idefics3': Whole('llama', 'model.text_model.'), 'smolvlm': Whole('llama', 'model.text_model.')}
# What transformers takes for the sizes that a text_config leaves out; a model of the family alone always says them.
SIZES = {
    'gemma3_text': dict(vocab_size=262_208, hidden_size=2304, intermediate_size=9216, num_hidden_layers=26,
                        num_attention_heads=8, num_key_value_heads=4, head_dim=256),
    'llama': dict(vocab_size=32_000, hidden_size=4096, intermediate_size=11_008, num_hidden_layers=32, num_attention_heads=32),
    'mistral': dict(vocab_size=32_000, hidden_size=4096, intermediate_size=14_336, num_hidden_layers=32,
                    num_attention_heads=32, num_key_value_heads=8),
    'qwen2': dict(vocab_size=151_936, hidden_size=4096, intermediate_size=22_016, num_hidden_layers=32, num_attention_heads=32,
                  num_key_value_heads=32),
    'qwen3': dict(vocab_size=151_936, hidden_size=4096, intermediate_size=22_016, num_hidden_layers=32, num_attention_heads=32,
                  num_key_value_heads=32)}
_PREFIXES = ('model.language_model.model.', 'language_model.model.', 'model.language_model.', 'model.text_model.')
_HEADS = ('model.language_model.lm_head.', 'language_model.lm_head.', 'lm_head.')
_OTHERS = re.compile(r'^(model\.)?(vision_tower|vision_model|multi_modal_projector|connector|image_newline)(\.|$)')
_IDS = ('bos_token_id', 'eos_token_id', 'pad_token_id')


def text_config(hf: dict[str, Any], where: str) -> dict[str, Any]:
  """The config.json of the text part alone, as far as the whole says it; `tie_word_embeddings` is left to the tensors.

  Args:
    hf: the whole model's, whose `model_type` is a key of `WHOLES`.
    where: what to call the file in an error.
  Raises:
    InputError: there is no text part.
  """
  kind, part = hf['model_type'], hf.get('text_config')
  if not isinstance(part, dict):
    raise InputError(f'{where}: model_type {kind!r} without a text_config, whose model would be read')
  part = {'model_type': WHOLES[kind].text} | {name: x for name, x in part.items() if x is not None}
  text = part['model_type']
  sizes = SIZES.get(text, {}) if isinstance(text, str) else {}
  ids = {name: hf[name] for name in _IDS if name not in part and hf.get(name) is not None}
  return sizes | part | ids


def names_of_text(names: Iterable[str]) -> dict[str, str]:
  """The text part's names in its own family -> those in the whole; what reads images is left out, anything else stays."""
  found = {}
  for name in names:
    if _OTHERS.match(name):
      continue
    prefix = next((p for p in _PREFIXES if name.startswith(p)), None)
    head = next((p for p in _HEADS if name.startswith(p)), None)
    own = f'lm_head.{name.removeprefix(head)}' if head else f'model.{name.removeprefix(prefix)}' if prefix else name
    found[own] = name
  return found


def tied(whole: dict[str, Any], separate_head: bool) -> bool:
  """Whether the head is the embedding: as the tensors have it, unless the config says that there must be a head of its own."""
  said = [x for x in (whole.get('tie_word_embeddings'), whole['text_config'].get('tie_word_embeddings')) if x is not None]
  return not separate_head and (not said or any(said))
