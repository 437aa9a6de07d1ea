"""A config.json that is read to the end: what is in it and not implemented is refused by name, never ignored."""

import math
import re
from typing import Any

import numpy as np

from research.errors import InputError
from research.models.positions import Rope, rope_of

# Fields that say nothing about what is computed (or only about training with dropout, initial values and decoding).
_HARMLESS = re.compile(
    r'^(model_type|architectures|transformers_version|dtype|torch_dtype|_name_or_path|use_cache|return_dict|output_.*|name_or_path'
    r'|(bos|eos|pad|sep|cls|unk|decoder_start|forced_bos|forced_eos)_token_id|initializer_.*|.*dropout.*|.*_pdrop|cache_implementation'
    r'|id2label|label2id|num_labels|problem_type|finetuning_task|task_specific_params|tokenizer_class|prefix|summary_.*'
    r'|n_ctx|chunk_size_feed_forward|is_decoder|is_encoder_decoder|max_length|min_length|length_penalty'
    r'|num_beams|no_repeat_ngram_size|early_stopping|temperature|top_[kp]|do_sample|reorder_and_upcast_attn|_.*)$')
MOST = 2**31 - 1                                    # of a size or a number of positions
LARGEST = float(np.finfo(np.float32).max)           # of any other number
_NEVER = re.compile(r'expert|moe|quantization|auto_map')


