"""What the tests of meshes run in a process of its own, on eight simulated devices: one JSON object on standard output.

    python tests/devices.py losses llama-tiny lora/mixed full/fsdp
    python tests/devices.py fused gpt2-tiny prefix/permuted
    python tests/devices.py unrolled llama-tiny full/mixed
"""

import contextlib
import json
import os
import re
import shutil
import signal
import sys
from collections import Counter
from pathlib import Path

os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} --xla_force_host_platform_device_count=8'
os.environ['JAX_PLATFORMS'] = 'cpu'
sys.path.insert(0, str(Path(__file__).parent.parent))

import helpers
import jax
import numpy as np
from strategies import rows

from research import tree
from research.data.batches import TrainingBatches
from research.distributed import mesh, partition, placement
from research.errors import InputError
from research.models import functions, fused, load
from research.models.config import Execution
from research.programs.compile import compiled
from research.runs.train import train_cohort, train_one
from research.strategies import table
from research.training import trial
from research.training.metrics_log import MetricsLog
from research.training.objective import CROSS_ENTROPY
from research.training.signals import Stopped
from research.training.steps import train_step

STRATEGIES = {'full': {}, 'lora': {'dropout': 0.1}, 'adapter': {'dropout': 0.1}, 'prefix': {}}
MESHES = {'data': (8, 1, 1), 'fsdp': (1, 8, 1), 'tensor': (4, 1, 2), 'mixed': (2, 2, 2), 'permuted': (2, 2, 2)}
STEPS = 5


def mesh_of(name):
  devices = jax.devices()
  if name == 'permuted':
    devices = [devices[i] for i in np.random.default_rng(0).permutation(8)]
  return mesh.make(dict(zip(partition.AXES, MESHES[name])), devices)


def begun(model, strategy, unrolled=False):
  """(loaded, state, frozen, tx, batches) of a run on the mesh in use, at a rate where the loss falls smoothly."""
  loaded = helpers.scaled_up(model)
  if unrolled:
    loaded = loaded._replace(params=functions.unstack_layers(loaded.params))
  state, frozen, tx = helpers.start(loaded, table.make(strategy, STRATEGIES[strategy]), learning_rate=3e-4, clip=1.0)
  batches = TrainingBatches(helpers.documents(loaded, 30, longest=130), 8, 1, 0, STEPS, multiple=mesh.batch_shards())
  return loaded, *placement.shard((state, frozen)), tx, [placement.shard_batch(batches(step), axis=1) for step in range(STEPS)]


def losses(model, wanted, same_flops=False, unrolled=False):
  """strategy/mesh -> the loss of every step, and strategy/one -> on one device.

  same_flops: whether a mesh's lines have the padding of one device's, and so its FLOPs.
  unrolled: whether layers are, on the mesh.
  """
  found = {}
  helpers.scaled_up(model)                  # on one device, before it is placed on any mesh
  for strategy, name in [one.split('/') for one in wanted]:
    multiplied = set()
    for where in ('one', name):
      with mesh.use(None if where == 'one' else mesh_of(where)):
        loaded, state, frozen, tx, batches = begun(model, strategy, unrolled and where != 'one')
        _, found[f'{strategy}/{where}'] = helpers.take(loaded, state, frozen, tx, batches)
        program = compiled(train_step, state, frozen, batches[0], model=loaded.model, tx=tx, objective=CROSS_ENTROPY)
        multiplied.add(program.flops)
    assert len(multiplied) == 1 or not same_flops, f'{strategy}/{name}: not the FLOPs of one device: {multiplied}'
  return found


