"""What a monitor's folder keeps between looks, so that each adds to what the earlier ones saw and none is torn by a kill.

- settings.json: which run and which reference it is of.
- reference.npz: the reference as the model reads it, once computed.
- requests.jsonl: one line a request, in the order in which they were first seen, with all that is compared of it; a request is
  known by its id, and never counted twice. Only whole lines are appended, and half of one is cut off.
- feedback.json: what was last said of each answer.

Everything else (monitor.json, report.html) is computed from these, anew at each look.
"""

import io
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from research import json_text, run_files
from research.errors import InputError
from research.json_text import NUMBER
from research.monitoring.sample import Reference, Sample
from research.monitoring.space import Space

SETTINGS, REFERENCE, REQUESTS, FEEDBACK = 'settings.json', 'reference.npz', 'requests.jsonl', 'feedback.json'
MONITOR, REPORT = 'monitor.json', 'report.html'
VERSION = 1
SETTINGS_FIELDS = {'version': int, 'run': str, 'reference': str, 'of': {'run': str, 'reference': str}, 'seed': int}
REQUEST_FIELDS = {
    'id': str, 'time': NUMBER, 'model': str, 'endpoint': str, 'ended': str, 'tokens': {'prompt': int, 'answer': int},
    'seconds': {str: NUMBER},
    'read': int,              # tokens of the prompt as it was logged, masks and all
    'language': str, 'unknown': NUMBER, 'label': str, 'loss?': NUMBER, 'confidence?': NUMBER, 'refusal': bool, 'loop': bool,
    'prompt': str, 'answer': str,      # as logged, long ones cut
    'whole': str,             # hash of the whole answer without blanks at its ends, by which a label is compared
    'vector': [NUMBER]}


def settled(output: Path, settings: dict[str, Any]) -> bool:
  """Whether a folder is this monitor's already; nothing is written.

  Args:
    output: the folder.
    settings: as settings.json has them.
  Raises:
    InputError: it is the folder of another run's or another reference's monitor, or of something else.
  """
  if not (output / SETTINGS).exists():
    if run_files.is_taken(output):
      raise InputError(f'--output={output}: exists and is not the folder of a monitor; give another --output')
    return False
  there = run_files.read_json(output / SETTINGS, SETTINGS_FIELDS)
  for part, flag in (('run', '--workdir'), ('reference', '--reference')):
    if there[part] != settings[part]:
      raise InputError(f'--output={output}: watches another {part} ({there["of"][part]}, not {flag}={settings["of"][part]}, or '
                       'that as it was then); what was seen of one is no evidence about another, so give another --output')
  return True


def read_reference(output: Path) -> tuple[Space, Reference] | None:
  """What `write_reference` kept; None where there is nothing.

  Raises:
    InputError: the file is damaged.
  """
  path = output / REFERENCE
  if not path.exists():
    return None
  try:
    with np.load(path, allow_pickle=False) as found:
      sample = lambda part: Sample(*(found[f'{part}/{name}'] for name in Sample._fields))
      return Space(*(found[f'space/{name}'] for name in Space._fields)), Reference(sample('learned'), sample('fresh'))
  except (ValueError, KeyError, OSError, zipfile.BadZipFile, EOFError) as e:
    raise InputError(f'{path}: is damaged ({e}); delete it, and the next look computes it anew') from None


def write_reference(output: Path, space: Space, reference: Reference) -> None:
  """Keeps what the model made of the reference.

  Args:
    output: the folder.
    space: in which vectors are compared.
    reference: its rows there.
  """
  parts = {'space': space, **reference._asdict()}
  file = io.BytesIO()
  np.savez_compressed(file, **{f'{part}/{name}': value for part, of in parts.items() for name, value in of._asdict().items()})
  run_files.write_bytes(output / REFERENCE, file.getvalue())


def read_requests(output: Path) -> list[dict[str, Any]]:
  """The requests that were seen, in order; half a line at the end is cut off the file.

  Raises:
    InputError: a line is damaged.
  """
  path = output / REQUESTS
  if not path.exists():
    return []
  data = path.read_bytes()
  if whole := len(data) - (data.rfind(b'\n') + 1):
    os.truncate(path, len(data) - whole)
  found = []
  for number, line in enumerate(data[:len(data) - whole].split(b'\n')[:-1], 1):
    try:
      found.append(json_text.loads(line.decode()))
    except ValueError as e:
      raise InputError(f'{path} line {number}: is damaged: not JSON ({e})') from None
    json_text.expect(found[-1], REQUEST_FIELDS, f'{path} line {number}')
  return found


def append(output: Path, seen: list[dict[str, Any]]) -> None:
  """Adds requests to those that were seen, all at once and on disk when it returns."""
  with open(output / REQUESTS, 'ab', buffering=0) as file:
    file.write(b''.join(json_text.dumps(one).encode() + b'\n' for one in seen))
    os.fsync(file.fileno())


def read_feedback(output: Path) -> dict[str, dict[str, Any]]:
  """What was said of answers: id -> {label, rating}, as far as they were given."""
  path = output / FEEDBACK
  return run_files.read_json(path, {str: {'label?': str, 'rating?': NUMBER}}) if path.exists() else {}
