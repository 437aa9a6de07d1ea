"""What a server keeps of its traffic: one JSON object a line, requests with their answers and the feedback that came to them.

The file is only appended to, a whole line at a time. Nothing of it is personal: `Writer` masks every text as `prepare` does.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from research import json_text
from research.errors import InputError
from research.json_text import NUMBER
from research.preparation import personal

VERSION = 1      # of the form of a line
REQUEST, FEEDBACK = 'request', 'feedback'
AS_THEY_ARE = ('log', 'kind', 'id', 'time', 'model', 'workdir', 'endpoint', 'ended')      # fields that hold no text of a person
REQUEST_FIELDS = {
    'id': str,                       # by which feedback comes back
    'time': NUMBER,                  # when it came, in seconds since 1970, UTC
    'model': str,                    # the name that it was asked for by
    'workdir': str,                  # the run directory that answered
    'endpoint': str,                 # chat, completions or choices (these were ranked)
    'prompt': str,                   # as the model read it, special tokens written out
    'row?': dict,                    # columns of the task, where the request gave these
    'messages?': [dict],             # of a chat
    'answer': str,                   # of ranked choices the likeliest
    'choices?': {str: NUMBER},       # where some were ranked: their log-likelihoods, in nats
    'log_probability?': NUMBER,      # of the answer's tokens, summed, in nats
    'tokens': {'prompt': int, 'answer': int},
    'seconds': {'queued': NUMBER, 'first': NUMBER, 'total': NUMBER},      # each since it came: begun, first token, whole
    'ended': str,                    # stop, length, cancelled, time or refused (a prompt over the context, with no answer)
    'settings?': dict,               # of decoding, those that are not the usual ones
}
FEEDBACK_FIELDS = {
    'id': str,                       # the request's
    'time': NUMBER,
    'label?': str,                   # what the answer should have been
    'rating?': NUMBER,               # of the answer, from 0 (wrong) to 1 (right)
}
FIELDS = {REQUEST: REQUEST_FIELDS, FEEDBACK: FEEDBACK_FIELDS}


class Traffic(NamedTuple):
  """What a log holds."""
  requests: list[dict[str, Any]]       # in the order in which they were answered
  feedback: dict[str, dict[str, Any]]  # a request's id -> what was last said of it, each field for itself


class Writer:
  """Appends to a log; each call writes one line, whole."""

  def __init__(self, path: Path):
    path.parent.mkdir(parents=True, exist_ok=True)
    self._file = open(path, 'ab', buffering=0)      # noqa: SIM115  # it is open as long as the server
    self._file.write(b'' if ends_whole(path) else b'\n')

  def request(self, **fields: Any) -> None:
    """Keeps a request with its answer; the arguments are `REQUEST_FIELDS`."""
    self._append(REQUEST, fields)

  def feedback(self, **fields: Any) -> None:
    """Keeps what was said of an answer; the arguments are `FEEDBACK_FIELDS`, but for the time, which is now."""
    self._append(FEEDBACK, {'time': time.time(), **fields})

  def _append(self, kind: str, fields: dict[str, Any]) -> None:
    line = {'log': VERSION, 'kind': kind, **{name: value for name, value in fields.items() if value is not None}}
    masked, _ = personal.mask(line, leave=AS_THEY_ARE)
    self._file.write((json_text.dumps(masked) + '\n').encode())

  def close(self) -> None:
    self._file.close()


def ends_whole(path: Path) -> bool:
  """Whether a file is empty or its last line ends: a process that was killed may have left half of one."""
  with open(path, 'rb') as f:
    if not f.seek(0, 2):
      return True
    f.seek(-1, 2)
    return f.read(1) == b'\n'


def lines(path: Path) -> Iterator[dict[str, Any]]:
  """The lines of a log as they follow each other; the last one is left out where it is not whole yet.

  Raises:
    InputError: there is no such file, or a line is none of a log.
  """
  try:
    file = open(path, encoding='utf-8', errors='replace', newline='\n')      # noqa: SIM115  # closed below
  except OSError as e:
    raise InputError(f'--log={path}: cannot be read ({e.strerror})') from None
  with file:
    for number, line in enumerate(file, 1):
      where = f'--log={path} line {number}'
      if not line.strip():
        continue
      try:
        found = json_text.loads(line)
      except ValueError as e:
        if not line.endswith('\n'):
          return
        raise InputError(f'{where}: not JSON ({e}); is it the log of `research.serve`?') from None
      if not isinstance(found, dict) or found.get('log') != VERSION or found.get('kind') not in FIELDS:
        raise InputError(f'{where}: not of a log that `research.serve` writes (--log=FILE.jsonl)')
      json_text.expect(found, FIELDS[found['kind']], where)
      yield found


def read(path: Path) -> Traffic:
  """All of a log. What was said twice of one answer counts as it was said last.

  A file that is no log is refused (`InputError`).
  """
  found = Traffic([], {})
  for line in lines(path):
    if line['kind'] == REQUEST:
      found.requests.append(line)
    else:
      found.feedback.setdefault(line['id'], {}).update(line)
  return found
