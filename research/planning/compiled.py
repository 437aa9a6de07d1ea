"""The very training step, compiled for a slice of TPUs on a machine that has none."""

import importlib.metadata
import os
import re
import time
from typing import Any

import jax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from research.distributed import device, mesh, partition, placement
from research.errors import InputError
from research.experiment import restore
from research.experiment.assemble import Experiment
from research.planning import account
from research.programs import compile as compilation
from research.training.steps import train_step


def prepare() -> None:
  """To be called before JAX looks for devices: none is looked for, and libtpu does not ask the cloud where it is."""
  os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')
  os.environ.setdefault('TPU_LOG_DIR', 'disabled')
  jax.config.update('jax_platforms', 'cpu')


def available() -> bool:
  """Whether libtpu is installed."""
  try:
    import libtpu  # noqa: F401
  except ImportError:
    return False
  return True


def devices(said: str) -> list[jax.Device]:
  """The devices of a slice such as v5e:16x16, none of which needs to exist.

  Raises:
    InputError: libtpu is not installed, or knows no such slice.
  """
  from jax.experimental import topologies
  if not available():
    raise InputError(f'--topology={said}: compiling for TPUs needs libtpu: pip install \'flaxtune[tpu]\'; --nocompile does '
                     'without')
  try:
    return topologies.get_topology_desc(platform='tpu', topology_name=said).devices
  except jax.errors.JaxRuntimeError as e:
    raise InputError(f'--topology={said}: libtpu knows no such slice ({str(e).splitlines()[0]})') from None


def step(exp: Experiment, said: str, tokens: int = 0) -> dict[str, Any]:
  """What the compiler says of the step of an experiment on a slice: bytes on each chip, and FLOPs.

  Args:
    exp: of shapes, on a mesh of as many devices as the slice has.
    said: the slice, such as v5e:4x4.
    tokens: as for `account.batch_shapes`.
  Raises:
    InputError: the step does not fit in a chip's memory, or there is no such slice.
    JaxRuntimeError: the compiler fails for another reason.
  """
  state, frozen = account.begun(exp)
  batch = account.batch_shapes(exp, exp.settings.mesh._asdict(), tokens)
  of_plan = mesh.make(exp.settings.mesh._asdict(), devices(said))
  assert of_plan is not None      # a single chip has none: its step cannot be compiled so
  tx, objective = restore.optimizer(exp), exp.objective
  with device.compiling_for('tpu'), mesh.use(of_plan):
    lying = lambda x, on: jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), x, on)
    state, frozen = (lying(x, placement.shardings(x, of_plan)) for x in (state, frozen))
    batch = lying(batch, jax.tree.map(lambda x: NamedSharding(of_plan, P(None, partition.ROWS)), batch))
    began = time.perf_counter()
    lowered = jax.jit(lambda *args: train_step(*args, model=exp.model, tx=tx, objective=objective), donate_argnums=(0,),
                      out_shardings=(jax.tree.map(lambda x: x.sharding, state), None)).lower(state, frozen, batch)
    try:
      compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as e:
      if 'RESOURCE_EXHAUSTED' in str(e):
        used = re.search(r'Used ([\d.]+\w) of ([\d.]+\w)', str(e))
        told = f'{used[1]} of {used[2]}' if used else str(e).splitlines()[0]
        raise InputError(f'--topology={said}: the compiler finds no room for the step in a chip\'s memory ({told})') from None
      raise
  memory = compiled.memory_analysis()
  assert memory is not None      # JAX's types allow for compilers that say nothing
  seconds = time.perf_counter() - began
  arguments, total = memory.argument_size_in_bytes, compilation.peak_bytes(memory, 'tpu')
  return {'arguments': arguments, 'temporary': total - arguments, 'total': total,
          'flops': float((compiled.cost_analysis() or {}).get('flops', 0.0)), 'compile_seconds': seconds,
          'versions': {name: importlib.metadata.version(name) for name in ('jax', 'libtpu')}}
