"""What a run has learned as a GGUF file for llama.cpp and Ollama, and what its rounding costs, measured on the file itself."""

import json
from pathlib import Path
from typing import Any

from research import run_files, tree
from research.console import say
from research.data import gguf_tokenizer, gguf_vocabulary
from research.deployment import card
from research.deployment.export import FEWER, MEASURED, check_difference, measure
from research.deployment.modelfile import modelfile
from research.experiment import restore
from research.experiment.assemble import Experiment
from research.models import about, functions, gguf_writing, names
from research.models.families import FAMILIES
from research.strategies.bind import merge

FILE = 'model.gguf'
_ROUNDED = {'f32': 'float32', 'f16': 'bfloat16', 'bf16': 'bfloat16'}      # types whose difference is held to that of rounding


def export_gguf(workdir: Path, output: Path, quantize: str, allow_changed: bool = False) -> dict[str, Any]:
  """Exports the run in `workdir` at its best step as a GGUF file; gives what export.json says.

  A type that the gguf library does not make, a family or a tokenizer without a form there, a delta that cannot be merged, and
  what `export.export_model` refuses are refused (`InputError`).

  Args:
    workdir: the run directory.
    output: the folder to write.
    quantize: of the matrices: a key of `gguf_writing.TYPES`.
    allow_changed: although the run was made from something else than is there now (see `provenance.check`).
  """
  gguf_writing.check_kind(quantize)
  run_files.check_output(output)
  run_files.read_config(workdir)
  result = run_files.read_result(workdir)
  exp = restore.of_run(workdir, MEASURED, allow_changed, param_dtype='float32')
  gguf_writing.check_family(exp.model.config)
  variables = restore.learned(workdir, exp)
  config, params = functions.split_last_layers(exp.model.config, merge(variables), 0)
  tensors = names.export_params(FAMILIES[config.family], config, params)
  split = next((s for s in MEASURED if s in exp.task.splits), None)
  examples = exp.examples(split) if split else []
  vocabulary = gguf_vocabulary.fields(exp.tokenizer, config.vocab, tuple(
      str(exp.tokenizer.hf.decode(e.prompt_ids)) for e in examples[:32]))
  record: dict[str, Any] = {'format': 'gguf', 'dtype': quantize, 'merged': bool(tree.leaves(variables['delta'])), 'split': None,
                            'examples': 0}
  provenance = run_files.read_json(workdir / run_files.PROVENANCE)
  base = about.about(exp.settings.model.source)

  def fill(into: Path) -> None:
    kinds = gguf_writing.write(into / FILE, config, exp.hf, tensors, vocabulary, quantize, _general(output, base))
    record.update(bytes=(into / FILE).stat().st_size, tensors={kind: [*kinds.values()].count(kind) for kind in
                                                              sorted({*kinds.values()})})
    written, _, fields = gguf_writing.read_again(into / FILE)
    gguf_tokenizer.from_gguf(fields, str(into / FILE))
    if split:
      _, written = functions.split_last_layers(config, written, exp.model.config.last_layers)
      record.update(measure(exp, split, examples, variables, {'params': written, 'delta': {}}))
      if quantize in _ROUNDED:
        check_difference(record, _ROUNDED[quantize], exp.model.config.dtype)
    texts = {'Modelfile': modelfile(exp.tokenizer, chats(exp), stops(exp)), 'export.json': json.dumps(record, indent=2) + '\n',
             'README.md': card.card(output.name, exp.settings.config(), result, provenance, record, FEWER, base, exp.tokenizer,
                                    how=HOW.format(name=output.name), library='gguf')}
    for name, text in texts.items():
      (into / name).write_text(text, encoding='utf-8')
  run_files.write_folder(output, fill)
  say(f'export: {output / FILE}: {record["bytes"] / 2**20:,.1f} MiB in {quantize}{told(record)}')
  return record


HOW = """```console
ollama create {name} -f Modelfile
ollama run {name}
```

or, with llama.cpp, `llama-server -m model.gguf`."""


def told(record: dict[str, Any]) -> str:
  """What was measured, for the terminal."""
  if not record['split']:
    return '; not measured: the task has neither a test nor a validation split'
  changes = ', '.join(f'{record["split"]}/{name} {record["before"][name]:.4f} -> {record["after"][name]:.4f}'
                      for name in record['change'])
  return (f'; largest difference of a logit {record["largest_logit_difference"]:.3g}, '
          f'{100 * record["relative_logit_error"]:.3g} % of the logits\' deviation over all; {changes}')


def chats(exp: Experiment) -> bool:
  """Whether the run's prompts are written by the chat template."""
  task = exp.settings.config()['task']
  return bool(exp.tokenizer.hf.chat_template and (task.get('chat') or not task['prompt']))


def stops(exp: Experiment) -> tuple[str, ...]:
  """Texts that end an answer: the task's, and tokens for which the header has no field."""
  others = [i for i in exp.tokenizer.other_ends if i != exp.tokenizer.eos][1:]
  return (*exp.task.stop, *exp.tokenizer.hf.convert_ids_to_tokens(others))


def _general(output: Path, base: about.About) -> dict[str, str]:
  found = {'name': output.resolve().name, 'license': base.license,
           'source.huggingface.repository': None, 'quantized_by': 'flaxtune'}
  return {name: x for name, x in found.items() if x}
