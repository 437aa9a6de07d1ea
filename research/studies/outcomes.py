"""What a study's runs came to, example by example and step by step: from their run directories, or from one small file.

A finished study keeps both of its chosen runs' test examples and every run's learning curve in `outcomes.jsonl.gz`, so that
anyone can compute its comparison and draw its figures again where `runs/` was not kept.
"""

import gzip
import json
import zlib
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from research import json_text, run_files
from research.data.sources import read_jsonl
from research.errors import InputError
from research.evaluation import own, templates

FILE, RUNS = 'outcomes.jsonl.gz', 'runs'
DIGITS = 7          # of each number kept: as many as float32 has
PROMPT = 400        # characters of a prompt that are kept: its end
TEXT = 200          # characters of each of a row's columns that are kept to be shown
CURVE = ('step', 'train/loss', 'valid/loss')
EXAMPLE = ('id', 'target', 'prediction', 'loss', 'tokens', 'choices')
# Kept where some example has them; so are the numbers of a person's own metrics.
SOME = ('leaked', 'references', 'bytes', 'cluster', 'template', 'probe')
OF_CHOICES = ('choice_tokens', 'choice_bytes', 'calibrated', 'ranked')      # kept where choices were ranked


def predictions(workdir: Path, key: str, split: str) -> list[dict[str, Any]]:
  """One run's lines of predictions/SPLIT.jsonl; from the outcomes that were kept the fields of `EXAMPLE` and the prompt's end.

  Args:
    workdir: the study's.
    key: of the cell.
    split: train, valid or test, or retain/NAME.
  Raises:
    InputError: neither holds them.
  """
  if (workdir / RUNS).exists():
    return _checked(workdir / RUNS / key / run_files.PREDICTIONS / f'{split}.jsonl')
  kept = _kept(workdir, key)
  if split not in kept:
    raise InputError(f'{workdir / FILE}: holds no {split} examples of {key}')
  same = dict(_kept(workdir, kept['like']).get(split, {})) if 'like' in kept else {}
  same.pop('prompt', None)
  return _lines({**same, **kept[split]})


def are_there(workdir: Path, key: str, split: str) -> bool:
  """Whether a run's examples of a split are known.

  Args:
    workdir: the study's.
    key: of the cell.
    split: as for `predictions`.
  """
  if (workdir / RUNS).exists():
    return (workdir / RUNS / key / run_files.PREDICTIONS / f'{split}.jsonl').exists()
  path = workdir / FILE
  return path.exists() and split in _read(path, path.stat().st_mtime_ns).get(key, {})


def curve(workdir: Path, key: str) -> list[dict[str, Any]]:
  """One run's training and validation loss, a line a step that has some; none where nothing was trained.

  Args:
    workdir: the study's.
    key: of the cell.
  """
  if not (workdir / RUNS).exists():
    return [{name: value for name, value in line.items() if value is not None} for line in _lines(_kept(workdir, key)['curve'])]
  path = workdir / RUNS / key / run_files.METRICS
  return read_jsonl(path) if path.exists() and path.stat().st_size else []


def write(rows: Iterable[dict[str, Any]], workdir: Path) -> None:
  """Keeps what the runs of a finished study came to beside its results: the same runs give the same bytes.

  Args:
    rows: the lines of results.jsonl.
    workdir: the study's, which holds the runs; where they were not kept, neither is anything written.
  """
  if not (workdir / RUNS).exists():
    return
  out: list[dict[str, Any]] = []
  firsts = dict[tuple[str, str], tuple[str, dict[str, list[Any]]]]()
  for row in rows:
    if row['result'] is None:
      continue
    kept: dict[str, Any] = {'key': row['key'], 'curve': _columns(curve(workdir, row['key']), CURVE)}
    if row['selected']:
      examples = predictions(workdir, row['key'], 'test')
      columns = _columns(examples, (*EXAMPLE, *_some(examples)))
      first, same = firsts.setdefault((row['model'], row['task']), (row['key'], columns))
      kept['test'] = {name: column for name, column in columns.items() if first == row['key'] or column != same.get(name)}
      if first == row['key']:
        kept['test']['prompt'] = [e['prompt'].strip()[-PROMPT:] for e in examples]
        if all(e.get('row') for e in examples):
          kept['test']['shown'] = [shown(e['row']) for e in examples]
      else:
        kept['like'] = first                                      # all arms read the same rows
      kept |= _retained(workdir, row['key'])
    out.append(kept)
  out += [{'key': folder.name, **_retained(workdir, folder.name)} for folder in sorted((workdir / RUNS).glob('base@*'))]
  lines = [json.dumps(kept, ensure_ascii=False, separators=(',', ':')) + '\n' for kept in out]
  run_files.write_bytes(workdir / FILE, gzip.compress(''.join(lines).encode(), mtime=0))


