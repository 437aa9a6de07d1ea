"""What a config takes, before anything runs: parameters, bytes on each device, FLOPs, time, cost, and what would make it fit.

    python -m research.plan --config=configs/default.py
    python -m research.plan --config=configs/default.py --topology=H100:8 --config.mesh.fsdp=-1 --config.mesh.data=1
    python -m research.plan --config=configs/pods.py:llama-3-8b-lora --topology=v5e:4x4 --tokens=4096 --output=plan.json
    python -m research.plan --study=experiments/quickstart.py

No weights are read. `--topology=local` is this machine, whose rates are measured; GPU names use an account of the step's
shapes; a TPU slice also has the step compiled for it where libtpu is installed (the `tpu` extra). Times are the least that the
devices' peak rates allow.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import flags

from research import cli, experiment, machine, sharding, tree
from research import workdir as files
from research.errors import InputError
from research.experiment import Experiment
from research.planning import account, chips, compiled
from research.planning.account import Account
from research.planning.chips import GIB, Topology


def plan(config: dict[str, Any], said: str, compile: bool = True, tokens: int = 0) -> dict[str, Any]:
  """The plan of one config.

  Args:
    said: the topology. compile: a TPU's step is compiled where libtpu is installed.
    tokens: of every row; 0: as the data has it.
  Raises:
    InputError: something of the config cannot be right, or there is no such topology.
  """
  topology = chips.topology(said)
  with machine.compiling_for(topology.kind):
    exp, sizes = assembled(config, topology)
    state, frozen = account.begun(exp)
    trainable = tree.size(state.trainable)
    found = {'topology': said, 'devices': topology.count, 'device': topology.chip.name, 'mesh': sizes,
             'model': exp.config['model']['source'], 'strategy': exp.strategy.name,
             'tokens_per_row': tokens or None,
             'parameters': {'total': trainable + tree.size(frozen), 'trainable': trainable}}
    if not exp.config['training']['steps']:
      return {**found, 'because': 'nothing learns: there is no training step to plan'}
    of_step = account.account(exp, sizes, tokens)
    found |= {'bytes_per_device': {**of_step.kinds, 'total': of_step.total}, 'memory_per_device': topology.chip.memory,
              'fits': of_step.total <= topology.chip.memory, **timed(exp, of_step, topology)}
    if topology.kind == 'tpu' and compile and compiled.available():
      found['compiled'] = compiled.step(exp, said, tokens)
      found['fits'] = found['compiled']['total'] <= topology.chip.memory
    if not found['fits']:
      found['changes'] = nearest(config, topology, tokens)
  return found


def assembled(config: dict[str, Any], topology: Topology) -> tuple[Experiment, dict[str, int]]:
  """The experiment as shapes, and the sizes of its mesh on this topology."""
  sizes = sharding.resolved(config['mesh'], topology.count)
  with sharding.planned(sizes):
    return experiment.assemble({**config, 'mesh': sizes}, abstract=True), sizes


def timed(exp: Experiment, of_step: Account, topology: Topology) -> dict[str, Any]:
  """The roofline of a step, and what the config's steps then take."""
  steps = exp.config['training']['steps']
  bounds = {'products': of_step.flops / topology.rate(exp.model.config.dtype), 'memory': of_step.read / topology.bandwidth,
            'interconnect': of_step.sent / topology.chip.interconnect}
  seconds = max(bounds.values())
  hours = steps * seconds / 3600
  return {'flops_per_step': of_step.flops * topology.count, 'bytes_sent_per_step': of_step.sent,
          'step_seconds': seconds, 'bounds': bounds, 'bound_by': max(bounds, key=bounds.get),
          'utilisation': bounds['products'] / seconds, 'tokens_per_second': of_step.tokens / seconds,
          'steps': steps, 'hours': hours, 'cost': chips.costs(topology, hours)}


def nearest(config: dict[str, Any], topology: Topology, tokens: int = 0) -> list[dict[str, Any]]:
  """Changes of a config after which its step fits, by the account: single ones, and smaller parts with recomputation."""
  t, mesh = config['training'], config['mesh']
  rows = t['batch_size'] // t['microbatches']
  smaller = [{'training.microbatches': t['microbatches'] * n} for n in (2, 4, 8, 16, 32, 64) if rows % n == 0]
  again = [{'model.remat': name} for name in ('products', 'layer') if name != config['model']['remat']]
  tried = [*smaller, *again, *({**s, **a} for a in again for s in smaller)]
  if topology.count > 1 and mesh['fsdp'] != -1:
    everywhere = {'mesh.data': 1, 'mesh.fsdp': -1, 'mesh.tensor': 1}
    tried += [everywhere, *({**everywhere, **a} for a in again)]
  if config['strategy']['name'] in ('full', 'last_layers'):
    tried += [{'strategy.name': 'lora'}, *({'strategy.name': 'lora', **a} for a in again)]
  elif config['model']['quantize'] == 'none':
    tried += [{'model.quantize': 'nf4'}, *({'model.quantize': 'nf4', **a} for a in again)]
  found: list[dict[str, Any]] = []
  for changes in tried:
    if any(set(f['changes'].items()) <= set(changes.items()) for f in found):      # a part of it is enough
      continue
    changed = {group: dict(fields) if isinstance(fields, dict) else fields for group, fields in config.items()}
    for field, value in changes.items():
      group, name = field.split('.')
      if field == 'strategy.name':
        changed[group] = dict.fromkeys(changed[group]) | {'name': value, 'allow_other_base': False}
      else:
        changed[group][name] = value
    try:
      exp, sizes = assembled(changed, topology)
      total = account.account(exp, sizes, tokens).total
    except InputError:                            # no config, such as a batch that cannot be dealt out so
      continue
    if total <= topology.chip.memory:
      found.append({'changes': changes, 'bytes': total})
  return found


