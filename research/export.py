"""Writes what a run learned for transformers, PEFT, llama.cpp or vLLM.

    python -m research.export --workdir=runs/lora --output=models/sentiment --dtype=bfloat16
    python -m research.export --workdir=runs/lora --output=adapters/sentiment --format=peft
    python -m research.export --workdir=runs/lora --output=served/sentiment --format=gguf --quantize=q8_0
    python -m research.export --workdir=runs/dora --output=adapters/plain --format=lora --rank=16

hf: a whole model, a delta merged into the weights in float32; what the export changed (the largest difference of a logit, the
change of each test metric) is measured on the tensors as they are written, and stands in export.json and in the README, the
model's card; a difference that rounding does not explain (`ALLOWED`) ends the export, and nothing is written.

peft: the delta alone. Where no library can load the base by its name (a GGUF file, a package, random weights), it is written
too, as OUTPUT/base; --base=NAME says what others call it instead.

gguf: the whole model as one GGUF file with a Modelfile for Ollama; what rounding changed is measured on the file, read again.

lora: the change of all kernels as plain LoRA of --rank, by the singular value decomposition; what that loses is measured.
"""

from pathlib import Path

from absl import flags

from research import cli
from research.deployment.export import export_adapter, export_model
from research.deployment.gguf_folder import export_gguf
from research.deployment.low_rank import export_lora
from research.errors import InputError
from research.models.config import DTYPES

FORMATS = ('hf', 'peft', 'gguf', 'lora')


def main() -> None:
  cli.required('workdir', 'output')
  f = flags.FLAGS
  if f.format not in FORMATS:
    raise InputError(f'--format={f.format}: not supported (known: {", ".join(FORMATS)})')
  if f.dtype not in DTYPES:
    raise InputError(f'--dtype={f.dtype}: must be one of {", ".join(DTYPES)}')
  if f.format == 'peft':
    export_adapter(Path(f.workdir), Path(f.output), f.base, f.dtype, f.shard_size, f.allow_changed)
  elif f.format == 'gguf':
    export_gguf(Path(f.workdir), Path(f.output), f.quantize, f.allow_changed)
  elif f.format == 'lora':
    export_lora(Path(f.workdir), Path(f.output), f.rank, f.base, f.allow_lost, f.dtype, f.shard_size, f.allow_changed)
  else:
    export_model(Path(f.workdir), Path(f.output), f.dtype, f.shard_size, f.allow_changed)


if __name__ == '__main__':
  flags.DEFINE_string('workdir', None, 'a run; its best step is exported')
  flags.DEFINE_string('output', None, 'the folder to write; it must not exist, or be empty')
  cli.changed_flag()
  flags.DEFINE_string('format', 'hf', 'hf: a whole model, deltas merged; peft: the delta alone; gguf: a file for llama.cpp and '
                      'Ollama; lora: any change of kernels as plain LoRA, for vLLM')
  flags.DEFINE_string('dtype', 'float32', 'of the weights: float32 or bfloat16')
  flags.DEFINE_string('quantize', 'f16', 'gguf: the type of matrices: f32, f16, bf16, q8_0, q5_1, q5_0, q4_1 or q4_0')
  flags.DEFINE_integer('rank', 16, 'lora: of each kernel')
  flags.DEFINE_bool('allow_lost', False, 'lora: leave out changes that no LoRA expresses (norms, biases, a tied embedding)')
  flags.DEFINE_string('base', None, 'peft, lora: what others call the base model, a hub id or a folder; by default the source '
                      'where others can load it, else the base is written too')
  flags.DEFINE_string('shard_size', '5GB', 'the most bytes in one safetensors file')
  cli.run(main, __doc__)
