"""What a run was made from, by fingerprints: recorded when it begins, and compared wherever its folder is used again."""

import datetime
import hashlib
import importlib.metadata
import json
import platform
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax

from research import json_text, run_files
from research.adapters import modules
from research.console import say
from research.data import sources
from research.distributed import device, processes
from research.errors import InputError
from research.evaluation import own
from research.experiment.watched import SPLIT

if TYPE_CHECKING:
  from research.experiment.assemble import Experiment

PACKAGES = ('flaxtune', 'jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'transformers', 'tokenizers', 'datasets', 'numpy',
            'scipy', 'statsmodels', 'scikit-learn', 'sacrebleu', 'rouge-score')
WORDS = {'config': 'config.json', 'model.sha256': 'the base model\'s weights', 'model.tokenizer': 'the tokenizer',
         'model.template': 'the chat template, or the tokens that begin and end texts',
         'init_from.strategy': 'what strategy.init_from holds', 'init_from.training': 'what training.init_from holds'}
PACKAGE = Path(__file__).resolve().parents[1]
WATCHED = 'retain'          # among the splits: the rows that training watches beside its own
FLAG = 'allow_changed'      # of the verbs that use a run directory
FIELDS = {'model': {'sha256': str, 'tokenizer?': str, 'template?': str}, 'data': {str: {'sha256': str}}, 'config?': str,
          'changed?': [{'what': {str: {'before': str, 'after': str}}}], 'resumed?': [dict]}      # see `json_text.expect`


def of(experiment: 'Experiment') -> dict[str, Any]:
  """What provenance.json holds of a run that begins now."""
  return {
      'command': command(),
      'date': datetime.datetime.now(datetime.UTC).date().isoformat(),
      'code': {'commit': _commit(), 'sources': code()},
      **made_of(experiment),
      'versions': {'python': platform.python_version(), **{p: importlib.metadata.version(p) for p in PACKAGES}},
      'devices': [f'{d.platform}: {d.device_kind}' for d in jax.devices()],
      'machine': {'system': platform.platform(), **device.settings()},
      'seed': experiment.settings.training.seed,
      'seeds': experiment.seeds,
  }


def command() -> list[str]:
  """The verb that was called, with its flags."""
  return [Path(sys.argv[0]).name, *sys.argv[1:]]


def made_of(experiment: 'Experiment') -> dict[str, Any]:
  """Fingerprints: of rows by split, weights, tokenizer and template, of the config without its mesh, and of own metrics."""
  tokenizer = experiment.tokenizer
  begins = {group: begin_fingerprint(Path(folder)) for group in ('strategy', 'training')
            if (folder := getattr(experiment.settings, group).init_from)}
  watched = {WATCHED: experiment.watched.rows(SPLIT)} if experiment.watched else {}
  judges = {name: own.fingerprint(name) for name in experiment.task.metrics if own.is_own(name)}
  return {
      'data': {split: {'rows': len(rows), 'sha256': sources.fingerprint(rows)}
               for split, rows in (experiment.task.splits | watched).items()},
      'model': {'sha256': experiment.fingerprint, 'tokenizer': tokenizer.fingerprint(),
                'template': tokenizer.template_fingerprint()},
      'config': config_fingerprint(experiment.settings.config()),
      **({'init_from': begins} if begins else {}), **({'metrics': judges} if judges else {})}


def config_fingerprint(config: dict[str, Any]) -> str:
  """Hash of a config as config.json holds it, but for where the run lies."""
  told = {group: fields for group, fields in config.items() if group != 'mesh'}
  return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def begin_fingerprint(folder: Path) -> str:
  """Hash of what an adapter folder, or a run at its best step, gives to begin with; of a run by its checkpoint's record."""
  digest = hashlib.sha256()
  if modules.is_folder(folder):
    files = [folder / modules.CONFIG, folder / modules.TENSORS]
  else:
    best = folder / run_files.CHECKPOINTS / 'best'
    files = [folder / run_files.CONFIG, folder / run_files.FIXED, *sorted(best.glob('*/record/*'))]
  for file in files:
    digest.update(hashlib.sha256(file.read_bytes()).digest() if file.is_file() else b'-')
  return digest.hexdigest()[:16]


def content(experiment: 'Experiment') -> dict[str, Any]:
  """What several processes must have read alike, each from its own files perhaps."""
  return {**json_text.flat(made_of(experiment)), 'model': experiment.hf}


