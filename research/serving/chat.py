"""A conversation in a terminal with the runs that a server would answer with: the same engine, a history, a few commands."""

import dataclasses
import queue
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from research.data import prompts, templates
from research.errors import InputError
from research.evaluation.decoding import Decoding, of_pairs
from research.experiment.assemble import Experiment
from research.serving import models
from research.serving.engine import CONTEXT, Engine
from research.serving.requests import CANCELLED, FAILED, Ended, Event, Piece, Request

COMMANDS = {'/help': 'tells these', '/model NAME': 'asks another model, with the same history', '/quit': 'ends, as Ctrl-D does',
            '/reset': 'forgets the conversation', '/system TEXT': 'what the model is told first; without TEXT nothing'}
HELP = '\n'.join(f'{command:14}{what}' for command, what in COMMANDS.items()) + (
    '\nCtrl-C stops an answer. A line that begins with a blank is no command.')
Put = Callable[[str], None]


class Asked(NamedTuple):
  """How answers are written."""
  decoding: dict[str, Any]              # settings that were given; none but a seed: each run's own
  max_new_tokens: int | None = None     # None: each run's own
  stop: tuple[str, ...] = ()


@dataclasses.dataclass
class Talk:
  """A conversation so far."""
  model: str
  turns: list[dict[str, str]] = dataclasses.field(default_factory=list)
  system: str = ''
  asked: int = 0                        # lines that were answered: each draws by a seed of its own

  def messages(self, line: str) -> list[dict[str, str]]:
    """All turns, and the one that is asked now."""
    first = [{'role': 'system', 'content': self.system}] if self.system else []
    return [*first, *self.turns, {'role': 'user', 'content': line}]


def chat(workdirs: Sequence[Path], study: Path | None, asked: Asked, allow_changed: bool = False) -> None:
  """Talks with a person at the terminal until they end it; input that is no terminal is read line by line.

  Runs that cannot be served together, and settings that an answer to one of several cannot have, are refused (`InputError`).

  Args:
    workdirs: of runs.
    study: of a study whose chosen runs are wanted.
    asked: how answers are written.
    allow_changed: although a run was made from something else than is there now.
  """
  runs = models.load(models.named(workdirs, study), allow_changed)
  for run in runs:
    decoding_of(asked, run.exp)
  context = min(CONTEXT, max(run.exp.context for run in runs))
  engine = Engine(*models.group(runs), slots=1, context=context)
  with answering(engine):
    talk(engine, asked, _typed(), _written)


@contextmanager
def answering(engine: Engine) -> Iterator[None]:
  """Has an engine answer on a thread of its own until the end of the block."""
  thread = threading.Thread(target=engine.run, name='engine', daemon=True)
  thread.start()
  try:
    yield
  finally:
    engine.stop()
    thread.join()


def _typed() -> Iterator[str]:
  """The lines that a person types."""
  if not sys.stdin.isatty():
    for line in sys.stdin:
      yield line.rstrip('\n')
    return
  with suppress(ImportError):      # lines are edited, and earlier ones found again, where Python was built so
    import readline  # noqa: F401
  while True:
    with suppress(EOFError):
      yield input('> ')
      continue
    return


def _written(text: str) -> None:
  print(text, end='', flush=True)


def talk(engine: Engine, asked: Asked, lines: Iterator[str], put: Put) -> None:
  """Answers lines until there are no more, one says `/quit`, or Ctrl-C is pressed where one is awaited.

  Args:
    engine: somebody runs it.
    asked: how answers are written.
    lines: what the person types.
    put: writes text, without a line break of its own.
  """
  state = Talk(next(iter(engine.models)))
  put(f'{_manner(engine, state.model)}\n/help tells the commands.\n')
  while True:
    try:
      line = next(lines)
    except (StopIteration, KeyboardInterrupt):
      put('\n')
      return
    if line.strip() == '/quit':
      return
    if line.startswith('/'):
      put(_command(engine, state, line) + '\n')
    elif line.strip():
      _turn(engine, asked, state, line.strip(), put)


def _manner(engine: Engine, name: str) -> str:
  """How a model is asked, for a person."""
  exp = engine.models[name].exp
  if exp.tokenizer.hf.chat_template:
    return f'{name}: a chat in the model\'s template, with its history.'
  if column := _column(exp):
    return (f'{name}: the model has no chat template.\nEach line by itself is put into the task\'s prompt as {{{column}}}, '
            'without history.')
  return f'{name}: the model has no chat template.\nEach line by itself is continued as it is, without history.'


def _column(exp: Experiment) -> str:
  """The column of a task that asks for one alone."""
  columns = {*templates.fields_of(exp.task.prompt)} if exp.task.prompt and not exp.task.chat else set()
  return columns.pop() if len(columns) == 1 else ''


