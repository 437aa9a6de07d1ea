"""What the verbs share: flags, the one-line error, and how a signal ends them."""

import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import jax
from absl import flags
from absl import logging as absl_logging
from ml_collections import ConfigDict, config_flags

from research import json_text, shipped
from research.data import templates
from research.distributed import device, processes
from research.errors import InputError
from research.evaluation.decoding import Decoding, check

flags.disclaim_key_flags()      # what is defined here belongs to the verb that asks for it


def config_flag(default: str | None = None) -> None:
  """Defines `--config=configs/NAME.py[:variant]`, with `--config.FIELD=VALUE` to override any field."""
  config_flags.DEFINE_config_file('config', default, 'a shipped config, NAME[:variant], or a file, PATH.py[:variant]; override '
                                  'any field with --config.FIELD=VALUE', lock_config=True)


def changed_flag() -> None:
  """Defines the flag of a verb that uses a run directory (see `provenance.check`)."""
  flags.DEFINE_bool('allow_changed', False, 'use a run although its rows, tokenizer, base model or config were changed since; '
                    'the change is recorded')


def decoding_flags() -> None:
  """Defines how a verb's answers are generated (see `decoding.Decoding`); what is not given is None."""
  flags.DEFINE_float('temperature', None, '0: the likeliest token each time; above: drawn from softmax(logits / temperature)')
  flags.DEFINE_integer('top_k', None, 'draw from the k likeliest tokens; 0: from all')
  flags.DEFINE_float('top_p', None, 'draw from the fewest tokens that hold this share of the probability')
  flags.DEFINE_float('min_p', None, 'draw from the tokens at least so likely as this times the likeliest')
  flags.DEFINE_float('repetition_penalty', None, 'above 1: tokens that stood in prompt or answer are less likely')
  flags.DEFINE_integer('no_repeat_ngram', None, 'no so many tokens stand twice in prompt and answer; 0: they may')
  flags.DEFINE_integer('beams', None, 'of beam search; 1: none')
  flags.DEFINE_float('length_penalty', None, 'beams are compared by log-likelihood / length ** this; usually 1')
  flags.DEFINE_integer('early_stopping', None, '1: beam search ends with as many answers as beams; 0: when none can improve')
  flags.DEFINE_integer('seed', None, 'of the drawing; usually 0', lower_bound=0, upper_bound=2 ** 31 - 1)


def decoding_given() -> dict[str, Any]:
  """The flags of `decoding_flags` that were given; such as cannot be are refused (`InputError`)."""
  given: dict[str, Any] = {name: flags.FLAGS[name].value for name in Decoding._fields if flags.FLAGS[name].value is not None}
  check(Decoding(**given), '--')
  return given


OWN = ('coordinator', 'process')      # flags that differ between processes


def process_flags() -> None:
  """Defines what a verb is told that runs in several processes at once."""
  flags.DEFINE_string('coordinator', None, 'host:port of process 0 of several that run this command together; TPU slices, '
                      'SLURM, Open MPI and Kubernetes tell it themselves')
  flags.DEFINE_integer('processes', None, 'how many they are', lower_bound=1)
  flags.DEFINE_integer('process', None, 'which of them this is, from 0', lower_bound=0)


def _join(saves: bool) -> None:
  """Makes this one of several processes, where there are some, and refuses what they were given differently."""
  f = flags.FLAGS
  if 'coordinator' not in f:
    return
  processes.begin(f.coordinator, f.processes, f.process, saves)

  def given() -> dict[str, Any]:
    from research.config import plain
    from research.experiment import provenance
    config = {} if f.config is None else json_text.flat({'config': plain(f.config)})
    said = {flag.name: flag.value for flag in f.get_key_flags_for_module('__main__') if flag.name not in ('config', *OWN)}
    return {**config, **said, 'the code': provenance.code(), 'jax': jax.__version__}
  processes.assert_equal_across_processes(given)


