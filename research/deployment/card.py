"""The README of an exported model: what it is, what it was trained on, how good it is, what it cost, where it ends."""

from pathlib import Path
from typing import Any

import huggingface_hub
import jinja2


def card(title: str, config: dict[str, Any], result: dict[str, Any], provenance: dict[str, Any], record: dict[str, Any],
         architecture: str, fewer: int) -> str:
  """The README of an exported model's folder.

  Args:
    title: its heading, the folder's name.
    config: of the run, all its settings by section.
    result: of the run: its scores and what it cost.
    provenance: of the run: the hashes of base and data, and the devices.
    record: what export.json says (see `research.export.run`).
    architecture: the class of transformers that loads the model.
    fewer: examples below which the card warns of wide intervals.
  """
  source = config['model']['source']
  from_hub = source.count('/') == 1 and not source.startswith(('.', '~', '/')) and not Path(source).exists()
  data = huggingface_hub.ModelCardData(
      base_model=source if from_hub else None, library_name='transformers',
      tags=['flaxtune', config['strategy']['name']])
  environment = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent), undefined=jinja2.StrictUndefined,
                                   trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
  auto = 'AutoModelForSeq2SeqLM' if architecture.endswith('ConditionalGeneration') else 'AutoModelForCausalLM'
  return environment.get_template('card.md.jinja').render(
      front=data.to_yaml(), title=title, config=config, result=result, provenance=provenance, record=record, auto=auto,
      fewer=fewer)


def adapter(title: str, config: dict[str, Any], result: dict[str, Any], peft_type: str) -> str:
  """The README of an adapter's folder.

  Args:
    title: as for `card`.
    config: as for `card`.
    result: as for `card`.
    peft_type: of the adapter's config; FLAXTUNE where PEFT has no type for it.
  """
  metrics = ''.join(f'| {name} | {value:.4f} | [{low:.4f}, {high:.4f}] |\n' for name, value in result['metrics'].items()
                    for low, high in [result['intervals'].get(name, (float('nan'),) * 2)])
  loads = ('`peft.PeftModel.from_pretrained` loads it.' if peft_type != 'FLAXTUNE' else
           "PEFT has no type for it: its tensors are named by the paths of flaxtune's variables, layers stacked on the first "
           'axis, kernels [inputs, outputs].')
  return (f'# {title}\n\nAn adapter for `{config["model"]["source"]}`, trained as `{config["strategy"]["name"]}` on the task '
          f'`{config["task"]["name"]}` with flaxtune. {loads} `strategy.init_from=FOLDER` goes on from it; flaxtune.json holds '
          'its settings, the hash of its base and what it cost.\n\n| metric | value | 95 % interval |\n|---|---|---|\n'
          f'{metrics}')
