"""The README of what is exported: what it is, what it was trained on, how good it is, what it cost, where it ends."""

import re
from pathlib import Path
from typing import Any

import huggingface_hub
import jinja2

from research.data.tokenizer import Tokenizer
from research.models.about import About

GENERATED = 64      # tokens that the snippet asks for where the task says nothing


def card(title: str, config: dict[str, Any], result: dict[str, Any], provenance: dict[str, Any], record: dict[str, Any],
         fewer: int, base: About, tokenizer: Tokenizer, how: str = '', library: str = 'transformers') -> str:
  """The README of an exported model's folder.

  Args:
    title: its heading, the folder's name.
    config: of the run, all its settings by section.
    result: of the run: its scores and what it cost.
    provenance: of the run: the hashes of base and data, and the devices.
    record: what export.json says (see `research.export.run`).
    fewer: examples below which the card warns of wide intervals.
    base: what the base says of itself.
    tokenizer: the model's, which may have a chat template.
    how: Markdown that says how the folder is used; by default Python for transformers.
    library: that reads the folder, as the hub names it.
  """
  environment = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent), undefined=jinja2.StrictUndefined,
                                   trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
  auto = _auto(tokenizer)
  load = f'model = {auto}.from_pretrained(folder)'
  code = snippet(config, tokenizer, f'from transformers import {auto}, AutoTokenizer', load, 'folder')
  return environment.get_template('card.md.jinja').render(
      front=_front(base, config, tokenizer, library), title=title, config=config, result=result, provenance=provenance,
      record=record, fewer=fewer, license=base.license,
      how=how or f'```python\n{code}\n```')


def _auto(tokenizer: Tokenizer) -> str:
  return 'AutoModelForSeq2SeqLM' if tokenizer.appends_eos else 'AutoModelForCausalLM'


def _front(base: About, config: dict[str, Any], tokenizer: Tokenizer, library: str) -> str:
  """The front matter, which the hub reads."""
  return huggingface_hub.ModelCardData(
      license=base.license or 'unknown', base_model=base.hub, library_name=library,
      pipeline_tag='text2text-generation' if tokenizer.appends_eos else 'text-generation',
      tags=['flaxtune', config['strategy']['name']]).to_yaml()


def snippet(config: dict[str, Any], tokenizer: Tokenizer, imports: str, load: str, vocabulary: str) -> str:
  """Python that generates one answer, to a prompt of the form that the model was trained on.

  Args:
    config: of the run.
    tokenizer: the model's.
    imports: lines that import what `load` and the rest need.
    load: lines that make `model`.
    vocabulary: an expression for where the tokenizer lies.
  """
  task = config['task']
  prompt = re.sub(r'\{[^{}]*\}', '...', task['prompt'] or '')
  chats = tokenizer.hf.chat_template and (task.get('chat') or not prompt)
  if chats:
    ask = (f"messages = [{{'role': 'user', 'content': {prompt or 'Hello.'!r}}}]\n"
           "inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True,\n"
           "                                       return_tensors='pt')")
  else:
    ask = f"inputs = tokenizer({prompt or 'Once'!r}, return_tensors='pt')"
  begun = '' if tokenizer.appends_eos else "[inputs['input_ids'].shape[1]:]"
  return (f"{imports}\n\nfolder = 'FOLDER'      # this folder\ntokenizer = AutoTokenizer.from_pretrained({vocabulary})\n"
          f"{load}\n{ask}\noutput = model.generate(**inputs, max_new_tokens={task.get('max_new_tokens') or GENERATED})\n"
          f"print(tokenizer.decode(output[0]{begun}, skip_special_tokens=True))")


def adapter(title: str, config: dict[str, Any], result: dict[str, Any], said: dict[str, Any], base: About,
            tokenizer: Tokenizer, written: bool, inside: str = '') -> str:
  """The README of an adapter's folder.

  Args:
    title: as for `card`.
    config: as for `card`.
    result: as for `card`.
    said: the adapter's config; its `peft_type` is FLAXTUNE where PEFT has no type for it.
    base: as for `card`.
    tokenizer: as for `card`.
    written: whether the base is written beside the adapter.
    inside: where the model stands among its base's modules, if it is not all of it.
  """
  metrics = ''.join(f'| {name} | {value:.4f} | [{low:.4f}, {high:.4f}] |\n' for name, value in result['metrics'].items()
                    for low, high in [result['intervals'].get(name, (float('nan'),) * 2)])
  if said['peft_type'] == 'FLAXTUNE':
    loads = ("PEFT has no type for it: its tensors are named by the paths of flaxtune's variables, layers stacked on the first "
             'axis, kernels [inputs, outputs].')
  else:
    source = said['base_model_name_or_path']
    where, vocabulary = (("f'{folder}/base'",) * 2 if written else (repr(source),) * 2)
    also = ("The base, which no library loads by that name, lies in the folder `base` here. "
            "adapter_config.json names it by where it was written; where the folder has been moved, give it as below."
            if written else f'Its base is `{source}`.' + ('' if source == base.hub else
            ' That is a place on the machine where it was exported: elsewhere give the same weights by their name there.'))
    auto = 'AutoModelForImageTextToText' if inside else _auto(tokenizer)
    load = f"base = {auto}.from_pretrained({where})\nmodel = PeftModel.from_pretrained(base, folder)"
    code = snippet(config, tokenizer, f'from peft import PeftModel\nfrom transformers import {auto}, AutoTokenizer', load,
                   vocabulary)
    loads = f'{also}\n\n```python\n{code}\n```\n\n'
  return (f'---\n{_front(base, config, tokenizer, "peft")}\n---\n\n'
          f'# {title}\n\nAn adapter for `{config["model"]["source"]}`, trained as `{config["strategy"]["name"]}` on the task '
          f'`{config["task"]["name"]}` with flaxtune. {loads} `strategy.init_from=FOLDER` goes on from it; flaxtune.json holds '
          f'its settings, the hash of its base and what it cost. {_licence(base)}\n\n| metric | value | 95 % interval |\n'
          f'|---|---|---|\n{metrics}')


def _licence(base: About) -> str:
  return (f'The base is under {base.license}, which holds for this too.' if base.license else
          'The base does not say its licence: find it out before this is passed on.')