def check(workdir: Path, experiment: 'Experiment', splits: Iterable[str] = (), allow: bool = False) -> None:
  """Compares what a run was made from with what is there now.

  A change that is allowed is recorded beside what was there before, and from then on is what the run is made from.

  Args:
    workdir: the run directory; one that holds neither provenance.json nor a result or a checkpoint has not begun.
    experiment: what its config names now.
    splits: of whose rows something is made now.
    allow: go on although something has changed.
  Raises:
    InputError: something has changed and that is not allowed, or nothing says what the run was made from.
  """
  path = workdir / run_files.PROVENANCE
  if not path.exists():
    if not allow and any((workdir / name).exists() for name in (run_files.RESULT, run_files.CHECKPOINTS)):
      raise InputError(f'{workdir}: holds a run without its {run_files.PROVENANCE}, so nothing says what it was made from; put '
                       f'the file back, give another --workdir, or go on all the same with --{FLAG}')
    return
  record = run_files.read_json(path, FIELDS)
  there = json_text.flat({name: record.get(name) for name in ('data', 'model', 'config', 'init_from', 'metrics')})
  for earlier in record.get('changed', ()):
    there |= {name: one['after'] for name, one in earlier['what'].items()}
  here = json_text.flat(made_of(experiment)) | {'config': config_fingerprint(run_files.read_config(workdir))}
  words = WORDS | {f'data.{split}.sha256': f'the rows of {split}' for split in splits}
  words |= {f'metrics.{name}': f'the file of {name}' for name in experiment.task.metrics if own.is_own(name)}
  what = {name: {'before': there[name], 'after': here[name]} for name in words
          if there.get(name) is not None and here.get(name) is not None and there[name] != here[name]}
  if not what:
    return
  told = ' and '.join(f'{words[name]} ({one["before"]} then, {one["after"]} now)' for name, one in what.items())
  if not allow:
    raise InputError(f'{workdir}: changed since the run began: {told}; put back what it was made from, give another --workdir, '
                     f'or go on all the same with --{FLAG}, which is recorded')
  say(f'{workdir}: goes on although changed since the run began: {told}')
  record['changed'] = [*record.get('changed', ()), {'command': command(), 'what': what}]
  run_files.write_json(path, record)
  processes.barrier('change recorded')


def check_tokenizer(workdir: Path, experiment: 'Experiment') -> None:
  """Refuses to go on from what a run learned to read by another tokenizer.

  Args:
    workdir: the run directory.
    experiment: the one that begins with what it learned.
  Raises:
    InputError: the tokenizer is another one.
  """
  path = workdir / run_files.PROVENANCE
  if not path.exists():
    return
  there, here = run_files.read_json(path, FIELDS)['model'], made_of(experiment)['model']
  if there.get('tokenizer', here['tokenizer']) != here['tokenizer']:
    raise InputError(f'{workdir}: what it learned is of another tokenizer ({there["tokenizer"]}, not {here["tokenizer"]})')


def begin(workdir: Path, experiment: 'Experiment') -> None:
  """Records what a run is made from; of one that is resumed, what it resumes with, where that is another program or machine."""
  path, now = workdir / run_files.PROVENANCE, of(experiment)
  if path.exists():
    record = run_files.read_json(path, FIELDS)
    last = {**record, **(record.get('resumed') or [{}])[-1]}
    different = {name: now[name] for name in ('code', 'versions', 'devices', 'machine') if now[name] != last.get(name)}
    now = record if not different else {**record, 'resumed': [*record.get('resumed', ()), {'command': command(), **different}]}
  run_files.write_json(path, now)


def _commit() -> str | None:
  """The checkout's commit, with `+` where files differ from it; None outside of one."""
  def git(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(['git', '-C', str(PACKAGE), *args], capture_output=True, text=True)
  try:
    head = git('rev-parse', 'HEAD')
  except FileNotFoundError:
    return None
  if head.returncode:
    return None
  return head.stdout.strip() + ('+' if git('status', '--porcelain').stdout.strip() else '')


def code() -> str:
  """Hash of the package's own Python files, by their places and bytes."""
  digest = hashlib.sha256()
  for file in sorted(PACKAGE.rglob('*.py')):
    digest.update(f'{file.relative_to(PACKAGE)}\n'.encode() + file.read_bytes())
  return digest.hexdigest()[:16]
