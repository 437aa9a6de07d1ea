r"""Generates text with a run, or with a base model.

    python -m research.generate --workdir=runs/lora --prompt='Review: I loved it.\nSentiment:'
    python -m research.generate --config=configs/default.py --config.strategy.name=few_shot \
      --input=prompts.jsonl --output=answers.jsonl

--prompt is put to the model as it is (\n is a line break); --input holds one object a line, with the columns that the task's
own prompt names, whose answer ends at task.stop too, or with a `prompt` of its own. Where a run has learned from `messages`, a
prompt is the user's turn in the chat template. All lines are checked before the first is answered, and answers are written as
they come.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from absl import flags

from research import cli, run_files, tree
from research.data import prompts, sources, tasks, templates
from research.distributed import mesh, partition, processes
from research.errors import InputError
from research.evaluation import decode, harness, shared_prefix
from research.experiment import restore, settings
from research.experiment.assemble import Experiment, assemble

AT_ONCE = 128      # prompts whose answers are written together


def run(exp: Experiment, variables, texts: list[str], max_new_tokens: int, temperature: float,
        seed: int, chat: bool = False) -> Iterator[str]:
  """The model's continuation of every prompt, one after the other; all prompts are looked at before the first.

  Args:
    exp: gives the model, its tokenizer and its context.
    variables: the model's, deltas among them.
    texts: the prompts, one or more.
    max_new_tokens: where an answer ends that does not by itself.
    temperature: 0 takes the likeliest token each time; above it tokens are drawn from softmax(logits / temperature).
    seed: of the drawing.
    chat: whether the prompts are turns in the chat template, whose end of a turn ends an answer too.
  Raises:
    InputError: a prompt is empty, or would not fit the context with its answer.
  """
  ids = [exp.tokenizer.prompt(text) for text in texts]
  places = prompts.placeholders(exp.strategy.slots)
  for number, i in enumerate(ids, 1):
    if not i:
      raise InputError(f'prompt {number} is empty')
    i[:0] = places
    if prompts.tokens_needed(len(i), max_new_tokens, exp.model.config.has_encoder) + exp.strategy.prefix_slots > exp.context:
      raise InputError(f'prompt {number} has {len(i)} tokens; with {max_new_tokens} to come that is over the context of '
                       f'{exp.context}')
  return _answers(exp, variables, ids, max_new_tokens, temperature, seed, chat)


def _answers(exp: Experiment, variables, ids: list[list[int]], max_new_tokens: int, temperature: float, seed: int,
             chat: bool) -> Iterator[str]:
  """The same of prompts that fit."""
  variables, cut = shared_prefix.read(exp.model, variables, ids)
  ends = [*exp.tokenizer.ends, *([exp.tokenizer.end_of_turn()] if chat else [])]
  for first in range(0, len(ids), AT_ONCE):
    some = [i[cut:] for i in ids[first:first + AT_ONCE]]
    found = decode.generate(exp.model, variables, some, max_new_tokens, ends, min(16, len(some)), temperature, seed,
                            first=first)
    yield from map(exp.tokenizer.decode, found)


def in_chat(exp: Experiment) -> bool:
  """Whether a run answers in a chat: its task says so, or it has learned from messages."""
  return exp.task.chat or any('messages' in rows[0] for rows in exp.task.splits.values())


def has_own(exp: Experiment, row: dict[str, Any]) -> bool:
  """Whether a row brings its whole prompt, in a column that the task's template does not name."""
  return 'prompt' in row and 'prompt' not in templates.fields_of(exp.task.prompt)


def asked(exp: Experiment, prompt: str) -> str:
  """A person's own prompt as the model reads it."""
  return exp.tokenizer.chat([{'role': 'user', 'content': prompt}]) if in_chat(exp) else prompt


