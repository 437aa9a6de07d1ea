r"""Generates text with a run, or with a base model.

    python -m research.generate --workdir=runs/lora --prompt='Review: I loved it.\nSentiment:'
    python -m research.generate --config=configs/default.py --config.strategy.name=few_shot \
      --input=prompts.jsonl --output=answers.jsonl
    python -m research.generate --workdir=runs/lora,runs/full --chat

--prompt is put to the model as it is (\n is a line break); --input holds one object a line, with the columns that the task's
own prompt names, whose answer ends at task.stop too, or with a `prompt` of its own. Where a run has learned from `messages`, a
prompt is the user's turn in the chat template. All lines are checked before the first is answered, and answers are written as
they come; that to --prompt token by token on a terminal. What is drawn depends on --seed and a prompt's number alone. --chat
talks in this terminal with runs of one base, or with those that a --study chose.
"""

from pathlib import Path

from absl import flags

from research import cli, console
from research.data import formats
from research.distributed import mesh, partition
from research.errors import InputError
from research.evaluation.decoding import of_pairs
from research.runs.generate import answer_file, answering, asked, in_chat, stream
from research.serving import chat


def main() -> None:
  f = flags.FLAGS
  if f.chat:
    return _chat()
  if f.study:
    raise InputError(f'--study={f.study}: goes with --chat; give --workdir of one of its runs')
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
    cli.required('workdir' if f.workdir else 'config')
    exp, variables = answering(Path(f.workdir) if f.workdir else None, f.config, f.allow_changed)
    decoding = of_pairs((given if given.keys() - {'seed'} else {**dict(exp.task.decoding), **given}).items())
    limit = f.max_new_tokens or exp.task.max_new_tokens
    if f.prompt is not None:
      return console.put(stream(exp, variables, asked(exp, f.prompt), limit, decoding, in_chat(exp), f.stop))
    answer_file(exp, variables, rows, limit, decoding, f.stop, Path(f.output))


def _chat() -> None:
  f = flags.FLAGS
  if f.config is not None or f.prompt is not None or f.input or f.output or not (f.workdir or f.study):
    raise InputError('--chat talks with finished runs: give --workdir=RUN[,RUN...] or --study=STUDY with it, and no --config, '
                     '--prompt, --input or --output')
  given, workdirs = cli.decoding_given(), [Path(one).expanduser() for one in (f.workdir or '').split(',') if one]
  chat.chat(workdirs, Path(f.study) if f.study else None, chat.Asked(given, f.max_new_tokens, (*f.stop,)), f.allow_changed)


if __name__ == '__main__':
  cli.config_flag()
  cli.process_flags()
  flags.DEFINE_string('workdir', None, 'a run, or with --chat several (A,B); its best step answers')
  flags.DEFINE_string('study', None, 'with --chat: a study, whose chosen runs answer')
  flags.DEFINE_bool('chat', False, 'talk with runs in this terminal')
  cli.changed_flag()
  flags.DEFINE_string('prompt', None, 'text to continue')
  flags.DEFINE_string('input', None, 'JSON-lines file of prompts')
  flags.DEFINE_string('output', None, 'JSON-lines file to write: the input rows with `prediction`')
  flags.DEFINE_integer('max_new_tokens', None, 'longest answer; the task\'s own where not given', lower_bound=1)
  flags.DEFINE_multi_string('stop', [], 'text that answers end before; may be given several times')
  cli.decoding_flags()
  cli.run(main, __doc__)
