"""A campaign of faults: what passes in silence, ends in a traceback or hangs is a defect, and is printed as one.

    python tests/faults.py inputs --count=500      # rows, templates, configs and model files with something wrong in them
    python tests/faults.py kills --count=100       # verbs killed at random moments and started again, to the same files

Prints a line a defect (kills: a line each), and a table at the end; its exit status is the number of defects, at most 100.
"""

import argparse
import contextlib
import copy
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
LIMIT = 60      # seconds that any one case may take

ODD_VALUES = [None, '', ' ', 'x', -1, 0, 1, 2 ** 31, 2 ** 63, 10 ** 400, -0.5, 0.5, 1e308, float('nan'), float('inf'), True, [],
              {}, [1], ['a', None], {'a': 1}, '\ud800', '\x00', '{', '{}', '{0}', '{text.x}', '{text!z}', '{nothing}', '\\n',
              'é' * 50]
ODD_BYTES = [b'\x00', b'\xff', b'\xef\xbb\xbf', b'\n', b'\r\n', b'{', b'}', b'"', b',', b'null', b'NaN', b'[' * 2000,
             b'1' * 5000, '\u2028'.encode(), b'\\ud800']


def mutated(data: bytes, rng: random.Random) -> bytes:
  """Bytes with one thing wrong in them."""
  at = rng.randrange(len(data) + 1)
  end = min(len(data), at + rng.choice([1, 1, 8, 200]))
  return rng.choice([
      lambda: data[:at] + rng.choice(ODD_BYTES) + data[at:], lambda: data[:at] + data[end:], lambda: data[:at],
      lambda: data[:at] + data[at:end] * 2 + data[end:],
      lambda: data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1:] if at < len(data) else b'',
      lambda: data[:at] + rng.choice(ODD_BYTES) + data[end:]])()


def changed(value, rng: random.Random):
  """JSON with one value replaced by an odd one, or a key taken away."""
  value = copy.deepcopy(value)
  places = []

  def walk(node):
    for key in (list(node) if isinstance(node, dict) else range(len(node))):
      places.append((node, key))
      if isinstance(node[key], (dict, list)):
        walk(node[key])
  walk(value)
  node, key = rng.choice(places)
  if rng.random() < 0.2:
    del node[key]
  else:
    node[key] = rng.choice(ODD_VALUES)
  return value