def run(main: Callable[[], None], doc: str, saves: bool = False, stopped: str = 'the same command resumes from here') -> None:
  """Parses the flags, runs a verb, and turns what a person can put right into one line and exit status 2.

  Ctrl-C ends with 130 and SIGTERM with 143, after what must be saved is saved.

  Args:
    main: the verb, called once its flags are parsed.
    doc: what --help prints before the flags.
    saves: whether, of several processes that were asked to end, all go on to the same step and save (see `processes.begin`).
    stopped: what is told where it was stopped.
  Raises:
    JaxRuntimeError: in a process that is alone: then it is no other process that died.
  """
  if any(a in ('--help', '-h', '-help') for a in sys.argv[1:]):
    listed = flags.FLAGS.module_help('__main__').replace('__main__:\n', '').lstrip('\n')
    print(f'{doc.strip()}\n\nFlags:\n{listed}')
    sys.exit(0)
  absl_logging.set_verbosity(absl_logging.FATAL)         # Orbax narrates every save, and what it raises it also logs
  sys.unraisablehook = _unless_closed
  warnings.filterwarnings('ignore', message='.*(Sharding info not provided|donated buffers).*')
  from research.training.signals import Stopped
  def stop(signum: int, frame: Any) -> NoReturn:
    raise Stopped(signum)
  signal.signal(signal.SIGTERM, stop)
  try:
    _parse()
    device.configure_jax()
    _join(saves)
    main()
    sys.stdout.flush()
  except (InputError, flags.Error) as e:
    text, last = str(e), str(e).strip().rpartition('\n')[2]
    _end(2, 'error: ' + ' '.join((last if 'Traceback' in text else text).split()))
  except BrokenPipeError:                          # whoever read what is printed has seen enough
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    _end(128 + signal.SIGPIPE)
  except OSError as e:
    where = f'{e.filename}: ' if e.filename is not None else ''
    again = '; the same command resumes from the last checkpoint' if saves else ''
    _end(2, f'error: {where}{e.strerror or e}{again}')
  except Stopped as e:
    _end(128 + e.signum, f'stopped; {stopped}')
  except KeyboardInterrupt:
    _end(130, f'stopped; {stopped}')
  except jax.errors.JaxRuntimeError as e:
    if not processes.is_multiprocess():
      raise
    why = str(e).strip().partition('\n')[0]
    print(f'error: process {jax.process_index()} cannot go on, as when another died ({why:.300}); the same command, in all '
          'of them, resumes from the last checkpoint', file=sys.stderr, flush=True)
    os._exit(1)                   # an orderly end would wait for the other
  except BaseException as e:  # what a library in Rust cannot go on with is no `Exception`
    if type(e).__name__ != 'PanicException':
      raise
    _end(2, f'error: the tokenizers library cannot go on ({" ".join(str(e).split()):.200}); is tokenizer.json damaged?')


def _unless_closed(unraisable: Any, tell: Callable[[Any], None] = sys.unraisablehook) -> None:
  """Tells what went wrong where nothing can be raised, but for reads that Orbax had begun when an error ended it."""
  if not (isinstance(unraisable.exc_value, RuntimeError) and 'Event loop is closed' in str(unraisable.exc_value)):
    tell(unraisable)


def _end(status: int, line: str = '') -> NoReturn:
  """Ends the process with a status, and with a line on standard error that nothing follows.

  What libraries say of their own unfinished work is not told, and a second signal changes nothing.
  """
  for signum in (signal.SIGTERM, signal.SIGINT):
    signal.signal(signum, signal.SIG_IGN)
  sys.unraisablehook = lambda unraisable: None
  logging.disable(logging.CRITICAL)
  warnings.simplefilter('ignore')
  if line:
    print(line, file=sys.stderr, flush=True)
  sys.exit(status)


TEMPLATES = ('--prompt', '--stop', *(f'--config.task.{field}' for field in templates.FIELDS),
             *(f'--config.{field}' for field in ('text', 'prompt', 'target')))      # of `prepare`


def _with_templates(arguments: list[str]) -> list[str]:
  """A command line whose templates are as they were meant."""
  out: list[str] = []
  for argument in arguments:
    name, is_given, value = argument.partition('=')
    if is_given and f'--{name.lstrip("-")}' in TEMPLATES:
      argument = f'{name}={templates.unescaped(value)}'
    elif out and f'--{out[-1].lstrip("-")}' in TEMPLATES and out[-1].startswith('-'):
      argument = templates.unescaped(argument)
    out.append(argument)
  return out