def rendered(exp: Experiment, rows: list[dict[str, Any]]) -> list[str]:
  """The prompts of input rows: their own, or the task's, demonstrations included.

  Raises:
    InputError: a row has neither, or something in it is no text; the line is named.
  """
  texts = []
  for number, row in enumerate(rows, 1):
    try:
      if has_own(exp, row):
        if wrong := templates.not_text(row['prompt']) or ('' if isinstance(row['prompt'], str) else 'is not text'):
          raise InputError(f'`prompt` {wrong}')
        texts.append(asked(exp, row['prompt']))
      else:
        if 'messages' in row:
          tasks.check_conversation(row['messages'])
        missing = [c for c in templates.fields_of(exp.task.prompt) if c not in row]
        if (missing or not exp.task.prompt) and 'messages' not in row:
          raise InputError(f'has neither `prompt` nor {f"the column {missing[0]!r} of the task" if missing else "`messages`"}')
        texts.append(prompts.render(exp.task, row, exp.tokenizer, exp.demonstrations(row)))
    except InputError as e:
      raise InputError(f'--input line {number}: {e}') from None
  return texts


def main() -> None:
  f = flags.FLAGS
  if (f.prompt is None) == (f.input is None):
    raise InputError('give --prompt=TEXT or --input=FILE.jsonl, one of them')
  if f.workdir and f.config is not None:
    raise InputError('--workdir and --config are both given: a run answers with its own config; give one of them')
  if f.output and not f.input:
    raise InputError('--output goes with --input=FILE.jsonl; the answer to --prompt is printed')
  if f.temperature and not 1e-3 <= f.temperature <= 1e3:
    raise InputError(f'--temperature={f.temperature}: must be 0 (the likeliest token each time), or from 0.001 to 1000')
  if f.input:
    cli.required('output')
    cli.check_output(Path(f.output))
    if Path(f.output).exists() and Path(f.output).samefile(f.input):
      raise InputError(f'--output={f.output}: is the --input, of which a stop would leave half; give another file')
  rows = sources.read_jsonl(Path(f.input)) if f.input else []
  with mesh.use(mesh.make(partition.EVAL_MESH)):
    if f.workdir:
      exp = restore.of_run(Path(f.workdir), allow_changed=f.allow_changed)
      variables = restore.learned(Path(f.workdir), exp)
    else:
      cli.required('config')
      exp = assemble(settings.plain(f.config), trains=False)
      if exp.strategy.learns and not exp.config['strategy']['init_from']:
        raise InputError(f'strategy {exp.strategy.name} has to learn first: give --workdir of a run, '
                         '--config.strategy.init_from=FOLDER, or --config.strategy.name=few_shot for the base model')
      variables = tree.join(*restore.variables(exp))
    limit = f.max_new_tokens or exp.task.max_new_tokens
    if f.prompt is not None:
      [answer] = run(exp, variables, [asked(exp, f.prompt)], limit, f.temperature, f.seed, in_chat(exp))
      if processes.is_primary():
        print(answer)
      return
    turns = in_chat(exp) or any('messages' in row for row in rows)
    answers = run(exp, variables, rendered(exp, rows), limit, f.temperature, f.seed, turns)
    with open(f.output if processes.is_primary() else os.devnull, 'w', encoding='utf-8') as out:
      for row, answer in zip(rows, answers):
        answer = answer if has_own(exp, row) else harness.cut(answer, exp.task.stop)
        out.write(run_files.dumps({**row, 'prediction': answer}, default=str) + '\n')
        out.flush()


if __name__ == '__main__':
  cli.config_flag()
  cli.process_flags()
  flags.DEFINE_string('workdir', None, 'a run; its best step answers')
  cli.changed_flag()
  flags.DEFINE_string('prompt', None, 'text to continue')
  flags.DEFINE_string('input', None, 'JSON-lines file of prompts')
  flags.DEFINE_string('output', None, 'JSON-lines file to write: the input rows with `prediction`')
  flags.DEFINE_integer('max_new_tokens', None, 'longest answer; the task\'s own where not given', lower_bound=1)
  flags.DEFINE_float('temperature', 0.0, '0: the likeliest token each time; else the sampling temperature', lower_bound=0.0)
  flags.DEFINE_integer('seed', 0, 'of the sampling', lower_bound=0, upper_bound=2 ** 31 - 1)
  cli.run(main, __doc__)
