"""What a run leaves behind: the names of its files, and how they are written so that a kill cannot tear them.

Of several processes the first writes, and the others' calls do nothing.
"""

import fcntl
import os
import shutil
import socket
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from research import config as configs
from research.distributed import processes
from research.errors import InputError, InUse
from research.json_text import NUMBER, dumps, expect, flat, loads

CONFIG, PROVENANCE, RESULT, METRICS = 'config.json', 'provenance.json', 'result.json', 'metrics.jsonl'
CHECKPOINTS, PREDICTIONS, TENSORBOARD = 'checkpoints', 'predictions', 'tensorboard'
VISIBLE = 60             # seconds after which a network file system shows to all what one process wrote
UNFINISHED = '.tmp'      # how the name of a file ends as long as it is not whole
SITES, FIXED = 'sites.json', 'fixed.safetensors'
PATTERNS = ('*', '?', '[', ']', '\\')
LOCK = '.lock'           # held by the process that is at work in a folder
# What the files that a run leaves must hold to be read (see `expect`).
COST_FIELDS = {**dict.fromkeys(('trainable_params', 'train_flops', 'train_seconds', 'peak_bytes'), NUMBER), 'cohort_size?': int,
               **dict.fromkeys(('total_params?', 'train_tokens?', 'compile_seconds?', 'tokens_per_second?'), NUMBER)}
RESULT_FIELDS = {'best_step?': int, 'steps': int, 'metrics': {str: NUMBER}, 'intervals': {str: [NUMBER]}, 'cost': COST_FIELDS,
                 'leaked?': {str: int}, 'signatures?': {str: str}, 'slices?': dict, 'scoring?': str, 'temperature?': NUMBER,
                 'copies?': {str: int}, 'memorised?': {str: NUMBER}}
PREDICTION_FIELDS = {'id?': int, 'prediction': str, 'target': str, 'loss': NUMBER, 'tokens': int, 'leaked?': bool,
                     'references?': [str], 'bytes?': int, 'cluster?': str, 'template?': int, 'probe?': [str],
                     'copied?': {'row': int, 'words': str}}
FAILED_FIELDS = {'error': str}


def write_text(path: Path, text: str) -> None:
  """Writes a whole file or nothing."""
  if processes.is_primary():
    os.replace(_apart(path, text.encode()), path)


def write_bytes(path: Path, data: bytes) -> None:
  """Writes a whole file or nothing."""
  if processes.is_primary():
    os.replace(_apart(path, data), path)


def write_once(path: Path, text: str) -> None:
  """Writes a whole file unless somebody has written it already."""
  if not processes.is_primary():
    return
  temporary = _apart(path, text.encode())
  try:
    os.link(temporary, path)
  except FileExistsError:
    pass                                           # the first one stands
  except OSError:                                  # a file system without hard links
    if not path.exists():
      os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)


def _apart(path: Path, data: bytes) -> Path:
  """A file beside `path` that holds the data."""
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f'.{path.name}.{uuid.uuid4().hex}{UNFINISHED}')      # others may write the same file
  with open(temporary, 'wb') as f:
    f.write(data)
    f.flush()
    os.fsync(f.fileno())
  return temporary


def is_unfinished(path: Path) -> bool:
  """Whether a file was still being written, by somebody now or by a process that was killed."""
  return path.name.startswith('.') and path.name.endswith(UNFINISHED)


def is_taken(folder: Path) -> bool:
  """Whether something stands there that is whole, or no folder."""
  ours = lambda path: is_unfinished(path) or path.name.startswith(LOCK)
  return folder.exists() and (not folder.is_dir() or not all(map(ours, folder.iterdir())))


@contextmanager
def held(folder: Path, name: str = LOCK, wait: bool = False) -> Iterator[None]:
  """Keeps a folder to this process until the end of the block; a process that dies lets go of it by itself.

  Files that were left unfinished a minute ago or more are removed. Processes that run as one hold the folder together.

  Args:
    folder: made where it is not there, and removed again where nothing came of it.
    name: of the lock, where several may work in one folder on different things.
    wait: until the other lets go, where that is a matter of moments.
  Raises:
    InUse: another process is at work there.
  """
  path, lock, holder = folder / name, None, ''
  if processes.is_primary():
    folder.mkdir(parents=True, exist_ok=True)
    lock, holder = _locked(path, wait)
  try:
    if holder := processes.all_gather_object(holder)[0]:
      raise InUse(f'{folder}: {holder} is at work there; wait for it, or give another --workdir')
    if lock:
      lock.truncate(0)
      lock.write(f'process {os.getpid()} on {socket.gethostname()}')
      lock.flush()
      for left in [*folder.iterdir(), *(folder / PREDICTIONS).glob('.*')]:
        with suppress(FileNotFoundError):          # it was just made whole
          if is_unfinished(left) and time.time() - left.stat().st_mtime > VISIBLE:
            left.unlink()
    yield
  finally:
    if lock:
      if not holder:
        path.unlink(missing_ok=True)
        with suppress(OSError):                    # nothing came of it
          folder.rmdir()
      lock.close()


def _locked(path: Path, wait: bool) -> tuple[TextIO, str]:
  """(a lock file, who holds it): nobody, where this process does now."""
  while True:
    lock = open(path, 'a+', encoding='utf-8')      # noqa: SIM115  # the caller closes it
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
      lock.seek(0)
      return lock, lock.read(200).strip() or 'another process'
    except OSError as e:
      print(f'{path.parent}: this file system keeps no locks ({e.strerror}); start nothing else there meanwhile',
            file=sys.stderr)
      return lock, ''
    if path.exists() and os.fstat(lock.fileno()).st_ino == path.stat().st_ino:
      return lock, ''
    lock.close()                                   # whoever held it removed it meanwhile
    path.parent.mkdir(parents=True, exist_ok=True)


