r"""Generates text with a run, or with a base model.

    python -m research.generate --workdir=runs/lora --prompt='Review: I loved it.\nSentiment:'
    python -m research.generate --config=configs/default.py --config.strategy.name=few_shot \
      --input=prompts.jsonl --output=answers.jsonl

--prompt is put to the model as it is (\n is a line break); --input holds one object a line, with the columns that the task's
own prompt names, whose answer ends at task.stop too, or with a `prompt` of its own. Where a run has learned from `messages`, a
prompt is the user's turn in the chat template. All lines are checked before the first is answered, and answers are written as
they come; that to --prompt token by token on a terminal. What is drawn depends on --seed and a prompt's number alone.
"""

import os
from pathlib import Path

from absl import flags

from research import cli, console, json_text, tree
from research.data import formats
from research.distributed import mesh, partition, processes
from research.errors import InputError
from research.evaluation.decoding import of_pairs
from research.experiment import restore
from research.experiment.assemble import assemble
from research.runs.generate import answer_all, asked, has_own, in_chat, rendered, stream


def main() -> None:
  f = flags.FLAGS
  if (f.prompt is None) == (f.input is None):
    raise InputError('give --prompt=TEXT or --input=FILE, one of them')
  if f.workdir and f.config is not None:
    raise InputError('--workdir and --config are both given: a run answers with its own config; give one of them')
  if f.output and not f.input:
    raise InputError('--output goes with --input=FILE; the answer to --prompt is printed')
  given = cli.decoding_given()
  if not all(f.stop):
    raise InputError('--stop: is empty; give a text of one character or more')
  if f.input:
    cli.required('output')
    cli.check_output(Path(f.output))
    if Path(f.output).exists() and Path(f.output).samefile(f.input):
      raise InputError(f'--output={f.output}: is the --input, of which a stop would leave half; give another file')
  rows = formats.rows(Path(f.input)) if f.input else []
  with mesh.use(mesh.make(partition.EVAL_MESH)):
    if f.workdir:
      exp = restore.of_run(Path(f.workdir), allow_changed=f.allow_changed)
      variables = restore.learned(Path(f.workdir), exp)
    else:
      cli.required('config')
      exp = assemble(f.config, trains=False)
      if exp.strategy.learns and not exp.settings.strategy.init_from:
        raise InputError(f'strategy {exp.strategy.name} has to learn first: give --workdir of a run, '
                         '--config.strategy.init_from=FOLDER, or --config.strategy.name=few_shot for the base model')
      variables = tree.join(*restore.variables(exp))
    decoding = of_pairs((given if given.keys() - {'seed'} else {**dict(exp.task.decoding), **given}).items())
    limit = f.max_new_tokens or exp.task.max_new_tokens
    if f.prompt is not None:
      return console.put(stream(exp, variables, asked(exp, f.prompt), limit, decoding, in_chat(exp), f.stop))
    turns = in_chat(exp) or any('messages' in row for row in rows)
    stops = [[*f.stop, *(() if has_own(exp, row) else exp.task.stop)] for row in rows]
    found = answer_all(exp, variables, rendered(exp, rows), limit, decoding, turns, stops)
    with open(f.output if processes.is_primary() else os.devnull, 'w', encoding='utf-8') as out:
      for row, answer in zip(rows, found):
        out.write(json_text.dumps({**row, 'prediction': answer}, default=str) + '\n')
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
  flags.DEFINE_multi_string('stop', [], 'text that answers end before; may be given several times')
  cli.decoding_flags()
  cli.run(main, __doc__)
