"""On eight simulated devices a run comes to what it comes to on one, and sends between them no more than it must."""

import json
import math
import os
import subprocess
import sys

import pytest
import safetensors.numpy
from helpers import ROOT, scaled_up, steady

from research.data import tokenizer as tokenizers
from research.distributed import mesh, partition
from research.errors import InputError
from research.models import load, names, presets
from research.models.families import FAMILIES
from research.runs.train import train_one

# attention, family, and strategies on meshes; `permuted` has the devices in another order. Every strategy and every mesh stands
# in some line, and in the matrix every strategy in every family.
TRIED = (('losses', 'llama-tiny', 'full/data prefix/fsdp'), ('losses', 'gpt2-tiny', 'lora/mixed adapter/permuted'),
         ('losses', 't5-tiny', 'full/mixed lora/tensor'), ('fused', 'llama-tiny', 'lora/mixed'),
         ('fused', 'gpt2-tiny', 'full/tensor'), ('unrolled', 'llama-tiny', 'full/mixed'))
MATRIX = (('losses', 'llama-tiny', 'lora/permuted adapter/tensor'), ('losses', 'gpt2-tiny', 'full/fsdp prefix/data'),
          ('losses', 't5-tiny', 'adapter/data prefix/permuted'), ('fused', 'llama-tiny', 'prefix/fsdp'),
          ('unrolled', 't5-tiny', 'lora/tensor full/fsdp'), ('unrolled', 'gpt2-tiny', 'prefix/data adapter/permuted'))


# Each verb on meshes of eight devices, `check_memory` on: family, strategy, mesh. Every family stands beside every mesh.
CHAINS = (('t5-tiny', 'lora', 'tensor'), ('llama-tiny', 'full', 'mixed'), ('gpt2-tiny', 'prefix', 'fsdp'),
          ('llama-tiny', 'few_shot', 'data', 'study'))
MORE_CHAINS = (('t5-tiny', 'adapter', 'mixed', 'study'), ('gpt2-tiny', 'ia3', 'tensor', 'study'),
               ('llama-tiny', 'dora', 'tensor'), ('t5-tiny', 'vera', 'fsdp'), ('gpt2-tiny', 'bitfit', 'mixed'),
               ('llama-tiny', 'last_layers', 'fsdp', 'study'),
               ('t5-tiny', 'prompt', 'data'), ('gpt2-tiny', 'pissa', 'data'), ('llama-tiny', 'rslora', 'mixed'),
               ('t5-tiny', 'lora_plus', 'data'))


def on_devices(*arguments):
  """What `tests/devices.py` prints. No array is made whole on every device because XLA found no other way."""
  environment = {n: v for n, v in os.environ.items() if n != 'PYTEST_XDIST_WORKER'}
  done = subprocess.run([sys.executable, str(ROOT / 'tests' / 'devices.py'), *arguments], capture_output=True, text=True,
                        env=environment, cwd=ROOT)
  assert done.returncode == 0, done.stderr[-3000:]
  if arguments[0] != 'chain':      # which reads what all prompts begin with, a single line, on all devices
    assert 'Involuntary full rematerialization' not in done.stderr, done.stderr[-3000:]
  return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize('attention, model, on_meshes', [
    *TRIED, *(pytest.param(*one, marks=pytest.mark.matrix) for one in MATRIX)])
def test_a_mesh_gives_the_losses_of_one_device(attention, model, on_meshes):
  """1e-5 over five steps, data order and dropout included."""
  found = on_devices(attention, model, *on_meshes.split())
  assert len(found) == 2 * len(on_meshes.split())
  for name, losses in found.items():
    one = found[f'{name.split("/")[0]}/one']
    assert losses == pytest.approx(one, rel=1e-5), name
    assert len(one) == 5 and one[4] < one[1], name


@pytest.mark.parametrize('chain', [*CHAINS, *(pytest.param(one, marks=pytest.mark.matrix) for one in MORE_CHAINS)],
                         ids='-'.join)
def test_each_verb_works_on_each_mesh(chain, tmp_path):
  """Planned, trained, evaluated, asked and exported by the verbs' own entries; as a study's arm where the chain says so."""
  found = on_devices('chain', str(tmp_path), *chain)
  learns = chain[1] != 'few_shot'
  verbs = {'plan', 'evaluate', 'generate', *(('train', 'export') if learns else ())} | {*chain[3:]}
  assert {*found['verbs']} == verbs
  assert {'test/accuracy', 'test/loss'} <= found['metrics'].keys()
  assert found['planned'] == dict(zip(partition.AXES, {'data': (8, 1, 1), 'fsdp': (1, 8, 1), 'tensor': (4, 1, 2),
                                                       'mixed': (2, 2, 2)}[chain[2]]))


@pytest.mark.parametrize('strategy, mesh', [
    ('lora', 'fsdp'), *(pytest.param(*pair, marks=pytest.mark.matrix) for pair in (('lora', 'data'), ('full', 'fsdp')))])
