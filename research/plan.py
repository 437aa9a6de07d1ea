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

from pathlib import Path

from absl import flags

from research import cli, run_files
from research.errors import InputError
from research.planning import chips, compiled
from research.planning.chips import GIB
from research.planning.plans import plan
from research.planning.spoken import format_plan
from research.studies.plans import of_study


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
    found = plan(f.config, f.topology, f.compile, f.tokens)
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