def _command(engine: Engine, state: Talk, line: str) -> str:
  """Does what a command says, and gives what is told of it."""
  name, _, rest = line.strip().partition(' ')
  rest = rest.strip()
  if name == '/help':
    return HELP
  if name == '/reset':
    state.turns.clear()
    return 'a new conversation' + (', with the same system turn' if state.system else '')
  if name == '/model':
    if rest not in engine.models:
      return f'{f"no model is called {rest!r}" if rest else state.model} (models: {", ".join(engine.models)})'
    state.model = rest
    return _manner(engine, rest)
  if name == '/system':
    tokenizer = engine.models[state.model].exp.tokenizer
    try:
      tokenizer.chat(Talk(state.model, system=rest).messages('?'))
    except InputError as e:
      return f'error: {e}'
    state.system = rest
    return 'the system turn is kept' if rest else 'no system turn'
  return f'{name}: no such command (commands: {", ".join(COMMANDS)})'


def _turn(engine: Engine, asked: Asked, state: Talk, line: str, put: Put) -> None:
  """Answers a line, and keeps both where there is a history."""
  try:
    request, left_out = _request(engine, asked, state, line)
  except InputError as e:
    put(f'error: {e}\n')
    return
  except KeyboardInterrupt:
    put('\n')
    return
  if left_out:
    put(f'(the oldest {left_out} turns are left out: the conversation is over the context)\n')
    del state.turns[:left_out]
  said, end = _answer(engine, request, put)
  put('\n')
  state.asked += 1
  if end.how == FAILED:
    put(f'error: {end.error}\n')
  elif end.how == CANCELLED:
    put('(stopped)\n')
  if said and end.how != FAILED and engine.models[state.model].exp.tokenizer.hf.chat_template:
    state.turns += [{'role': 'user', 'content': line}, {'role': 'assistant', 'content': said}]


def _answer(engine: Engine, request: Request, put: Put) -> tuple[str, Ended]:
  """Writes an answer as it comes: (its text, its end). Ctrl-C ends it."""
  events, said = queue.SimpleQueue[Event](), ''
  ticket = engine.submit(request, events.put)
  while True:
    try:
      event = events.get()
      if isinstance(event, Ended):
        return said, event
      if isinstance(event, Piece):
        said += event.text
        put(event.text)
    except KeyboardInterrupt:
      engine.cancel(ticket)


def _request(engine: Engine, asked: Asked, state: Talk, line: str) -> tuple[Request, int]:
  """(what the engine is asked, how many of the oldest turns are left out so that it fits).

  Raises:
    InputError: the line alone is too long, or the template refuses it.
  """
  exp = engine.models[state.model].exp
  tokenizer, encoder = exp.tokenizer, exp.model.config.has_encoder
  chats = bool(tokenizer.hf.chat_template)
  limit = asked.max_new_tokens or exp.task.max_new_tokens
  context = min(exp.context - exp.strategy.prefix_slots, engine.reader.context)

  def read(left_out: int) -> list[int]:
    if not chats:
      column = _column(exp)
      text = templates.fill(exp.task.prompt, {column: line}) if column else line
    else:
      text = tokenizer.chat(dataclasses.replace(state, turns=state.turns[left_out:]).messages(line))
    return [*prompts.placeholders(exp.strategy.slots), *tokenizer.prompt(text)]
  most = len(state.turns) if chats else 0
  for left_out in range(0, most + 1, 2):
    ids = read(left_out)
    if ids and prompts.tokens_needed(len(ids), limit, encoder) <= context:
      break
  else:
    raise InputError(f'this turn has {len(ids)} tokens; with {limit} to come that is over the context of {context}; say less, '
                     'or give a smaller --max_new_tokens')
  decoding = decoding_of(asked, exp)
  ends = (*tokenizer.ends, *([tokenizer.end_of_turn()] if chats else []))
  stops = (*asked.stop, *(() if chats or not _column(exp) else exp.task.stop))
  return Request(state.model, tuple(ids), limit, tuple(dict.fromkeys(ends)), stops,
                 decoding._replace(seed=(decoding.seed + state.asked) % 2 ** 31)), left_out


def decoding_of(asked: Asked, exp: Experiment) -> Decoding:
  """How a run's answers are written: as was given, or else as its task says.

  Raises:
    InputError: that is by beams, or looks back at tokens.
  """
  given = asked.decoding
  found = of_pairs((given if given.keys() - {'seed'} else {**dict(exp.task.decoding), **given}).items())
  if found.looks_back or found.beams > 1:
    name = next(name for name in ('beams', 'repetition_penalty', 'no_repeat_ngram') if name in found.said())
    raise InputError(f'--chat: {name}={getattr(found, name)}: an answer is written token by token, with neither beams nor what '
                     'looks back at earlier tokens; give --temperature=0, or another one')
  return found