def shown(row: dict[str, Any]) -> dict[str, str]:
  """A row's columns as a report shows them: their texts, cut between words."""
  text = lambda value: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
  return {name: cut(text(value)) for name, value in row.items()}


def cut(text: str, most: int = TEXT) -> str:
  """A text of no more than so many characters, cut between words where it has some."""
  text = text.strip()
  if len(text) <= most:
    return text
  end = max(text.rfind(blank, most // 2, most) for blank in ' \n\t')
  return f'{text[:most - 1 if end < 0 else end].rstrip()}…'


def _retained(workdir: Path, key: str) -> dict[str, dict[str, list[Any]]]:
  """The examples of all that a run was measured on beside its own task, by `retain/NAME`."""
  files = sorted((workdir / RUNS / key / run_files.PREDICTIONS / 'retain').glob('*.jsonl'))
  read = {file.stem: _checked(file) for file in files}
  return {f'retain/{name}': _columns(lines, (*EXAMPLE, *_some(lines))) for name, lines in read.items()}


def _some(examples: list[dict[str, Any]]) -> list[str]:
  """What some of these examples have, and is kept where that is so."""
  return [name for name in dict.fromkeys(name for e in examples for name in e) if name in SOME or own.is_own(name)]


def _checked(path: Path) -> list[dict[str, Any]]:
  """The lines of a predictions file.

  Raises:
    InputError: one is not what an evaluation writes.
  """
  lines = read_jsonl(path)
  for number, line in enumerate(lines, 1):
    json_text.expect(line, run_files.PREDICTION_FIELDS, f'{path}: line {number}')
  rows = max(1, len(lines) // templates.count(lines))
  for number, line in enumerate(lines, 1):
    if line.get('id', (number - 1) % rows) != (number - 1) % rows:
      raise InputError(f'{path}: is damaged: line {number} is that of row {line["id"]}, not of row {(number - 1) % rows}; '
                       'evaluate the run again')
  return lines


def _columns(lines: list[dict[str, Any]], names: Iterable[str]) -> dict[str, list[Any]]:
  """Lines as columns, which compress well; of choices their texts, once where all lines have the same, and numbers as lists."""
  columns = {name: [_short(line.get(name)) for line in lines] for name in names}
  if lines and 'choices' in columns:
    texts = [list(line.get('choices', ())) for line in lines]
    columns['choices'] = texts[0] if all(one == texts[0] for one in texts) else texts
    if all(isinstance(line.get('choices'), dict) for line in lines):
      columns['likelihoods'] = [_short(line['choices']) for line in lines]
      columns |= {name: [_short(line.get(name)) for line in lines] for name in OF_CHOICES}
  return columns


def _short(value: Any) -> Any:
  if isinstance(value, (dict, list)):
    return [_short(one) for one in (value.values() if isinstance(value, dict) else value)]
  return float(f'{value:.{DIGITS}g}') if isinstance(value, float) else value


def _lines(columns: dict[str, list[Any]]) -> list[dict[str, Any]]:
  columns = dict(columns)
  choices = columns.pop('choices', [])
  lines = [dict(zip(columns, values)) for values in zip(*columns.values())]
  for number, line in enumerate(lines if choices else []):
    texts = choices[number] if isinstance(choices[0], list) else choices
    line['choices'] = dict(zip(texts, line.pop('likelihoods'))) if 'likelihoods' in line else texts
    for name in ('calibrated', 'ranked'):
      if (values := line.pop(name, None)) is not None:
        line[name] = dict(zip(texts, values))
  return lines


def _kept(workdir: Path, key: str) -> dict[str, Any]:
  path = workdir / FILE
  if not path.exists():
    raise InputError(f'{workdir}: neither {RUNS}/ nor {FILE} is there, so nothing is known of single examples')
  found = _read(path, path.stat().st_mtime_ns)
  if key not in found:
    raise InputError(f'{path}: holds nothing of {key}')
  return found[key]


@lru_cache(maxsize=4)
def _read(path: Path, changed: int) -> dict[str, dict[str, Any]]:
  del changed      # tells a file that was written again
  try:
    lines = gzip.decompress(path.read_bytes()).decode().split('\n')
    return {line['key']: line for line in map(json_text.loads, filter(None, lines))}
  except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError) as e:
    raise InputError(f'{path}: is damaged ({e})') from None
