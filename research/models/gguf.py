"""GGUF files: config, tensors and tokenizer fields, by the gguf library, without torch."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from research.errors import InputError
from research.models import names
from research.models.config import ModelConfig
from research.models.families import FAMILIES
from research.models.names import Family


class Tensors(Mapping):
  """The file's tensors under their Hugging Face names, dequantised to float32 when asked for."""

  def __init__(self, reader, family: Family, config: ModelConfig, path: Path):
    import gguf
    arch = next(a for a, n in gguf.MODEL_ARCH_NAMES.items() if n == family.name)
    to_gguf = gguf.get_tensor_name_map(arch, config.layers)
    stored = {t.name: t for t in reader.tensors}
    self._stored, known = {}, set()
    for name in names.all_theirs(family, config):
      base, suffix = name.rsplit('.', 1)
      gguf_name = f'{to_gguf.get_name(base)}.{suffix}'
      if gguf_name in stored:
        self._stored[name] = stored[gguf_name]
        known.add(gguf_name)
    self._stored |= {n: stored[n] for n in stored.keys() - known if n != 'rope_freqs.weight'}
    self._family, self._config, self._path = family, config, path

  def __getitem__(self, name: str) -> np.ndarray:
    import gguf
    t = self._stored[name]
    try:
      x = gguf.dequantize(t.data, t.tensor_type)
    except NotImplementedError:
      raise InputError(f'{self._path}: tensor {t.name} has type {t.tensor_type.name}, '
                       'which the gguf library cannot dequantise') from None
    x = x.reshape([int(d) for d in reversed(t.shape)]).astype(np.float32)
    return self._family.ungguf(self._config, name, x) if self._family.ungguf else x

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
    InputError: not a whole GGUF file, or of an architecture that is no family here.
  """
  import gguf
  try:
    reader = gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
  except (ValueError, IndexError, KeyError, UnicodeDecodeError, OverflowError) as e:
    what = (str(e).splitlines() or [type(e).__name__])[0]
    raise InputError(f'{path}: not a whole GGUF file ({what}); fetch it again') from None
  size = path.stat().st_size
  for t in reader.tensors:
    if t.data_offset + t.n_bytes > size:
      raise InputError(f'{path}: truncated: tensor {t.name} ends at byte {t.data_offset + t.n_bytes} of {size}; '
                       'fetch it again')
  architecture = fields.get('general.architecture')
  family = FAMILIES.get(architecture)
  if family is None or family.gguf is None:
    raise InputError(f'{path}: architecture {architecture!r} is not supported (known: {", ".join(FAMILIES)})')
  try:
    hf = family.gguf(fields)
  except KeyError as e:
    raise InputError(f'{path}: the GGUF header lacks {e.args[0]}') from None
  separate = any(t.name == 'output.weight' for t in reader.tensors)
  hf['tie_word_embeddings'] = not separate
  config = names.config_of(family, hf, str(path), separate)
  return family, config, Tensors(reader, family, config, path), fields, hf