class Fields:
  """The fields of a config.json, each of which is either taken, harmless, at transformers' default, or an error."""

  def __init__(self, values: dict[str, Any], where: str = 'config.json', separate_head: bool = False):
    """
    Args:
      values: what the file holds.
      where: what to call the file in an error.
      separate_head: whether a head stands among the tensors beside the embedding.
    """
    self._values, self.where, self.separate_head = values, where, separate_head
    self._taken: set[str] = set()

  def take(self, name: str, default: Any = None) -> Any:
    """The field's value; the default where it is absent or null."""
    self._taken.add(name)
    value = self._values.get(name)
    return default if value is None else value

  def cap(self, name: str, absent: float | None) -> float:
    """A number above 0, where null says 'none', which is 0, and an absent field something else.

    Raises:
      InputError: the value is neither null nor a number above 0.
    """
    self._taken.add(name)
    value = self._values.get(name, absent)
    if value is not None and not (_is_number(value) and 0 < value <= LARGEST):
      raise InputError(f'{self.where}: {name}={_short(value)}: must be a number above 0, or null')
    return float(value or 0)

  def window(self, absent: int | None) -> int | None:
    """`sliding_window`: how many positions a query sees, where null says all and an absent field something else.

    Raises:
      InputError: the value is neither null nor a whole number above 0.
    """
    self._taken.add('sliding_window')
    value = self._values.get('sliding_window', absent)
    if value is not None and not _is_whole(value, 1):
      raise InputError(f'{self.where}: sliding_window={_short(value)}: must be a whole number above 0 and at most {MOST:,}, '
                       'or null')
    return value

  def flag(self, name: str, default: bool = False) -> bool:
    value = self.take(name, default)
    if not isinstance(value, bool):
      raise InputError(f'{self.where}: {name}={_short(value)}: must be true or false')
    return value

  def count(self, name: str, default: int) -> int:
    """A whole number that may be 0.

    Raises:
      InputError: the value is not one, or too large.
    """
    value = self.take(name, default)
    if not _is_whole(value, 0):
      raise InputError(f'{self.where}: {name}={_short(value)}: must be a whole number, 0 or more and at most {MOST:,}')
    return value

  def mapping(self, name: str) -> dict[str, Any]:
    """An object's fields that are not null, which says as little as an absent one; none where there is no object.

    Raises:
      InputError: the value is not an object.
    """
    value = self.take(name, {})
    if not isinstance(value, dict):
      raise InputError(f'{self.where}: {name}={_short(value)}: must be an object')
    return {field: x for field, x in value.items() if x is not None}

  def size(self, name: str, default: int | None = None) -> int:
    """A field that is a whole number above 0 (and below what would fill the memory with a list of it).

    Raises:
      InputError: the field is absent and has no default, or the value is no such number.
    """
    value = self.take(name, default)
    if value is None:
      raise InputError(f'{self.where}: lacks {name}')
    most = 10_000 if name.endswith(('layers', 'layer')) else MOST
    if not _is_whole(value, 1, most):
      raise InputError(f'{self.where}: {name}={_short(value)}: must be a whole number above 0 and at most {most:,}')
    return value

  def number(self, name: str, default: float | None = None) -> float:
    """A number of at least 0 that float32 holds: no field of a config is below.

    Raises:
      InputError: the value is none.
    """
    value = self.take(name, default)
    if not _is_number(value) or not 0 <= value <= LARGEST:
      raise InputError(f'{self.where}: {name}={_short(value)}: must be a number, 0 or more and at most {LARGEST:.2g}')
    return float(value)

  def one_of(self, name: str, known: dict[Any, Any], default: Any) -> Any:
    """What the field's value stands for in `known`.

    Args:
      name: of the field.
      known: value in the file -> what it stands for.
      default: the value that an absent field means.
    Raises:
      InputError: the value is not known.
    """
    value = self.take(name, default)
    if not isinstance(value, (str, bool, int)) or value not in known:
      raise InputError(f'{self.where}: {name}={value!r} is not supported (known: {", ".join(map(str, known))})')
    return known[value]

  def only(self, name: str, value: Any) -> None:
    """Refuses any value but this one, which is also what an absent field means.

    Raises:
      InputError: the field has another value.
    """
    found = self.take(name, value)
    if found != value:
      raise InputError(f'{self.where}: {name}={found!r} is not supported (known: {value!r})')

  def list_of(self, name: str, length: int) -> list[Any] | None:
    """A list with an entry per layer, or None.

    Raises:
      InputError: the value is no list, or of another length.
    """
    value = self.take(name)
    if value is not None and (not isinstance(value, list) or len(value) != length):
      raise InputError(f'{self.where}: {name}: must be a list with an entry for each of the {length} layers')
    return value

  def local_layers(self, layers: int, local: list[bool]) -> list[bool]:
    """Which layers see only a window: as `layer_types` says, else as given.

    Raises:
      InputError: `layer_types` names a kind of layer that is not known.
    """
    types = self.list_of('layer_types', layers)
    for one in types or ():
      if one not in ('full_attention', 'sliding_attention'):
        raise InputError(f'{self.where}: layer_types: {one!r:.60} is not supported (known: full_attention, '
                         'sliding_attention)')
    return local if types is None else [one == 'sliding_attention' for one in types]

  def heads(self) -> tuple[int, int]:
    """Query heads and key heads, which must divide them.

    Raises:
      InputError: they do not.
    """
    heads = self.size('num_attention_heads')
    kv_heads = self.size('num_key_value_heads', heads)
    if heads % kv_heads:
      raise InputError(f'{self.where}: num_key_value_heads={kv_heads} does not divide num_attention_heads={heads}')
    return heads, kv_heads

  def rope(self, head_dim: int, context: int, theta: float = 10_000.0, share: float | None = None) -> Rope:
    """The rope that `rope_parameters` say, or the older `rope_scaling`, `rope_theta` and `partial_rotary_factor`.

    Args:
      head_dim: the dimensions of a head.
      context: the longest sequence that the weights were trained for, in tokens.
      theta: the base where the config says nothing.
      share: of a head's dimensions, those that turn where the config says nothing; None: all turn whatever it says, as in
        the family's original.
    """
    newer, older = self.mapping('rope_parameters'), self.mapping('rope_scaling')
    given = dict(older or newer)                              # where both stand, transformers reads the older
    kind = given.pop('type', None)
    parameters = {'rope_theta': self.number('rope_theta', theta), **({'rope_type': kind} if kind else {}), **given}
    parameters.setdefault('original_max_position_embeddings', self.size('original_max_position_embeddings', context))
    parameters.setdefault('partial_rotary_factor', self.number('partial_rotary_factor', 1.0 if share is None else share))
    return rope_of(parameters, head_dim, context, self.where, partial=share is not None)

  def finish(self) -> None:
    """Refuses what is left over and would change what transformers computes.

    Raises:
      InputError: naming the first such field.
    """
    left = {n: v for n, v in self._values.items() if n not in self._taken and v is not None}
    for name, value in left.items():
      if not value:
        continue
      if name == 'auto_map':
        raise InputError(f'{self.where}: auto_map names code in the model folder, which is never executed; if the '
                         'architecture is the plain one, remove the field')
      if _NEVER.search(name):
        raise InputError(f'{self.where}: {name}={_short(value)} is not supported')
    left = {n: v for n, v in left.items() if not _HARMLESS.match(n)}
    if not left:
      return
    from transformers import AutoConfig
    defaults = AutoConfig.for_model(self._values['model_type']).to_dict()
    for name, value in left.items():
      if name in defaults and defaults[name] != value and (value or defaults[name]):
        raise InputError(f'{self.where}: {name}={_short(value)} is not supported (known: {defaults[name]!r})')


def _is_number(value: Any) -> bool:
  return isinstance(value, (int, float)) and not isinstance(value, bool) and -math.inf < value < math.inf


def _is_whole(value: Any, least: int, most: int = MOST) -> bool:
  return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _short(value: Any) -> str:
  text = repr(value)
  return text if len(text) <= 60 else text[:57] + '...'
