"""A GGUF header that is read to the end, like a config.json (see `fields`): the fields under its architecture's prefix."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from research.errors import InputError
from research.models.positions import rope_of

# Fields of an architecture that say nothing about what is computed.
_HARMLESS = re.compile(r'^(tensor_data_layout|expert_used_count|rope\.scaling\.finetuned)$')
_LIMIT, _MOST = 2 ** 31 - 1, float(np.finfo(np.float32).max)
DIVISORS = 'rope_freqs.weight'     # of each pair's frequency; how llama.cpp keeps what transformers calls llama3


def _differ(tensors: Mapping[str, Any]) -> bool:
  """Whether there is a head, and not the embedding once more; compared part by part, and up to the first difference."""
  head, embedding = tensors.get('output.weight'), tensors.get('token_embd.weight')
  if head is None or embedding is None:
    return head is not None
  a, b = head.data, embedding.data
  if head.tensor_type != embedding.tensor_type or a.shape != b.shape:
    return True
  return any(not np.array_equal(a[n:n + 1024], b[n:n + 1024]) for n in range(0, len(a), 1024))


class Header:
  """The fields `ARCHITECTURE.name` of a GGUF file; each is taken, harmless or an error.

  Sizes are held against the tensors: what a damaged header says is refused before anything of that size is made.
  """

  def __init__(self, fields: Mapping[str, Any], tensors: Mapping[str, Any], where: str):
    """
    Args:
      fields: the whole header.
      tensors: those of the gguf library's reader, by name.
      where: what to call the file in an error.
    """
    self.fields, self.tensors, self.where = fields, tensors, where
    self.architecture = fields.get('general.architecture')
    self.separate_head = _differ(tensors)      # beside the embedding; some files repeat that one as the head
    self._taken: set[str] = set()
    self._largest = max((int(n) for t in tensors.values() for n in t.shape), default=0)

  def _key(self, name: str) -> str:
    return f'{self.architecture}.{name}'

  def take(self, name: str, default: Any = None) -> Any:
    """The field's value; where it has an entry per layer and all are the same, that one."""
    self._taken.add(name)
    value = self.fields.get(self._key(name), default)
    if isinstance(value, list) and value and all(x == value[0] for x in value):
      return value[0]
    return value

  def size(self, name: str, default: int | None = None, most: int | None = None) -> int:
    """A field that is a whole number from 1 to `most`, or to the largest dimension of any tensor.

    Args:
      name: of the field, without the architecture's prefix.
      default: the value of an absent field; None: it must be there.
      most: None: the largest dimension of any tensor.
    Raises:
      InputError: the field is absent and has no default, or the value is no such number.
    """
    value = self.take(name, default)
    if value is None:
      raise InputError(f'{self.where}: the GGUF header lacks {self._key(name)}')
    most = self._largest if most is None else most
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
      raise InputError(f'{self.where}: {self._key(name)}={value!r:.60}: must be a whole number from 1 to {most}')
    return value

  def length(self, name: str, default: int | None = None) -> int:
    """A field that counts positions, which no tensor bounds."""
    return self.size(name, default, _LIMIT)

  def number(self, name: str, default: float | None = None) -> float:
    """A field that is a number of at least 0: the shortest decimal that is the same in float32, in which it is kept.

    Raises:
      InputError: the field is absent and has no default, or the value is no such number.
    """
    value = self.take(name, default)
    if value is None:
      raise InputError(f'{self.where}: the GGUF header lacks {self._key(name)}')
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= _MOST:
      raise InputError(f'{self.where}: {self._key(name)}={value!r:.60}: must be a number of at least 0')
    return float(str(np.float32(value)))

  def only(self, name: str, value: Any) -> None:
    """Refuses any value but this one, which is also what an absent field means.

    Raises:
      InputError: the field has another value.
    """
    found = self.take(name, value)
    if found != value:
      raise InputError(f'{self.where}: {self._key(name)}={found!r:.60} is not supported (known: {value!r})')

  def finish(self) -> None:
    """Refuses the fields that nobody took.

    Raises:
      InputError: naming the first of them.
    """
    prefix = self._key('')
    left = {key: value for key, value in self.fields.items()
            if key.startswith(prefix) and key.removeprefix(prefix) not in self._taken}
    for key, value in left.items():
      if value not in (None, False, '', []) and not _HARMLESS.match(key.removeprefix(prefix)):
        raise InputError(f'{self.where}: {key}={value!r:.60} is not supported')

  def special_ids(self) -> dict[str, int]:
    """The ids of special tokens, as a config.json names them.

    Raises:
      InputError: one is not a whole number of at least 0.
    """
    found = {}
    for token in ('bos', 'eos', 'padding'):
      value = self.fields.get(f'tokenizer.ggml.{token}_token_id')
      if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
        raise InputError(f'{self.where}: tokenizer.ggml.{token}_token_id={value!r:.60}: must be a token\'s number')
      if value is not None:
        found[f'{"pad" if token == "padding" else token}_token_id'] = value
    return found

  def vocab(self) -> int:
    """The number of rows of the embedding; the tokenizer may know fewer tokens."""
    embedding = self.tensors.get('token_embd.weight')
    return self.size('vocab_size', None if embedding is None else int(embedding.shape[-1]))

  def layers(self, name: str = 'block_count', default: int | None = None) -> int:
    return self.size(name, default, len(self.tensors))

  def head_dim(self, default: int) -> int:
    """The width of a head, which must be the same for queries, keys and values."""
    dim = self.size('attention.key_length', self.take('rope.dimension_count') or default)
    self.only('attention.value_length', dim)
    return dim

  def rope(self, head_dim: int) -> dict[str, Any]:
    """The `rope_parameters` of a config.json.

    Raises:
      InputError: a kind of scaling that is not known, or divisors of the frequencies that are not Llama 3.1's.
    """
    self.only('rope.dimension_count', head_dim)
    if head_dim % 2:
      raise InputError(f'{self.where}: heads of {head_dim} dimensions do not fall into pairs, which rotary positions turn')
    theta = self.number('rope.freq_base', 10_000.0)
    if theta <= 1:
      raise InputError(f'{self.where}: {self._key("rope.freq_base")}={theta}: must be above 1')
    context, found = self.length('context_length'), {'rope_type': 'default', 'rope_theta': theta}
    # llama.cpp takes a factor without a type for linear scaling, and 0 for none; early files call it scale_linear.
    kind = self.take('rope.scaling.type', 'linear')
    factor = self.number('rope.scaling.factor', self.number('rope.scale_linear', 0.0))
    trained = self.length('rope.scaling.original_context_length', context)
    if kind not in ('none', 'linear', 'yarn'):
      raise InputError(f'{self.where}: {self._key("rope.scaling.type")}={kind!r:.60} is not supported '
                       '(known: none, linear, yarn)')
    if kind == 'yarn' and factor:
      found |= {'rope_type': 'yarn', 'factor': factor, 'original_max_position_embeddings': trained}
      for theirs, ours in (('attn_factor', 'attention_factor'), ('beta_fast', 'beta_fast'), ('beta_slow', 'beta_slow')):
        value = self.number(f'rope.scaling.yarn_{theirs}', 0.0)
        found |= {ours: value} if value else {}
      self.only('rope.scaling.yarn_ext_factor', 1.0)
    elif kind == 'linear' and factor not in (0, 1):
      found |= {'rope_type': 'linear', 'factor': factor}
    if DIVISORS in self.tensors:
      if found['rope_type'] != 'default':
        raise InputError(f'{self.where}: {DIVISORS} beside {self._key("rope.scaling.type")}={kind!r} is not supported')
      known = self.fields.get(self._key('rope.scaling.original_context_length'))
      found |= self._llama3(found, head_dim, trained if known else 8192)
    return found

  def _llama3(self, default: dict[str, Any], head_dim: int, trained: int) -> dict[str, Any]:
    """What Llama 3.1's scaling was called with, of which the file keeps the divisors that came out.

    Raises:
      InputError: the divisors are not those of Llama 3.1's scaling for any factor.
    """
    import gguf
    tensor = self.tensors[DIVISORS]
    try:
      divisors = gguf.dequantize(tensor.data, tensor.tensor_type).reshape(-1)
    except NotImplementedError:
      divisors = np.zeros(0)
    factor = float(str(np.float32(divisors.max(initial=0))))
    if len(divisors) == head_dim // 2 and (divisors == 1).all():
      return {}
    found = {'rope_type': 'llama3', 'factor': factor, 'low_freq_factor': 1.0, 'high_freq_factor': 4.0,
             'original_max_position_embeddings': trained}
    if len(divisors) == head_dim // 2 and factor > 0:
      plain, scaled = (np.array(rope_of(p, head_dim, trained).inverse) for p in (default, default | found))
      if np.allclose(plain / scaled, divisors, rtol=1e-4, atol=0):
        return found
    raise InputError(f'{self.where}: {DIVISORS} is not what Llama 3.1\'s scaling gives for any factor, with 1 and 4 as its '
                     f'bounds and {trained} trained positions; no other is supported')

  def decoder(self) -> dict[str, Any]:
    """What the config.json of Llama and its siblings says, but for `model_type`."""
    heads, width = self.size('attention.head_count'), self.size('embedding_length')
    head_dim = self.head_dim(width // heads)
    return {
        'vocab_size': self.vocab(), 'hidden_size': width, 'intermediate_size': self.size('feed_forward_length'),
        'num_hidden_layers': self.layers(), 'num_attention_heads': heads,
        'num_key_value_heads': self.size('attention.head_count_kv', heads), 'head_dim': head_dim,
        'max_position_embeddings': self.length('context_length'), 'rope_parameters': self.rope(head_dim),
        'rms_norm_eps': self.number('attention.layer_norm_rms_epsilon'), **self.special_ids()}
