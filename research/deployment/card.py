"""The README of an exported model: what it is, what it was trained on, how good it is, what it cost, where it ends."""

from pathlib import Path
from typing import Any

import huggingface_hub
import jinja2


def card(title: str, config: dict[str, Any], result: dict[str, Any], provenance: dict[str, Any], record: dict[str, Any],
         architecture: str, fewer: int) -> str:
  """
  Args:
    config, result, provenance: of the run; record: what the export measured (see `research.export.measure`).
    fewer: test examples below which the card warns of wide intervals.
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
