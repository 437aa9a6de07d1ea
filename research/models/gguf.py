"""GGUF files: config, tensors and tokenizer fields, by the gguf library, without torch."""

import mmap
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from research.errors import InputError
from research.models import names
from research.models.config import ModelConfig
from research.models.families import FAMILIES
from research.models.header import DIVISORS, Header
from research.models.names import Family

# By llama.cpp's names.
ARCHITECTURES = {family.gguf_name or name: family for name, family in FAMILIES.items() if family.gguf}
# Ends of tensors that hold nothing to learn: frequencies, which the header has read, and a bias that no T5 reads.
_IDLE = (DIVISORS, '.attn_rot_embd.weight', 'dec.blk.0.cross_attn_rel_b.weight')


class Tensors(Mapping[str, Any]):
  """The file's tensors under their Hugging Face names, dequantised to float32 when asked for."""

  def __init__(self, reader, header: Header, family: Family, config: ModelConfig):
    """
    Raises:
      InputError: a tensor is of another size than the header says.
    """
    import gguf
    arch = next(a for a, n in gguf.MODEL_ARCH_NAMES.items() if n == header.architecture)
    to_gguf = gguf.get_tensor_name_map(arch, max(config.layers, config.encoder_layers))
    left = {n: t for n, t in header.tensors.items() if not n.endswith(_IDLE)}
    if not header.separate_head:
      left.pop('output.weight', None)
    self._stored: dict[str, Any] = {}
    shapes = names.shapes(config)
    for row in family.rows(config):
      theirs = names.theirs(row, shapes)
      size = sum(int(np.prod(shapes[path])) for path in row.paths) // len(theirs)
      for name in theirs:
        base, suffix = name.rsplit('.', 1)
        t = left.pop(f'{to_gguf.get_name(base)}.{suffix}', None)
        if t is not None and t.n_elements != size:
          raise InputError(f'{header.where}: tensor {t.name} holds {t.n_elements} numbers, but the header says {size}')
        self._stored |= {} if t is None else {name: t}
    self._stored |= left
    self._reader, self._family, self._config, self._where = reader, family, config, header.where

  def __getitem__(self, name: str) -> np.ndarray:
    import gguf
    t = self._stored[name]
    try:
      x = gguf.dequantize(t.data, t.tensor_type)
    except NotImplementedError:
      raise InputError(f'{self._where}: tensor {t.name} has type {t.tensor_type.name}, '
                       'which the gguf library cannot dequantise') from None
    x = np.array(x, np.float32, copy=np.may_share_memory(x, t.data)).reshape([int(n) for n in reversed(t.shape)])
    if hasattr(mmap, 'MADV_DONTNEED'):      # what was read of a mapped file counts as this process's memory until then
      self._reader.data.base.madvise(mmap.MADV_DONTNEED)
    return self._family.from_gguf_layout(self._config, name, x) if self._family.from_gguf_layout else x

  def __iter__(self) -> Iterator[str]:
    return iter(self._stored)

  def __len__(self) -> int:
    return len(self._stored)


def read(path: Path) -> tuple[Family, ModelConfig, Tensors, dict[str, Any], dict[str, Any]]:
  """Opens a GGUF file.

  Returns:
    The family, the config, the lazy tensors, the file's fields (which hold the tokenizer), and the config.json that the
    originals would have.
  Raises:
    InputError: not a whole GGUF file, of an architecture that is no family here, or what it says is not implemented.
  """
  reader, fields = _open(path)
  header = Header(fields, {t.name: t for t in reader.tensors}, str(path))
  kind, parts, architecture = fields.get('general.type', 'model'), fields.get('split.count', 0), header.architecture
  if kind != 'model':
    raise InputError(f'{path}: general.type={kind!r:.60} is not supported (known: model)')
  if parts not in (0, 1):
    raise InputError(f'{path}: one of {parts!r:.60} parts of a model; join them with `llama-gguf-split --merge`')
  if not isinstance(architecture, str) or architecture not in ARCHITECTURES:
    raise InputError(f'{path}: architecture {architecture!r:.60} is not supported (known: {", ".join(ARCHITECTURES)})')
  header.only('expert_count', 0)
  header.only('attention.causal', True)
  translate = ARCHITECTURES[architecture].gguf
  assert translate is not None      # ARCHITECTURES holds no family without one
  hf = translate(header) | {'tie_word_embeddings': not header.separate_head}
  header.finish()
  family = FAMILIES[hf['model_type']]
  config = names.config_of(family, hf, str(path), header.separate_head)
  return family, config, Tensors(reader, header, family, config), fields, hf