def collectives(model, strategy, name):
  """What the compiled step sends between devices: [operation, dtype, shape, how often], and the shapes of all leaves."""
  helpers.scaled_up(model)
  with mesh.use(mesh_of(name)):
    loaded, state, frozen, tx, batches = begun(model, strategy)
    step = compiled(train_step, state, frozen, batches[0], donate=(0,), model=loaded.model, tx=tx)
    sent = Counter()
    for line in step.call.as_text().splitlines():
      match = re.search(r'= (.*?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(-start)?\(', line)
      for kind, shape in re.findall(r'(\w+)\[([\d,]*)\]', match[1]) if match else ():
        sent[match[2], kind, shape] += 1
    # Inside the scan a leaf of a stack is one layer's.
    layers = lambda n, x: x.shape[1:] if 'layers/' in n else x.shape
    shapes = lambda t: [list(layers(n, x)) for n, x in tree.leaves(t).items()]
    return {'sent': [[*what, count] for what, count in sent.items()],
            'learns': shapes(state.trainable), 'stays': shapes(frozen)}


def members(model):
  """What a step of eight members sends between eight devices, and how many members a leaf has on each."""
  with mesh.use(mesh.make({'data': 8, 'fsdp': 1, 'tensor': 1}, members=8)):
    loaded = helpers.scaled_up(model)
    begun = [helpers.start(loaded, table.make('lora', STRATEGIES['lora']), seed=seed) for seed in range(8)]
    batches = TrainingBatches(helpers.documents(loaded, 30, longest=130), 2, 1, 0, STEPS)
    side = trial.timed_step([(state, frozen) for state, frozen, _ in begun], [batches(step % STEPS) for step in range(8)],
                            model=loaded.model, tx=begun[0][2])
    sent = re.findall(r'all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute', side.step.call.as_text())
    return {'sent': sent, 'members': sorted({x.addressable_shards[0].data.shape[0] for x in jax.tree.leaves(side.state)})}


def read(folder, quantize):
  """The parameters that are not, on each mesh, what they are on one device, and which lie in parts."""
  execution, found = Execution('float32', 'float32', True, quantize), {}
  one = tree.leaves(load.load(folder, execution).params)
  for name in MESHES:
    with mesh.use(mesh_of(name)):
      params = tree.leaves(load.load(folder, execution).params)
      other = [path for path, x in params.items() if not np.array_equal(x, one[path])]
      found[name] = {'other': other, 'in parts': [path for path, x in params.items() if not x.is_fully_replicated]}
  return found


def runs(folder):
  """Runs by the verb on several meshes, stopped and gone on with on the same and on another, and what is refused."""
  folder, found = Path(folder), {}

  def told(workdir, result):
    lines = (folder / workdir / 'metrics.jsonl').read_text().splitlines()
    return {'losses': [json.loads(line)['train/loss'] for line in lines], 'metrics': result['metrics'],
            'peak_bytes': result['cost']['peak_bytes']}

  def made(sizes, **fields):
    return {**helpers.steady(folder, **fields), 'mesh': dict(zip(partition.AXES, sizes))}

  found['mixed'] = told('mixed', train_one(made((2, 2, 2)), folder / 'mixed'))
  write = MetricsLog.write

  def stopping(self, lines):
    write(self, lines)
    if lines[-1]['step'] == 3:
      signal.raise_signal(signal.SIGTERM)
  MetricsLog.write = stopping
  with contextlib.suppress(Stopped):
    train_one(made((2, 2, 2), training__log_every=1), folder / 'again')
  MetricsLog.write = write
  shutil.copytree(folder / 'again', folder / 'elsewhere')
  found['again'] = told('again', train_one(made((2, 2, 2), training__log_every=1), folder / 'again'))
  found['elsewhere'] = told('elsewhere', train_one(made((8, 1, 1), training__log_every=1), folder / 'elsewhere'))
  jobs = [(made((2, 4, 1), training__learning_rate=rate), folder / f'cohort-{rate}', str(rate)) for rate in (1e-3, 3e-4)]
  found['cohort'] = told('cohort-0.001', train_cohort(jobs, folder / 'latest')[0])
  broken = ({**jobs[1][0], 'strategy': {**jobs[1][0]['strategy'], 'rank': -1}}, folder / 'broken', 'broken')
  jobs = [(config, folder / f'of-two-{number}', '') for number, (config, _, _) in enumerate((*jobs, jobs[0]))]
  results = train_cohort([*jobs[:2], broken, jobs[2]], folder / 'latest-of-three')
  assert isinstance(results.pop(2), InputError)
  found['cohort of three'] = told('of-two-2', results[2])
  found['refused'] = {}
  for said, sizes, fields in (('these do: 1, 2', (2, 1, 4), {}), ('must be 8', (2, 2, 1), {}),
                              ('the 6 rows', (4, 1, 2), {'training__batch_size': 6})):
    try:
      train_one(made(sizes, **fields), folder / 'refused')
    except InputError as e:
      found['refused'][said] = str(e)
  assert len(found['refused']) == 3 and not (folder / 'refused').exists()
  return found


