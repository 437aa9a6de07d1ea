"""A model as a GGUF file, laid out and rounded as llama.cpp's converter does, by the gguf library: the inverse of `gguf`."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from research.errors import InputError
from research.models import gguf as reading
from research.models import header_fields, names
from research.models.config import Kind, ModelConfig
from research.models.families import FAMILIES
from research.models.positions import Rope

# What --quantize may say -> the type of matrices, and what the header calls a file of these.
TYPES = {
    'f32': ('F32', 'ALL_F32'), 'f16': ('F16', 'MOSTLY_F16'), 'bf16': ('BF16', 'MOSTLY_BF16'), 'q8_0': ('Q8_0', 'MOSTLY_Q8_0'),
    'q4_0': ('Q4_0', 'MOSTLY_Q4_0'), 'q4_1': ('Q4_1', 'MOSTLY_Q4_1'), 'q5_0': ('Q5_0', 'MOSTLY_Q5_0'),
    'q5_1': ('Q5_1', 'MOSTLY_Q5_1')}
# Matrices that are read row by row and stay as they are: positions, and T5's biases.
_WHOLE = ('position_embd.weight', 'attn_rel_b.weight')
_HEADS = ('output.weight', 'token_embd.weight')      # what the head is: the first that there is


def check_kind(quantize: str) -> None:
  """Refuses a type that is not in `TYPES`.

  Raises:
    InputError: it is not; for K-quants the line says what makes them.
  """
  if quantize in TYPES:
    return
  known = ', '.join(TYPES)
  mixed = quantize.lower().replace('_k', '_K')
  if '_k' in quantize.lower() or quantize.lower().startswith('iq'):
    raise InputError(f'--quantize={quantize}: the gguf library does not make it (known: {known}); export with --quantize=f16, '
                     f'from which `ollama create -q {mixed} NAME -f Modelfile` or llama-quantize makes it')
  raise InputError(f'--quantize={quantize}: not supported (known: {known})')


def check_family(config: ModelConfig) -> None:
  """Refuses a model of which GGUF has no architecture that is written here.

  Raises:
    InputError: naming the family.
  """
  if FAMILIES[config.family].to_gguf is None:
    known = ', '.join(name for name, family in FAMILIES.items() if family.to_gguf)
    raise InputError(f'--format=gguf: {config.family} is not written as GGUF (known: {known}); use --format=hf, which '
                     'llama.cpp\'s convert_hf_to_gguf.py may read')


def laid_out(config: ModelConfig, hf: dict[str, Any], tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The tensors of a file, by their names there, in float32.

  Args:
    config: of the model.
    hf: its config.json.
    tensors: by the originals' names, of their shapes.
  Raises:
    InputError: a tensor that the architecture has no name for.
  """
  import gguf
  family = FAMILIES[config.family]
  arch = next(a for a, n in gguf.MODEL_ARCH_NAMES.items() if n == (family.gguf_name or family.name))
  to_gguf = gguf.get_tensor_name_map(arch, max(config.layers, config.encoder_layers))
  found = header_fields.divisors(config, hf) if (family.gguf_name or family.name) == 'llama' else {}
  for name, x in tensors.items():
    base, suffix = name.rsplit('.', 1)
    known = to_gguf.get_name(base)
    if known is None:
      raise InputError(f'--format=gguf: {name} has no name in GGUF\'s {family.gguf_name or family.name}; use --format=hf')
    x = np.asarray(x, np.float32)
    found[f'{known}.{suffix}'] = np.ascontiguousarray(family.to_gguf_layout(config, name, x) if family.to_gguf_layout else x)
  return found