def fields_of(path: Path) -> dict[str, Any]:
  """All fields of a GGUF file's header, by name."""
  return _open(path)[1]


def _open(path: Path) -> tuple[Any, dict[str, Any]]:
  """The gguf library's reader, and all header fields as Python values; every offset and length lies within the file.

  Raises:
    InputError: the file is not a whole GGUF file, or written for machines of the other byte order.
  """  # noqa: DOC501 (each ValueError is caught below)
  import gguf

  class Reader(gguf.GGUFReader):
    """The library's, which takes what lies behind the end of a file for empty, and so reads on and on.

    It also reads lists piece by piece, and a vocabulary with its merges and types has a hundred and fifty thousand: seconds
    before every run.
    """

    def _mapped(self) -> mmap.mmap:
      return self.data.base  # type: ignore[return-value]  # NumPy's types: a memmap's base is the mapped file, and no array

    def _get(self, offset, dtype, count=1, override_order=None):
      dtype, offset, count = np.dtype(dtype).newbyteorder(override_order or self.byte_order), int(offset), int(count)
      if offset + count * dtype.itemsize > len(self.data):
        raise ValueError('it ends early')
      return np.frombuffer(self._mapped(), dtype, count, offset)

    def _get_field_parts(self, orig_offs, raw_type):
      kinds = gguf.GGUFValueType
      if raw_type != kinds.ARRAY:
        return super()._get_field_parts(orig_offs, raw_type)
      kind, count = self._get(orig_offs, np.uint32), self._get(orig_offs + 4, np.uint64)
      of_item = kinds(int(kind[0]))
      if number := self.gguf_scalar_to_np.get(of_item):
        numbers = self._get(orig_offs + 12, number, count[0])
        each = [numbers[i:i + 1] for i in range(len(numbers))]
        return 12 + numbers.nbytes, [kind, count, *each], list(range(2, 2 + len(each))), [kinds.ARRAY, of_item]
      if of_item != kinds.STRING:
        return super()._get_field_parts(orig_offs, raw_type)
      at, strings, buffer = int(orig_offs) + 12, [], memoryview(self._mapped())
      size = struct.Struct('=Q' if self.byte_order == 'I' else '>Q')
      for _ in range(int(count[0])):
        length = size.unpack_from(buffer, at)[0] if at + 8 <= len(self.data) else len(self.data)
        if at + 8 + length > len(self.data):
          raise ValueError('it ends early')
        strings.append(buffer[at + 8:at + 8 + length])
        at += 8 + length
      return at - int(orig_offs), [kind, count, *strings], list(range(2, 2 + len(strings))), [kinds.ARRAY, kinds.STRING]

  try:
    reader = Reader(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    if any(t.data_offset != reader.data_offset + int(t.field.parts[-1][0]) for t in reader.tensors):
      raise ValueError('it ends early')
    if not all(name.isprintable() for name in (*fields, *(t.name for t in reader.tensors))):
      raise ValueError('it holds names that cannot be printed')
  except (ValueError, IndexError, KeyError, TypeError, OverflowError, RecursionError) as e:
    what = (str(e).splitlines() or [type(e).__name__])[0]
    raise InputError(f'{path}: not a whole GGUF file ({what}); fetch it again') from None
  if reader.byte_order != 'I':
    raise InputError(f'{path}: written for machines of the other byte order, which is not supported')
  return reader, fields