def chain(folder, model, strategy, where, with_study=False):
  """A run by each verb's own entry, its memory checked: planned, trained, evaluated, asked, exported, and as a study's arm.

  Of `few_shot`, which trains nothing, what it is evaluated as and asked.
  """
  folder = Path(folder)
  row = rows.ROWS[strategy]
  task = helpers.reviews(longest=60, train=8, valid=4, test=4)
  fields = {'model.source': f'random:{model}', 'model.context': 512, 'strategy.name': row.name,
            **{f'strategy.{name}': value for name, value in row.fields.items()},
            **{f'mesh.{axis}': n for axis, n in zip(partition.AXES, MESHES[where])},
            **{name.replace('__', '.'): value for name, value in task.items()},
            'training.steps': 2, 'training.batch_size': 8, 'training.eval_every': 2}
  config = ['--config=configs/default.py', *(f'--config.{name}={value}' for name, value in fields.items())]
  found = {}

  def verb(name, *given):
    done = helpers.verb(name, *given)
    assert done.returncode == 0, f'{name} {model} {strategy} {where}: {done.stderr[-2000:]}'
    found[name] = done.stdout

  learns = row.make().learns
  run = f'--workdir={folder}/run'
  verb('plan', *config, f'--output={folder}/plan.json')
  if learns:
    verb('train', *config, run)
    verb('evaluate', run)
    verb('generate', run, '--prompt=Good', '--max_new_tokens=4')
    merges = not row.make().slots and not row.make().prefix_slots and not row.name.startswith('adapter')
    verb('export', run, f'--output={folder}/out', f'--format={"hf" if merges else "peft"}')
  else:
    verb('evaluate', *config, run)
    verb('generate', *config, '--prompt=Good', '--max_new_tokens=4')
  (folder / 'base.py').write_text(
      f'from configs import default\n\ndef get_config():\n  config = default.get_config()\n'
      f'  config.update_from_flattened_dict({fields!r})\n  return config\n')
  arms = {'one': {'strategy': {'name': row.name, **row.fields}}, 'shots': {'strategy': {'name': 'few_shot', 'shots': 0}}}
  study = {'question': 'Which?', 'base': f'{folder}/base.py', 'arms': arms, 'baseline': 'shots', 'select': 'valid/accuracy',
           'report': 'test/accuracy', 'seeds': (0, 1) if learns else (0,)}
  (folder / 'study.py').write_text(f'def get_study():\n  return {study!r}\n')
  if with_study:
    verb('study', f'--study={folder}/study.py', f'--workdir={folder}/study')
  metrics = json.loads((folder / 'run' / 'result.json').read_text())['metrics']
  return {'metrics': metrics, 'verbs': sorted(found), 'planned': json.loads((folder / 'plan.json').read_text())['mesh']}


if __name__ == '__main__':
  jax.config.update('jax_disable_most_optimizations', True)
  what, *given = sys.argv[1:]
  if what == 'losses':
    found = losses(given[0], given[1:])
  elif what == 'fused':            # attention as one kernel, or what stands in for it here
    fused.is_supported = lambda *_: True
    found = losses(given[0], given[1:], same_flops=True)
  elif what == 'unrolled':
    found = losses(given[0], given[1:], unrolled=True)
  elif what == 'collectives':
    jax.config.update('jax_disable_most_optimizations', False)
    found = collectives(*given)
  elif what == 'read':
    found = read(*given)
  elif what == 'chain':
    found = chain(*given)
  elif what == 'members':
    found = members(*given)
  else:
    found = runs(*given)
  print(json.dumps(found))