def write_json(path: Path, value: Any) -> None:
  write_text(path, dumps(value, indent=2) + '\n')


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
  """One object a line, UTF-8."""
  lines = (dumps(row, default=str) for row in rows)
  write_text(path, ''.join(line + '\n' for line in lines))


def read_json(path: Path, fields: dict[Any, Any] | None = None) -> Any:
  """What a JSON file holds. One of another form than `fields` says is refused as `expect` does.

  Args:
    path: of the file.
    fields: as for `expect`; None: anything.
  Raises:
    InputError: it is not there, or not JSON.
  """
  try:
    found = loads(path.read_text(encoding='utf-8'))
  except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
    raise InputError(f'{path}: no such file; is {path.parent} the workdir of a run?') from None
  except ValueError as e:
    raise InputError(f'{path}: is damaged: not JSON ({e})') from None
  if fields:
    expect(found, fields, str(path))
  return found


def read_config(workdir: Path) -> dict[str, Any]:
  """The resolved config of the run in `workdir`.

  Raises:
    InputError: there is none, or the config.json there is something else's, such as a model's.
  """
  found = read_json(workdir / CONFIG)
  if not isinstance(found, dict) or not {'model', 'task', 'strategy', 'training'} <= found.keys():
    raise InputError(f'{workdir}: the config.json there is not a run\'s; give the workdir of a run')
  return found


def read_result(workdir: Path) -> dict[str, Any]:
  """The result of the finished run in `workdir`.

  Raises:
    InputError: it is not finished, or the file is damaged.
  """
  if not (workdir / RESULT).exists():
    raise InputError(f'{workdir}: the run is not finished; the same research.train command resumes it')
  return read_json(workdir / RESULT, RESULT_FIELDS)


def check_output(output: Path) -> None:
  """Refuses to write where something is.

  Raises:
    InputError: the folder exists and is not empty, or is a file, or lies in one.
  """
  try:
    output.resolve()
  except (RuntimeError, OSError) as e:      # links that lead to each other
    raise InputError(f'--output={output}: cannot be found ({e}); give another folder') from None
  if output.exists() and (not output.is_dir() or any(output.iterdir())):
    raise InputError(f'--output={output}: exists and is not empty; give another folder')
  if not next(parent for parent in output.absolute().parents if parent.exists()).is_dir():
    raise InputError(f'--output={output}: lies in a file; give another folder')


def write_folder(output: Path, fill: Callable[[Path], None]) -> None:
  """Writes the whole folder or nothing; `fill` puts into it what it holds."""
  check_output(output)
  output = output.resolve()
  unfinished = output.with_name(f'.{output.name}.unfinished')
  shutil.rmtree(unfinished, ignore_errors=True)
  unfinished.mkdir(parents=True)
  try:
    fill(unfinished)
    if output.is_dir():
      output.rmdir()
    os.replace(unfinished, output)
  except BaseException:
    shutil.rmtree(unfinished, ignore_errors=True)
    raise


def check_name(folder: Path) -> None:
  """Refuses a place of which the checkpoint library would read a pattern.

  Raises:
    InputError: its path holds one of the characters of patterns.
  """
  found = [c for c in PATTERNS if c in str(folder.absolute())]
  if found:
    raise InputError(f'{folder}: {found[0]} in the path of a workdir stands for something else where checkpoints are read; '
                     f'give a --workdir without {" ".join(PATTERNS)}')


def check(workdir: Path, config: dict[str, Any]) -> None:
  """Refuses a place that is not this config's to write to; nothing is written yet.

  Raises:
    InputError: it holds another config's run, or files that are no run's.
  """
  check_name(workdir)
  for parent in workdir.parents:
    if parent.is_file():
      raise InputError(f'{workdir}: {parent} is a file, and no folder can be made in it')
  path, taken = workdir / CONFIG, is_taken(workdir)      # in this order: another process may just claim it
  if path.exists():
    there, here = (flat(configs.decisive(c)) for c in (read_config(workdir), config))
    different = [f'{k}={there.get(k)!r} there, {here.get(k)!r} here' for k in sorted({*there, *here})
                 if there.get(k) != here.get(k)]
    if different:
      more = f' and {len(different) - 3} more' if len(different) > 3 else ''
      raise InputError(f'{workdir} holds the run of another config ({"; ".join(different[:3])}{more}); '
                       'give another --workdir')
  elif taken:
    raise InputError(f'{workdir} exists and is not the workdir of a run; give another --workdir')


def claim(workdir: Path, config: dict[str, Any]) -> None:
  """Makes `workdir` this config's, once everything else has been checked; raises as `check` does.

  Of several processes the first claims it, and the others see that, or say that the folder is not one for all.

  Raises:
    InputError: the processes do not share the folder.
  """
  if processes.is_primary():
    check(workdir, config)
    if not (workdir / CONFIG).exists():
      write_json(workdir / CONFIG, config)
  processes.barrier('workdir claimed')
  until = time.monotonic() + VISIBLE
  while not (workdir / CONFIG).exists():
    if time.monotonic() > until:
      raise InputError(f'{workdir}: what one process writes there another does not see; give a folder that all share')
    time.sleep(1)
  check(workdir, config)