def types(tensors: Mapping[str, np.ndarray], quantize: str) -> dict[str, str]:
  """The type of each tensor.

  Vectors, norms, positions and T5's biases stay in float32; a row that is no whole number of blocks is kept in float16. Where
  matrices get four or five bits the head, or the embedding that is the head, gets eight, as llama-quantize gives it more too.

  Args:
    tensors: by their names in the file, of the shapes there: a matrix [O, I], a vector [O].
    quantize: a key of `TYPES`.
  """
  import gguf
  kind = TYPES[quantize][0]
  head = next((name for name in _HEADS if name in tensors), None)
  found = {}
  for name, x in tensors.items():
    here = 'Q8_0' if name == head and kind[:2] in ('Q4', 'Q5') else kind
    block = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[here]][0]
    whole = x.ndim < 2 or name.endswith(_WHOLE) or '_norm.' in name
    found[name] = 'F32' if whole else here if x.shape[-1] % block == 0 else 'F16'
  return found


def write(file: Path, config: ModelConfig, hf: dict[str, Any], tensors: Mapping[str, np.ndarray], tokenizer: dict[str, Any],
          quantize: str, general: Mapping[str, str]) -> dict[str, str]:
  """Writes the file, and reads its header again.

  Args:
    file: where to write.
    config: of the model.
    hf: its config.json.
    tensors: by the originals' names, of their shapes.
    tokenizer: the header's fields `tokenizer.…`, by whole name.
    quantize: a key of `TYPES`.
    general: the header's fields `general.…`: name, license, …
  Returns:
    The type of each tensor, by its name in the file. A family, or something of a model, that has no form in GGUF is refused
    (`InputError`).
  """
  import gguf
  check_family(config)
  family = FAMILIES[config.family]
  assert family.to_gguf is not None      # as was checked
  found = laid_out(config, hf, tensors)
  kinds = types(found, quantize)
  architecture = family.gguf_name or family.name
  w = gguf.GGUFWriter(file, architecture)
  about = {'type': 'model', **general, 'file_type': int(gguf.LlamaFileType[TYPES[quantize][1]]),
           'quantization_version': gguf.GGML_QUANT_VERSION}
  fields: dict[str, Any] = {f'general.{name}': value for name, value in about.items()} | {
      f'{architecture}.{name}': value for name, value in family.to_gguf(config, hf).items()} | tokenizer
  fields = {name: value for name, value in fields.items() if value != []}      # which GGUF does not hold
  add: dict[type, Callable[[str, Any], None]] = {
      bool: w.add_bool, int: w.add_uint32, float: w.add_float32, str: w.add_string, list: w.add_array, bytes: w.add_array}
  for name, value in fields.items():
    add[type(value)](name, value)
  try:
    for name, x in found.items():
      kind = gguf.GGMLQuantizationType[kinds[name]]
      w.add_tensor(name, gguf.quantize(x, kind), raw_dtype=kind)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
  finally:
    w.close()
  check_same(config, reading.read(file)[1])
  return kinds


def check_same(config: ModelConfig, again: ModelConfig) -> None:
  """Refuses a model that comes back from its file as another one.

  Raises:
    InputError: naming what GGUF has no field for.
  """
  fields = {field.name for field in dataclasses.fields(ModelConfig)} - {
      'family', 'dtype', 'remat', 'attention', 'last_layers', 'devices', 'init_std'}
  for name in sorted(fields):
    was, comes = getattr(config, name), getattr(again, name)
    if not _alike(was, comes):
      raise InputError(f'--format=gguf: GGUF\'s {FAMILIES[config.family].gguf_name or config.family} cannot say {name}='
                       f'{was!r:.60} of this model (it would be read as {comes!r:.60}); use --format=hf')


def _alike(a: Any, b: Any) -> bool:
  """Whether two values of a config are the same, but for float32's rounding."""
  if isinstance(a, float) and isinstance(b, float):
    return bool(np.isclose(a, b, rtol=1e-6, atol=0))
  if isinstance(a, (tuple, Kind, Rope)) and isinstance(b, tuple):
    return len(a) == len(b) and all(map(_alike, a, b))
  return a == b


def read_again(file: Path) -> tuple[dict[str, Any], ModelConfig, dict[str, Any]]:
  """A written file's parameters, dequantised to float32, their config, and its header's fields."""
  family, config, tensors, fields, _ = reading.read(file)
  return names.import_params(family, config, tensors, str(file)), config, fields