def test_a_step_sums_up_what_learns_alone_and_gathers_a_frozen_weight_twice(strategy, mesh):
  """Once on the way forward and once on the way back; activations are never summed up."""
  found = on_devices('collectives', 'llama-tiny', strategy, mesh)
  learns = {tuple(shape) for shape in found['learns']}
  summed, gathered = {}, {}
  for operation, _, dims, count in found['sent']:
    shape = tuple(int(n) for n in dims.split(',') if n)
    if operation in ('all-reduce', 'reduce-scatter'):
      summed[shape] = count
    elif operation == 'all-gather':
      gathered[shape] = count
  assert summed and set(summed) - {()} <= learns, summed
  weights = [tuple(shape) for shape in (*found['stays'], *found['learns']) if math.prod(shape) > 600]      # kernels and tables
  for shape in set(weights):
    assert gathered.get(shape, 0) <= 2 * weights.count(shape), shape
  assert bool(gathered) == (mesh == 'fsdp')


@pytest.mark.parametrize('preset, quantize', [('llama-tiny', 'none'), ('gpt2-tiny', 'int8'), ('t5-tiny', 'none')])
def test_weights_are_read_onto_a_mesh(preset, quantize, tmp_path):
  loaded = scaled_up(preset)
  family, config = FAMILIES[loaded.model.config.family], loaded.model.config
  safetensors.numpy.save_file(names.export_params(family, config, loaded.params), tmp_path / 'model.safetensors')
  (tmp_path / 'config.json').write_text(json.dumps(presets.PRESETS[preset]), encoding='utf-8')
  tokenizers.of_bytes(load.sentinels(preset)).hf.save_pretrained(tmp_path)
  for name, found in on_devices('read', str(tmp_path), quantize).items():
    assert not found['other'], name
    assert bool(found['in parts']) == (name != 'data'), name


def test_members_on_devices_of_their_own_send_each_other_nothing():
  assert on_devices('members', 'llama-tiny') == {'sent': [], 'members': [1]}


def test_a_mesh_must_be_the_devices_that_are_here():
  with pytest.raises(InputError, match=r'mesh: data=2 x fsdp=1 x tensor=1: that is not 1 device; the product must be 1'):
    mesh.make({'data': 2, 'fsdp': 1, 'tensor': 1})
  with pytest.raises(InputError, match='every axis is 1 or more'):
    mesh.make({'data': -1, 'fsdp': -1, 'tensor': 1})
  assert mesh.make({'data': 1, 'fsdp': -1, 'tensor': 1}) is None


@pytest.mark.parametrize('name, shape, expected', [
    ('params/layers/attn/q/kernel', (3, 64, 64), (None, 'fsdp', 'tensor')),
    ('params/encoder/layers/mlp/down/kernel', (3, 160, 64), (None, 'tensor', 'fsdp')),
    ('params/layers/attn/k/bias', (3, 32), (None, ('tensor', 'fsdp'))),
    ('params/layers/norm_attn/scale', (3, 64), ()),
    ('params/embed/embedding', (260, 64), ('tensor', 'fsdp')),
    ('params/embed/embedding', (259, 64), (None, 'fsdp')),                      # a vocabulary that 2 does not divide
    ('0/trainable/delta/layers/attn/q/kernel/a', (3, 64, 8), (None, 'fsdp', None)),
    ('0/trainable/delta/layers/attn/o/kernel/a', (3, 64, 8), (None, ('tensor', 'fsdp'), None)),
    ('opt_state/1/mu/delta/layers/attn/q/kernel/b', (3, 8, 64), (None, None, ('tensor', 'fsdp'))),
    ('delta/layers/attn/q/kernel/b', (3, 8, 66), (None, None, 'tensor')),                    # 4 does not divide it
    ('opt_state/1/0/v_row/params/layers/attn/q/kernel', (3, 64), ()),
    ('params/layers/attn/q/kernel/codes', (3, 2048), (None, ('tensor', 'fsdp'))),
    ('params/layers/mlp/down/kernel/codes', (3, 2048), (None, 'fsdp')),
    ('delta/layers/attn/prefix/keys', (3, 10, 32), (None, None, ('tensor', 'fsdp'))),
])
def test_a_delta_lies_where_the_sides_of_its_kernel_lie(name, shape, expected):
  assert tuple(partition.spec(name, shape, {'data': 2, 'fsdp': 2, 'tensor': 2})) == expected


def test_runs_on_meshes(tmp_path):
  """A run goes on on another mesh, and bit for bit on its own; members and evaluations are what they are on one device."""
  found = on_devices('runs', str(tmp_path))
  alone = train_one(steady(tmp_path), tmp_path / 'one')
  lines = [json.loads(line) for line in (tmp_path / 'one' / 'metrics.jsonl').read_text().splitlines()]
  for name in ('mixed', 'elsewhere', 'cohort', 'cohort of three'):
    assert found[name]['losses'] == pytest.approx([line['train/loss'] for line in lines], rel=1e-5), name
    assert found[name]['metrics'] == pytest.approx(alone['metrics'], rel=1e-4), name
  assert found['again']['losses'] == found['mixed']['losses']
  assert found['mixed']['peak_bytes'] < alone['cost']['peak_bytes']
  for name, said in found['refused'].items():
    assert name in said, (name, said)