class Case:
  """A small training run of which one thing is wrong."""

  def __init__(self, folder: Path, model: Path):
    from helpers import config
    self.folder, self.model = folder, folder / 'model'
    shutil.copytree(model, self.model)
    rows = [{'text': f'It was {word}.', 'label': ('negative', 'positive')[i % 2]} for i, word in enumerate(['bad', 'good'] * 3)]
    (folder / 'rows.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
    self.config = config(
        task__name='files', task__prompt='R: {text}\nS:', task__target=' {label}', task__choices=('negative', 'positive'),
        task__train=str(folder / 'rows.jsonl'), task__valid=str(folder / 'rows.jsonl'), model__source=str(self.model),
        training__steps=1, training__batch_size=2, training__eval_every=1, training__checkpoint_every=0)

  def spoil(self, rng: random.Random) -> str:
    """Makes one thing wrong; says what."""
    kind = rng.choice(['rows', 'rows', 'value', 'template', 'config', 'config', 'model config', 'tokenizer', 'weights'])
    rows = self.folder / 'rows.jsonl'
    if kind == 'rows':
      rows.write_bytes(mutated(rows.read_bytes(), rng))
    elif kind == 'value':
      lines = [json.loads(line) for line in rows.read_text().splitlines()]
      rows.write_text(''.join(json.dumps(row) + '\n' for row in changed(lines, rng)))
    elif kind == 'template':
      field = rng.choice(['prompt', 'target', 'separator'])
      self.config['task'][field] = mutated(self.config['task'][field].encode() if self.config['task'][field] else b'{text}',
                                           rng).decode(errors='replace')
    elif kind == 'config':
      group = rng.choice(['model', 'task', 'strategy', 'training', 'mesh'])
      field = rng.choice([f for f in self.config[group] if f not in ('source', 'train', 'valid', 'test', 'path', 'init_from')])
      self.config[group][field] = rng.choice(ODD_VALUES)
      return f'{group}.{field}={self.config[group][field]!r:.40}'
    else:
      name = {'model config': 'config.json', 'tokenizer': rng.choice(['tokenizer.json', 'tokenizer_config.json']),
              'weights': 'model.safetensors'}[kind]
      path = self.model / name
      if name.endswith('.json') and rng.random() < 0.7:
        path.write_text(json.dumps(changed(json.loads(path.read_text()), rng)))
      elif kind == 'weights':
        data = path.read_bytes()
        head = 8 + int.from_bytes(data[:8], 'little')      # a flipped bit in the numbers is another model
        path.write_bytes(mutated(data[:head], rng) + data[head:] if rng.random() < 0.7 else data[:rng.randrange(len(data))])
      else:
        path.write_bytes(mutated(path.read_bytes(), rng))
    return kind


def out_of_time(signum, frame):
  raise TimeoutError(f'{LIMIT} s')


def inputs(count: int, seed: int) -> Counter:
  """Runs cases in this process: each is trained with what was spoiled, or refused in one line."""
  import numpy as np

  from research import run_files
  from research.deployment import folder as folders
  from research.errors import InputError
  from research.models import families, functions, load, names
  from research.models.config import Execution
  from research.runs.train import train_one
  found: Counter = Counter()
  with tempfile.TemporaryDirectory() as root:
    loaded = load.load('random:llama-tiny', Execution('float32', 'float32', True))
    tensors = names.export_params(families.FAMILIES[loaded.model.config.family],
                                  *functions.split_last_layers(loaded.model.config, loaded.params, 0))
    fill = lambda into: folders.model(into, loaded.hf, tensors, loaded.tokenizer, np.dtype('float32'), 10 ** 9, {}, {})
    run_files.write_folder(Path(root) / 'model', fill)
    signal.signal(signal.SIGALRM, out_of_time)
    for number in range(seed, seed + count):
      rng, folder = random.Random(number), Path(root) / str(number)
      folder.mkdir()
      case = Case(folder, Path(root) / 'model')
      for cached in (load._load, load._load_with_last_layers, load._planned, load._open):
        cached.cache_clear()
      what = case.spoil(rng)
      said = io.StringIO()
      signal.alarm(LIMIT)
      try:
        with contextlib.redirect_stderr(said):
          result = train_one(case.config, folder / 'run')
        json.dumps(result, allow_nan=False)
        outcome = 'ran'
      except InputError as e:
        outcome = 'refused'
        if (folder / 'run' / 'result.json').exists() or not str(e).strip():
          outcome = 'refused late'
      except BaseException as e:  # whatever else comes out is what is looked for
        outcome = f'{type(e).__name__}'
        last = traceback.extract_tb(e.__traceback__)
        ours = next((f for f in reversed(last) if 'research' in f.filename), last[-1])
        print(f'{number}: {what}: {type(e).__name__}: {str(e)[:150]!r} at {Path(ours.filename).name}:{ours.lineno}', flush=True)
      finally:
        signal.alarm(0)
      found[outcome] += 1
      shutil.rmtree(folder)
  return found


def kills(count: int, seed: int) -> Counter:
  """Kills verbs at random moments until `count` kills are done; what they leave in the end is what undisturbed ones leave."""
  from helpers import as_flags, reviews, without_times
  rng, found = random.Random(seed), Counter()
  rows = reviews(train=16, valid=8, test=8)
  steps = {'training__steps': 12, 'training__batch_size': 4, 'training__eval_every': 4, 'training__checkpoint_every': 2,
           'check_memory': False, **rows}
  of = lambda **more: ['--config=configs/default.py', *as_flags({'model__source': 'random:llama-tiny', **steps, **more})]
  verb = lambda name, *flags: [sys.executable, '-m', f'research.{name}', *flags]
  contents = lambda path: without_times(json.loads(path.read_text()))
  with tempfile.TemporaryDirectory() as root:
    root = Path(root)
    base = root / 'base'
    trained = verb('train', *of(), f'--workdir={base}')
    assert subprocess.run(trained, capture_output=True).returncode == 0
    (root / 'in.jsonl').write_text(''.join(json.dumps({'prompt': f'word {i}'}) + '\n' for i in range(40)))
    study = root / 'study.py'
    study.write_text(f'''
def get_study():
  return {{'question': 'Which?', 'base': {str(root / 'base_config.py')!r}, 'models': ('random:llama-tiny',), 'seeds': (0, 1),
          'tasks': ({ {k.removeprefix('task__'): v for k, v in rows.items()} },), 'baseline': 'bitfit', 'extend': 0,
          'arms': {{'full': {{'strategy': {{'name': 'full'}}, 'grid': {{'training.learning_rate': [1e-3, 1e-2]}}}},
                    'bitfit': {{'strategy': {{'name': 'bitfit'}}, 'grid': {{'training.learning_rate': [1e-2]}}}}}},
          'budget': {{'steps': 12, 'batch_size': 4, 'eval_every': 4, 'checkpoint_every': 2}}, 'select': 'valid/accuracy',
          'report': 'test/accuracy'}}
''')
    (root / 'base_config.py').write_text('from configs import default\n\ndef get_config():\n  config = default.get_config()\n'
                                         '  config.check_memory = False\n  return config\n')
    made = lambda folder: {'result.json': contents(folder / 'result.json'), 'metrics.jsonl': [
        without_times(json.loads(line)) for line in (folder / 'metrics.jsonl').read_text().splitlines()]}
    compared = lambda folder: contents(folder / 'comparison.json')
    kinds = {
        'train lora': (lambda w: [verb('train', *of(), f'--workdir={w}')], made),
        'train vera': (lambda w: [verb('train', *of(strategy__name='vera'), f'--workdir={w}')], made),
        'train t5': (lambda w: [verb('train', *of(model__source='random:t5-tiny'), f'--workdir={w}')], made),
        'study': (lambda w: [verb('study', f'--study={study}', f'--workdir={w}', '--cohorts=off')], compared),
        'study cohorts': (lambda w: [verb('study', f'--study={study}', f'--workdir={w}', '--cohorts=4')], compared),
        'study shards': (lambda w: [verb('study', f'--study={study}', f'--workdir={w}', '--cohorts=off', f'--shard={i}/2')
                                    for i in (1, 2)], compared),
        'evaluate': (lambda w: [verb('evaluate', f'--workdir={w}', '--split=test')], lambda w: contents(w / 'result.json')),
        'export': (lambda w: [verb('export', f'--workdir={base}', f'--output={w}')],
                   lambda w: {f.name: f.read_bytes() for f in w.iterdir() if f.suffix in ('.json', '.safetensors')}),
        'generate': (lambda w: [verb('generate', f'--workdir={base}', f'--input={root}/in.jsonl', f'--output={w}/out.jsonl',
                                     '--max_new_tokens=8')], lambda w: (w / 'out.jsonl').read_text()),
    }

    def prepared(name, workdir):
      if name == 'evaluate':
        shutil.copytree(base, workdir)
      return kinds[name][0](workdir)
    expected, seconds, done = {}, {}, 0
    while done < count:
      name = list(kinds)[done % len(kinds)]
      if name not in expected:
        began = time.monotonic()
        for command in prepared(name, root / f'whole {name}'):
          assert subprocess.run(command, capture_output=True).returncode == 0, name
        expected[name], seconds[name] = kinds[name][1](root / f'whole {name}'), time.monotonic() - began
      workdir = root / f'killed {name} {done}'
      commands = prepared(name, workdir)
      running = [subprocess.Popen(c, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for c in commands]
      time.sleep(rng.uniform(0.1, 0.95) * seconds[name])
      rng.choice(running).kill()
      done += 1
      outcome = 'the same'
      for process in running:
        with contextlib.suppress(subprocess.TimeoutExpired):
          process.communicate(timeout=3 * seconds[name] + LIMIT)
      if name == 'export' and workdir.exists() and any(workdir.iterdir()):
        outcome = 'whole' if (workdir / 'config.json').exists() else 'torn'      # an output that is there is refused
      else:
        for command in (*commands, *commands[:1]) if len(commands) > 1 else commands:
          again = subprocess.run(command, capture_output=True, text=True, timeout=3 * seconds[name] + LIMIT)
          if again.returncode or 'Traceback' in again.stderr:
            outcome = 'broken'
            print(f'kill {done}: {name}: {again.stderr.strip().splitlines()[-1:]}', flush=True)
      if outcome != 'broken' and kinds[name][1](workdir) != expected[name]:
        outcome = 'other'
      found[f'{name}: {outcome}'] += 1
      print(f'kill {done} of {count}: {name}: {outcome}', flush=True)
      shutil.rmtree(workdir, ignore_errors=True)
  return found


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('what', choices=('inputs', 'kills'))
  parser.add_argument('--count', type=int, default=100)
  parser.add_argument('--seed', type=int, default=0)
  given = parser.parse_args()
  found = {'inputs': inputs, 'kills': kills}[given.what](given.count, given.seed)
  for outcome, times in sorted(found.items()):
    print(f'{outcome}: {times}')
  fine = ('ran', 'refused', 'the same', 'whole')
  sys.exit(min(100, sum(times for outcome, times in found.items() if outcome.split(': ')[-1] not in fine)))


if __name__ == '__main__':
  main()
