"""Answers to prompts, by a run or a base model."""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from research import json_text, tree
from research.config import Config
from research.data import chats, prompts, templates
from research.distributed import processes
from research.errors import InputError
from research.evaluation import decode, harness, shared_prefix
from research.evaluation.decoding import Decoding
from research.experiment import restore
from research.experiment.assemble import Experiment, assemble
from research.tree import Tree

AT_ONCE = 128      # prompts whose answers are written together


def answering(workdir: Path | None, config: Config | None, allow_changed: bool) -> tuple[Experiment, Tree]:
  """What answers: (the experiment, its variables at the best step of a run, or of a base model).

  Args:
    workdir: of a run; None: the config's base model.
    config: looked at where there is no run.
    allow_changed: although the run was made from something else than is there now.
  Raises:
    InputError: there is no run, and the config's strategy has to learn first.
  """
  if workdir:
    exp = restore.of_run(workdir, allow_changed=allow_changed, scan='auto')
    return exp, restore.learned(workdir, exp)
  exp = assemble(config, trains=False)
  if exp.strategy.learns and not exp.settings.strategy.init_from:
    raise InputError(f'strategy {exp.strategy.name} has to learn first: give --workdir of a run, '
                     '--config.strategy.init_from=FOLDER, or --config.strategy.name=few_shot for the base model')
  return exp, tree.join(*restore.variables(exp))


def answer_all(exp: Experiment, variables: Tree, texts: list[str], max_new_tokens: int, decoding: Decoding,
               chat: bool = False, stops: Sequence[Sequence[str]] | None = None) -> Iterator[str]:
  """The model's continuation of every prompt, one after the other; all prompts are looked at before the first.

  One that is empty, or that would not fit the context with its answer, is refused (`InputError`).

  Args:
    exp: gives the model, its tokenizer and its context.
    variables: the model's, deltas among them.
    texts: the prompts, one or more.
    max_new_tokens: where an answer ends that does not by itself.
    decoding: how tokens are chosen.
    chat: whether the prompts are turns in the chat template, whose end of a turn ends an answer too.
    stops: of each prompt the texts that its answer ends before; None: there are none.
  """
  ids = _checked(exp, texts, max_new_tokens)
  return _answers(exp, variables, ids, max_new_tokens, decoding, chat, stops or [()] * len(ids))


def answer_file(exp: Experiment, variables: Tree, rows: list[dict[str, Any]], max_new_tokens: int, decoding: Decoding,
                stop: Sequence[str], output: Path) -> None:
  """Writes input rows with their answers as `prediction`, one object a line, as they come; refused as by `rendered`.

  Args:
    exp: as for `answer_all`, as are the others.
    variables: the model's.
    rows: with a prompt of their own, or columns of the task.
    max_new_tokens: where an answer ends that does not by itself.
    decoding: how tokens are chosen.
    stop: texts that every answer ends before; the answer to the task's own prompt also before the task's.
    output: the file.
  """
  turns = in_chat(exp) or any('messages' in row for row in rows)
  stops = [[*stop, *(() if has_own(exp, row) else exp.task.stop)] for row in rows]
  found = answer_all(exp, variables, rendered(exp, rows), max_new_tokens, decoding, turns, stops)
  with open(output if processes.is_primary() else os.devnull, 'w', encoding='utf-8') as out:
    for row, answer in zip(rows, found):
      out.write(json_text.dumps({**row, 'prediction': answer}, default=str) + '\n')
      out.flush()


def stream(exp: Experiment, variables: Tree, text: str, max_new_tokens: int, decoding: Decoding, chat: bool = False,
           stop: Sequence[str] = ()) -> Iterator[str]:
  """The continuation of one prompt in pieces, as they come; together they are what `answer_all` gives, which refuses the same.

  Args:
    exp: as for `answer_all`, as are the others.
    variables: the model's.
    text: the prompt.
    max_new_tokens: where an answer ends that does not by itself.
    decoding: how tokens are chosen.
    chat: whether the prompt is a turn in the chat template.
    stop: texts that the answer ends before.
  """
  [ids] = _checked(exp, [text], max_new_tokens)
  variables, cut = shared_prefix.read(exp.model, variables, [ids])
  growing = decode.stream(exp.model, variables, ids[cut:], max_new_tokens, _ends(exp, chat), decoding,
                          harness.ended_by(exp.tokenizer, lambda number: stop), ids[:cut])
  return in_pieces(map(exp.tokenizer.decode, growing), stop)


def in_pieces(texts: Iterable[str], stop: Sequence[str] = ()) -> Iterator[str]:
  """What can be told of a text as it grows, piece by piece; together they are the last text, up to a stop.

  What may be half a character, or the beginning of a stop, is told when it is known to be none.

  Args:
    texts: the text so far, each time that it has grown.
    stop: texts that it ends before.
  """
  told = text = ''
  for text in texts:
    text = harness.cut(text, stop)
    sure = certain(text, stop)
    if len(sure) > len(told) and sure.startswith(told):
      yield sure[len(told):]
      told = sure
  if len(text) > len(told):
    yield text[len(told):]


def certain(text: str, stop: Sequence[str] = ()) -> str:
  """The part of a growing text that stays as it is.

  Args:
    text: so far, before any stop.
    stop: texts that it will end before.
  """
  sure = text.rstrip(HALF)
  return sure[:len(sure) - max((n for one in stop for n in range(1, len(one)) if sure.endswith(one[:n])), default=0)]


HALF = '\ufffd'      # what stands in a text for bytes that are no whole character


def _checked(exp: Experiment, texts: list[str], max_new_tokens: int) -> list[list[int]]:
  """The ids of prompts.

  Raises:
    InputError: one is empty, or would not fit the context with its answer.
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
  return ids


def _ends(exp: Experiment, chat: bool) -> list[int]:
  return [*exp.tokenizer.ends, *([exp.tokenizer.end_of_turn()] if chat else [])]


def _answers(exp: Experiment, variables: Tree, ids: list[list[int]], max_new_tokens: int, decoding: Decoding, chat: bool,
             stops: Sequence[Sequence[str]]) -> Iterator[str]:
  """The same of prompts that fit."""
  variables, cut = shared_prefix.read(exp.model, variables, ids)
  ended = harness.ended_by(exp.tokenizer, stops.__getitem__) if any(stops) else None
  for first in range(0, len(ids), AT_ONCE):
    some = [i[cut:] for i in ids[first:first + AT_ONCE]]
    found = decode.generate(exp.model, variables, some, max_new_tokens, _ends(exp, chat), min(16, len(some)), decoding,
                            first=first, ended=ended, read=ids[0][:cut])
    for number, answer in enumerate(found, first):
      yield harness.cut(exp.tokenizer.decode(answer), stops[number])


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
        row = chats.as_messages(row) if 'messages' in row or not exp.task.prompt else row
        if 'messages' in row:
          chats.check(row['messages'])
        missing = [c for c in templates.fields_of(exp.task.prompt) if c not in row]
        if (missing or not exp.task.prompt) and 'messages' not in row:
          raise InputError(f'has neither `prompt` nor {f"the column {missing[0]!r} of the task" if missing else "`messages`"}')
        texts.append(prompts.render(exp.task, row, exp.tokenizer, exp.demonstrations(row)))
    except InputError as e:
      raise InputError(f'--input line {number}: {e}') from None
  return texts
