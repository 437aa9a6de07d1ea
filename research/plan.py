"""Says what a config or a study would take, before anything runs.

Parameters, bytes on each device, FLOPs, time, cost, and, where it does not fit, what would make it fit.

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

from research import cli, run_files
from research.errors import InputError
from research.experiment import settings
from research.planning import account, chips, compiled, plans
from research.planning.chips import GIB
from research.planning.plans import plan
from research.studies import study_file


def format_plan(found: Mapping[str, Any]) -> str:
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
    lines += [f'  {plans.change(one)}' for one in found['changes']]
  return '\n'.join(lines)


def of_study(said: str, where: str, compile: bool) -> dict[str, Any]:
  """The plans of a study's cells, and their sum.

  Args:
    said: the study's file, as --study names it.
    where: the topology (see `chips.topology`).
    compile: whether a TPU's step is compiled where libtpu is installed.
  """
  cells = study_file.read(said).cells
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
  if f.output:
    cli.check_output(Path(f.output))
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
    found = plan(settings.plain(f.config), f.topology, f.compile, f.tokens)
    print(format_plan(found))
  if f.output:
    run_files.write_json(Path(f.output), found)


if __name__ == '__main__':
  cli.config_flag()
  flags.DEFINE_string('study', None, 'a study file: its cells are added up')
  flags.DEFINE_string('topology', 'local', 'local, a GPU (H100, H100:8), or a TPU slice (v5e:16x16)')
  flags.DEFINE_string('output', None, 'JSON file to write')
  flags.DEFINE_integer('tokens', 0, 'of every row, in place of those of the data; 0: as the data has it', lower_bound=0,
                       upper_bound=2 ** 31 - 1)
  flags.DEFINE_bool('compile', True, 'for TPUs: compile the step where libtpu is installed')
  cli.run(main, __doc__)
