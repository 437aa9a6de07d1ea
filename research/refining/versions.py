"""The line of versions of one model: which run is current, which ones were before, and the way back.

`history.jsonl` holds a line for each change and is what counts; `current.json`, which servers follow, says the same of
the last. Both are written whole, the history first, so that a kill in between leaves a file that the next change puts right.
"""

import datetime
from pathlib import Path
from typing import NamedTuple

from research import json_text, run_files
from research.data import sources
from research.errors import InputError
from research.serving.follow import Current

HISTORY, CURRENT = 'history.jsonl', 'current.json'
PROMOTION = 'promotion.json'      # in the run directory of a challenger
FIRST, PROMOTED, ROLLBACK = 'first', 'promoted', 'rollback'
FIELDS = {'version': int, 'workdir': str, 'time': str, 'why': str}


class Change(NamedTuple):
  """A line of the history."""
  version: int       # that is current from then on
  workdir: str       # its run directory, absolute: it is found from any working directory
  time: str          # UTC, in ISO's form
  why: str           # first, promoted, rollback


def folder_of(workdir: Path) -> Path:
  """The folder of the versions that a run is one of: as its own promotion.json says, or else WORKDIR.versions beside it."""
  if (workdir / PROMOTION).exists():
    said = run_files.read_json(workdir / PROMOTION, {'versions': str, 'promoted': bool})
    if said['promoted']:
      return Path(said['versions'])
  whole = workdir.resolve()
  return whole.with_name(f'{whole.name}.versions')


def history(folder: Path) -> list[Change]:
  """All changes so far; none where there is no line of versions yet. A file that is damaged is refused (`InputError`)."""
  path = folder / HISTORY
  if not path.exists():
    return []
  found = []
  for number, line in enumerate(sources.read_jsonl(path), 1):
    json_text.expect(line, FIELDS, f'{path} line {number}')
    found.append(Change(*(line[field] for field in Change._fields)))
  line_of(found, path)
  return found


def line_of(changes: list[Change], path: Path) -> list[Change]:
  """The versions that lead to the current one, which is the last: what a rollback leaves is in it no more.

  Args:
    changes: of a history.
    path: of its file, for an error.
  Raises:
    InputError: the changes cannot have come one after the other.
  """
  line: list[Change] = []
  for number, change in enumerate(changes, 1):
    if change.why == ROLLBACK and len(line) > 1 and line[-2][:2] == change[:2]:
      line.pop()
    elif change.why == (PROMOTED if line else FIRST):
      line.append(change)
    else:
      raise InputError(f'{path} line {number}: is damaged: {change.why!r:.40} of version {change.version} cannot follow what '
                       'stands above it')
  return line


def check(folder: Path, incumbent: Path, challenger: Path) -> None:
  """Refuses a line of versions that these two runs do not continue; nothing is written.

  Args:
    folder: of the versions; it need not be there.
    incumbent: the run that is to be current.
    challenger: the run that may be by now.
  Raises:
    InputError: another run is current, or something else stands there.
  """
  changes = history(folder)
  if not changes and run_files.is_taken(folder):
    raise InputError(f'--versions={folder}: exists and holds no {HISTORY}; give another folder')
  if changes and changes[-1].workdir not in map(_whole, (incumbent, challenger)):
    raise InputError(f'--versions={folder}: its current version is {changes[-1].workdir}, not {incumbent}; give that as '
                     '--workdir, or another folder')


def begin(folder: Path, incumbent: Path, challenger: Path) -> None:
  """Makes the incumbent the first version, where there is none yet; refuses (`InputError`) as `check` does.

  Args:
    folder: as for `check`, as are the others.
    incumbent: the run.
    challenger: the run that may be current by now.
  """
  with run_files.held(folder, wait=True):
    check(folder, incumbent, challenger)
    changes = history(folder) or [_change(1, _whole(incumbent), FIRST)]
    _write(folder, changes)


def promote(folder: Path, incumbent: Path, challenger: Path) -> Current:
  """Makes the challenger the current version; one that is so already stays. Refuses (`InputError`) as `check` does.

  Args:
    folder: as for `check`, as are the others.
    incumbent: the run.
    challenger: the run.
  """
  with run_files.held(folder, wait=True):
    check(folder, incumbent, challenger)
    changes = history(folder)
    if changes[-1].workdir != _whole(challenger):
      changes.append(_change(max(change.version for change in changes) + 1, _whole(challenger), PROMOTED))
    return _write(folder, changes)


def rollback(folder: Path) -> Current:
  """Makes the version before the current one current again.

  Raises:
    InputError: there is none, or its run is not there any more.
  """
  if not (folder / HISTORY).exists():
    raise InputError(f'--versions={folder}: holds no {HISTORY}, so there is no version to go back to')
  with run_files.held(folder, wait=True):
    changes = history(folder)
    line = line_of(changes, folder / HISTORY)
    if len(line) < 2:
      raise InputError(f'--rollback: version {line[-1].version} is the first in {folder}; there is none before it')
    before = line[-2]
    run_files.read_result(Path(before.workdir))
    return _write(folder, [*changes, _change(before.version, before.workdir, ROLLBACK)])


def model_of(folder: Path) -> str:
  """By which name all versions are asked for: that of the first one's folder."""
  return Path(history(folder)[0].workdir).name


def _whole(workdir: Path) -> str:
  return str(workdir.resolve())


def _change(version: int, workdir: str, why: str) -> Change:
  return Change(version, workdir, datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'), why)


def _write(folder: Path, changes: list[Change]) -> Current:
  """Writes both files, the history first."""
  last = changes[-1]
  found = Current(last.version, Path(changes[0].workdir).name, Path(last.workdir))
  run_files.write_jsonl(folder / HISTORY, [change._asdict() for change in changes])
  run_files.write_json(folder / CURRENT, {**found._asdict(), 'workdir': last.workdir})
  return found
