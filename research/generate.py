r"""Generates text with a run, or with a base model.

    python -m research.generate --workdir=runs/lora --prompt='Review: I loved it.\nSentiment:'
    python -m research.generate --config=configs/default.py --config.strategy.name=few_shot \
      --input=prompts.jsonl --output=answers.jsonl

--prompt is put to the model as it is (\n is a line break); --input holds one object a line, with a `prompt`, or with the
columns that the task's own prompt names, whose answer ends at task.stop too.
"""

from pathlib import Path
from typing import Any

from absl import flags

from research import cli, experiment, hosts, sharding, tree
from research import workdir as files
from research.data import prompts, sources, tasks
from research.errors import InputError
from research.evaluation import beginning, decode, harness


def run(exp: experiment.Experiment, variables, texts: list[str], max_new_tokens: int, temperature: float,
        seed: int, chat: bool = False) -> list[str]:
  """The model's continuation of every prompt.

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
    if prompts.taken(len(i), max_new_tokens, exp.model.config.has_encoder) + exp.strategy.before > exp.context:
      raise InputError(f'prompt {number} has {len(i)} tokens; with {max_new_tokens} to come that is over the context of '
                       f'{exp.context}')
  variables, cut = beginning.read(exp.model, variables, ids)
  ids = [i[cut:] for i in ids]
  ends = [*exp.tokenizer.ends, *([exp.tokenizer.end_of_turn()] if chat else [])]
  found = decode.generate(exp.model, variables, ids, max_new_tokens, ends, min(16, len(ids)), temperature, seed)
  return [exp.tokenizer.decode(i) for i in found]


def rendered(exp: experiment.Experiment, rows: list[dict[str, Any]]) -> list[str]:
  """The prompts of input rows: their own, or the task's, demonstrations included.

  Raises:
    InputError: a row's prompt is not text, or it has none and lacks a column of the task's.
  """
  texts = []
  for number, row in enumerate(rows, 1):
    if not isinstance(row.get('prompt', ''), str):
      raise InputError(f'--input line {number}: `prompt` is not text')
    missing = [c for c in tasks.fields_of(exp.task.prompt) if c not in row]
    if missing and not {'prompt', 'messages'} & row.keys():
      raise InputError(f'--input line {number}: has neither `prompt` nor the column {missing[0]!r} of the task\'s prompt')
    texts.append(row['prompt'] if 'prompt' in row else
                 prompts.render(exp.task, row, exp.tokenizer, exp.demonstrations(row)))
  return texts


def main() -> None:
  f = flags.FLAGS
  if (f.prompt is None) == (f.input is None):
    raise InputError('give --prompt=TEXT or --input=FILE.jsonl, one of them')
  if f.input:
    cli.required('output')
  with sharding.use(sharding.mesh(sharding.EVERYWHERE)):
    if f.workdir:
      exp = experiment.of_run(Path(f.workdir))
      variables = experiment.learned(Path(f.workdir), exp)
    else:
      cli.required('config')
      exp = experiment.assemble(experiment.plain(f.config), trains=False)
      if exp.strategy.learns and not exp.config['strategy']['init_from']:
        raise InputError(f'strategy {exp.strategy.name} has to learn first: give --workdir of a run, '
                         '--config.strategy.init_from=FOLDER, or --config.strategy.name=few_shot for the base model')
      variables = tree.join(*exp.variables())
    limit = f.max_new_tokens or exp.task.max_new_tokens
    if f.prompt is not None:
      [answer] = run(exp, variables, [f.prompt.replace('\\n', '\n')], limit, f.temperature, f.seed)
      if hosts.first():
        print(answer)
      return
    rows = sources.read_jsonl(Path(f.input))
    turns = exp.task.chat or any('messages' in row for row in rows)
    answers = run(exp, variables, rendered(exp, rows), limit, f.temperature, f.seed, turns)
    answers = [answer if 'prompt' in row else harness.cut(answer, exp.task.stop) for row, answer in zip(rows, answers)]
    files.write_jsonl(Path(f.output), [{**row, 'prediction': answer} for row, answer in zip(rows, answers)])


if __name__ == '__main__':
  cli.config_flag()
  cli.process_flags()
  flags.DEFINE_string('workdir', None, 'a run; its best step answers')
  flags.DEFINE_string('prompt', None, 'text to continue')
  flags.DEFINE_string('input', None, 'JSON-lines file of prompts')
  flags.DEFINE_string('output', None, 'JSON-lines file to write: the input rows with `prediction`')
  flags.DEFINE_integer('max_new_tokens', None, 'longest answer; the task\'s own where not given', lower_bound=1)
  flags.DEFINE_float('temperature', 0.0, '0: the likeliest token each time; else the sampling temperature', lower_bound=0.0)
  flags.DEFINE_integer('seed', 0, 'of the sampling')
  cli.run(main, __doc__)