def _with_pairs(arguments: list[str]) -> list[str]:
  """A command line on which --compare A B is that flag given twice."""
  out = list(arguments)
  at = next((i for i, a in enumerate(out) if a.partition('=')[0] == '--compare'), None)
  if at is not None:
    after = out[at + 1:at + (2 if '=' in out[at] else 3)]
    values = [a for a in after if not a.startswith('-')]
    if values == after:
      given = out[at].split('=', 1)[1:]
      out[at:at + 1 + len(after)] = [f'--compare={value}' for value in (*given, *values)] or [out[at]]
  return out


# Flags that name a file or folder.
PLACES = ('workdir', 'input', 'output', 'include_path', 'against', 'log', 'reference', 'versions')


def _parse() -> None:
  sys.argv[1:] = _with_templates(sys.argv[1:])
  given = [a.lstrip('-').split('=')[0] for a in sys.argv[1:] if a.startswith('--config.')]
  for name in ('config', *given):
    times = sum(a == f'--{name}' or a.startswith(f'--{name}=') for a in sys.argv[1:])
    if times > 1:
      raise InputError(f'--{name} is given {times} times; give it once' + (
          ', and change its fields by --config.FIELD=VALUE' if name == 'config' else ''))
  path = next((a.split('=', 1)[1] if '=' in a else following for a, following in zip(sys.argv[1:], [*sys.argv[2:], ''])
               if a == '--config' or a.startswith('--config=')), None)
  arguments = _with_pairs(sys.argv)
  if path is not None:
    at = next(i for i, a in enumerate(arguments) if a == '--config' or a.startswith('--config='))
    file = shipped.path('config', path)
    arguments[at:at + (1 if '=' in arguments[at] else 2)] = [f'--config={file}']
    path = file
  if given and path is None and 'config' in flags.FLAGS and flags.FLAGS['config'].default is None:
    raise InputError(f'--{given[0]} needs --config=NAME, a shipped config, or --config=PATH.py')
  try:
    rest = flags.FLAGS(arguments)
  except flags.Error:
    raise
  except Exception as e:  # a person's own config file can raise anything
    raise InputError(_explain(path, given, e)) from None
  for name in PLACES:
    said = flags.FLAGS[name].value if name in flags.FLAGS else None
    if isinstance(said, str) and said.startswith('~'):      # no shell looks into --NAME=~
      flags.FLAGS[name].value = os.path.expanduser(said)
  if len(rest) > 1:
    raise InputError(f'unexpected argument {rest[1]!r}; flags are given as --name=value')


def _explain(path: str | None, given: list[str], error: Exception) -> str:
  """Which of the overridden fields the config does not have."""
  import difflib

  from ml_collections.config_flags import config_flags as machinery
  if path is None:
    given = []
  else:
    try:
      config = machinery._LoadConfigModule('config', path.split(':')[0]).get_config(*path.split(':')[1:])
    except Exception:  # the config file itself is broken: then that is what to tell
      given = []
  for field in given:
    node, parts = config, field.split('.')[1:]
    for i, part in enumerate(parts):
      if not isinstance(node, ConfigDict) or part not in node:
        near = difflib.get_close_matches(part, list(node) if isinstance(node, ConfigDict) else [], 1)
        hint = f'; did you mean {".".join([*parts[:i], near[0]])}?' if near else ''
        return f'unknown config field {".".join(parts)!r}{hint}'
      node = node[part]
  return f'--config={path}: {type(error).__name__}: {error}'


def check_output(path: Path) -> None:
  """Refuses a file that could not be written, before anything is computed; makes its folder.

  Raises:
    InputError: a folder stands there, or a file where its folder should be.
  """
  if path.is_dir():
    raise InputError(f'--output={path}: is a folder; give the name of a file')
  there = path.exists()
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK))      # a pipe that nobody reads is an error
    if not there:
      path.unlink(missing_ok=True)      # another process of the same run may have looked too
  except OSError as e:
    raise InputError(f'--output={path}: cannot be written ({e.strerror})') from None


def required(*names: str) -> None:
  """Refuses to go on without these flags.

  Raises:
    InputError: names the first that was not given.
  """
  for name in names:
    if not flags.FLAGS[name].value:
      raise InputError(f'--{name} is missing; --help shows an example')