def told(found: Mapping[str, Any]) -> str:
  """A plan as a person reads it."""
  p, mesh = found['parameters'], ' x '.join(f'{axis}={n}' for axis, n in found['mesh'].items())
  lines = [f'{found["strategy"]} on {found["model"]}: {p["total"]:,} parameters, {p["trainable"]:,} of them learn',
           f'{found["devices"]} x {found["device"]} ({mesh})']
  if 'because' in found:
    return '\n'.join([*lines, found['because']])
  b = found['bytes_per_device']
  lines.append('on each device: ' + ', '.join(f'{kind} {b[kind] / GIB:.2f}' for kind in account.KINDS if b[kind])
               + f'; {b["total"] / GIB:.2f} of {found["memory_per_device"] / GIB:.2f} GiB (account)')
  if 'compiled' in found:
    c = found['compiled']
    lines.append(f'compiled: arguments {c["arguments"] / GIB:.2f}, temporaries {c["temporary"] / GIB:.2f}; '
                 f'{c["total"] / GIB:.2f} GiB ({c["compile_seconds"]:.0f} s to compile)')
  bounds = ', '.join(f'{name} {seconds:.3g} s' for name, seconds in found['bounds'].items() if seconds)
  lines += [f'a step: {found["flops_per_step"] / 1e12:,.3g} TFLOP, at least {found["step_seconds"]:.3g} s, bound by '
            f'{found["bound_by"]} ({bounds}); {found["tokens_per_second"]:,.0f} tokens/s',
            f'{found["steps"]:,} steps: {found["hours"]:.3g} hours or more']
  lines += [f'  {row["machines"]} x {row["machine"]} ({row["provider"]}): {row["usd_per_hour"]:,.2f} USD an hour, '
            f'{row["usd"]:,.2f} USD in all (prices of {row["prices_of"]})' for row in found['cost']]
  if not found['fits']:
    lines.append('it does not fit; these changes would:' if found['changes'] else 'it does not fit, nor after any change tried')
    lines += ['  ' + ' '.join(f'--config.{field}={value}' for field, value in one['changes'].items())
              + f'  ({one["bytes"] / GIB:.2f} GiB)' for one in found['changes']]
  return '\n'.join(lines)


def of_study(said: str, where: str, compile: bool) -> dict[str, Any]:
  """The plans of a study's cells, and their sum."""
  from research import study
  from research.studies import grid
  made = grid.study(study.load_file(said, 'get_study'), said)
  cells = grid.cells(made, study.base_config(made, Path(said.split(':')[0])))
  known: dict[str, dict[str, Any]] = {}
  found = []
  for cell in cells:
    alike = str({**cell.config, 'training': {**cell.config['training'], 'learning_rate': None, 'seed': None}})
    if alike not in known:
      known[alike] = plan(cell.config, where, compile)
    found.append({'key': cell.key, **known[alike]})
  hours = sum(one.get('hours', 0.0) for one in found)
  costs = chips.costs(chips.topology(where), hours)
  return {'study': said, 'topology': where, 'cells': found, 'hours': hours, 'cost': costs}


def main() -> None:
  f = flags.FLAGS
  if (f.config is None) == (f.study is None):
    raise InputError('give --config=FILE or --study=FILE, one of them')
  if chips.is_slice(f.topology):
    compiled.prepare()
  if f.study:
    found = of_study(f.study, f.topology, f.compile)
    for one in found['cells']:
      total = one.get('bytes_per_device', {}).get('total', 0.0)
      print(f'{one["key"]}  {one["parameters"]["trainable"]:,} learn  {total / GIB:.2f} GiB  '
            f'{one.get("hours", 0.0) * 3600:.3g} s or more')
    print(f'in all {found["hours"]:.3g} hours or more, evaluation not counted')
  else:
    found = plan(experiment.plain(f.config), f.topology, f.compile, f.tokens)
    print(told(found))
  if f.output:
    files.write_json(Path(f.output), found)


if __name__ == '__main__':
  cli.config_flag()
  flags.DEFINE_string('study', None, 'a study file: its cells are added up')
  flags.DEFINE_string('topology', 'local', 'local, a GPU (H100, H100:8), or a TPU slice (v5e:16x16)')
  flags.DEFINE_string('output', None, 'JSON file to write')
  flags.DEFINE_integer('tokens', 0, 'of every row, in place of those of the data; 0: as the data has it', lower_bound=0)
  flags.DEFINE_bool('compile', True, 'for TPUs: compile the step where libtpu is installed')
  cli.run(main, __doc__)
