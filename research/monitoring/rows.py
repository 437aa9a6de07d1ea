"""A reference's rows as prompts, and what of a prompt a person said."""

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from research.data import chats, formats, prompts, sources, tasks
from research.data.rows import Row
from research.data.templates import fields_of
from research.errors import InputError
from research.evaluation.words import words
from research.experiment.assemble import Experiment
from research.preparation import personal
from research.preparation.examine import LANGUAGE_FROM

MOST = 1000       # rows of each part of a reference, drawn where there are more
FEWEST = 20       # rows of each part
SAID = '§said§'


class Prompt(NamedTuple):
  """A reference row as the model is asked it."""
  text: str       # masked as a log is
  label: str      # the right choice; '' without choices


class Rows(NamedTuple):
  """A reference, before the model has read it."""
  learned: list[Prompt]      # scores are made by these
  fresh: list[Prompt]        # requests are ranked among these
  held_out: bool             # whether the fresh ones are of splits that no run trains on
  fingerprint: str


def read(folder: Path, experiment: Experiment, seed: int = 0) -> Rows:
  """The rows of a reference under a run's task, in an order that is drawn.

  Scores are made by training rows; fresh are those of valid and test, or where these are too few half of all.

  Args:
    folder: prepared, or with train.jsonl and others.
    experiment: the run's.
    seed: of what is drawn.
  Raises:
    InputError: the folder holds no rows, too few, or rows without the columns that the run's template names.
  """
  if experiment.task.name == tasks.TEXT:
    raise InputError('--workdir: the run learned plain text, which has no prompts to hold traffic against; give one of a task')
  splits = _splits(folder, bool(experiment.task.prompt))
  rng = np.random.Generator(np.random.Philox(key=[seed, 0]))
  drawn = lambda rows: [rows[n] for n in rng.permutation(len(rows))[:2 * MOST].tolist()]
  train, held_out = splits.get('train', []), [row for split in ('valid', 'test') for row in splits.get(split, ())]
  fingerprint = sources.fingerprint([*train, *held_out])
  if apart := min(len(train), len(held_out)) >= FEWEST:
    learned, fresh = drawn(train), drawn(held_out)
  else:
    every = drawn([*train, *held_out])
    learned, fresh = every[::2], every[1::2]
  if len(fresh) < FEWEST:
    raise InputError(f'--reference={folder}: holds {len(train) + len(held_out)} rows; {2 * FEWEST} or more are needed, so that '
                     'some make the scores and others are what requests are ranked among')
  made = [[_prompt(experiment, row, folder) for row in rows[:MOST]] for rows in (learned, fresh)]
  return Rows(made[0], made[1], apart, fingerprint)


def _splits(folder: Path, has_prompt: bool) -> dict[str, list[Row]]:
  if not folder.is_dir():
    raise InputError(f'--reference={folder}: no such folder; give one that research.prepare made, or one with train.jsonl')
  if (folder / sources.TASK).exists():
    where = sources.prepared(folder, dict.fromkeys(sources.SPLITS))[0]
  else:
    where = {split: str(folder / f'{split}.jsonl') for split in sources.SPLITS if (folder / f'{split}.jsonl').exists()}
  if not any(where.values()):
    raise InputError(f'--reference={folder}: holds none of train.jsonl, valid.jsonl and test.jsonl')
  return {split: chats.converted(formats.rows(Path(file)), has_prompt, f'--reference={folder}, {split}')
          for split, file in where.items() if file}


def _prompt(experiment: Experiment, row: Row, folder: Path) -> Prompt:
  """A row's prompt, masked as a log is.

  Raises:
    InputError: it lacks columns, which are named.
  """
  task = experiment.task
  if 'messages' not in row and (missing := [c for c in dict.fromkeys(fields_of(task.prompt)) if c not in row]):
    raise InputError(f'--reference={folder}: no column {", ".join(map(repr, missing))}, which the run\'s template '
                     f'{task.prompt!r:.80} names (columns: {", ".join(map(str, row))})')
  try:
    text = prompts.render(task, row, experiment.tokenizer, experiment.demonstrations(row))
    label = tasks.label_of(task, row) if task.choices and not task.own_choices and not task.rejected else ''
  except (InputError, KeyError) as e:
    raise InputError(f'--reference={folder}: is not of the run\'s task ({e})') from None
  return Prompt(str(personal.mask({'prompt': text})[0]['prompt']), label)


def said(experiment: Experiment) -> Callable[[str], str]:
  """Prompt -> what of it is not the task's template: the texts in its columns, or a chat's one turn; else the prompt."""
  task, patterns = experiment.task, []
  columns = dict.fromkeys(fields_of(task.prompt), SAID)
  templates = [(task.prompts or (task.prompt,))[0]] if task.prompt and not experiment.strategy.shots else []
  if templates and '[' not in ''.join(re.findall(r'{.*?}', templates[0])):
    frames = [re.sub(r'{(\w+)[^{}]*}', SAID, templates[0]).replace('{{', '{').replace('}}', '}')] if columns else []
    patterns += [experiment.tokenizer.chat([{'role': 'user', 'content': frame}]) if task.chat else frame for frame in frames]
  if experiment.tokenizer.hf.chat_template:
    patterns.append(experiment.tokenizer.chat([{'role': 'user', 'content': SAID}]))
  known = [re.compile('(.*?)'.join(map(re.escape, pattern.split(SAID))), re.S) for pattern in patterns]

  def found(prompt: str) -> str:
    for pattern in known:
      if match := pattern.fullmatch(prompt):
        return '\n'.join(match.groups())
    return prompt
  return found


def language(text: str) -> str:
  """The language of a text, as ISO 639-1 writes it; '' where it is too short to tell."""
  if len(text.strip()) < LANGUAGE_FROM:
    return ''
  import py3langid
  return str(py3langid.classify(text)[0])


def vocabulary(texts: list[str]) -> frozenset[str]:
  """All words of some texts."""
  return frozenset(Counter(word for text in texts for word in words(text)))


def unknown(text: str, known: frozenset[str]) -> float:
  """The share of a text's words that are not known; 0 of a text without words."""
  found = words(text)
  return sum(word not in known for word in found) / len(found) if found else 0.0
