"""The plan of a config on a topology: what it takes, whether that fits, how long it is, and what would make it fit."""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from research import config as configs
from research import tree
from research.config import Config, MeshSettings, Settings, StrategySettings
from research.distributed import device, mesh, processes
from research.errors import InputError
from research.experiment import restore
from research.experiment.assemble import Experiment, assemble
from research.planning import account, chips, compiled
from research.planning.account import Account
from research.planning.chips import GIB, Topology


def plan(config: Config, said: str, compile: bool = True, tokens: int = 0) -> dict[str, Any]:
  """The plan of one config, as JSON holds it.

  A config of which something cannot be right, and a topology that does not exist, are refused (`InputError`).

  Args:
    config: as for `config.read`.
    said: the topology (see `chips.topology`).
    compile: whether a TPU's step is compiled where libtpu is installed.
    tokens: of every row; 0: as the data has it.
  """
  topology = chips.topology(said)
  with device.compiling_for(topology.kind, topology.chip.capability):
    exp, sizes = assembled(config, topology)
    state, frozen = account.begun(exp)
    trainable, total = restore.num_params(state.trainable, frozen)
    found: dict[str, Any] = {
        'topology': said, 'devices': topology.count, 'device': topology.chip.name, 'mesh': sizes,
        'model': exp.settings.model.source, 'strategy': exp.strategy.name, 'tokens_per_row': tokens or None,
        'parameters': {'total': total, 'trainable': trainable}}
    if not exp.settings.training.steps:
      return {**found, 'because': 'nothing learns: there is no training step to plan'}
    of_step = account.account(exp, sizes, tokens)
    found |= {'bytes_per_device': {**of_step.kinds, 'total': of_step.total}, 'memory_per_device': topology.chip.memory,
              'fits': of_step.total <= topology.chip.memory, **timed(exp, of_step, topology)}
    if topology.kind == 'tpu' and topology.count > 1 and compile and compiled.available():      # one chip makes no mesh
      found['compiled'] = compiled.step(exp, said, tokens)
      found['fits'] = found['compiled']['total'] <= topology.chip.memory
    if not found['fits']:
      found['changes'] = [*fitting_changes(config, of_step, topology, tokens)]
  return found


def assembled(config: Config, topology: Topology) -> tuple[Experiment, dict[str, int]]:
  """The experiment as shapes, and the sizes of its mesh on this topology."""
  settings = configs.read(config)
  sizes = mesh.infer_axis_sizes(settings.mesh._asdict(), topology.count)
  with mesh.use_abstract(sizes):
    return assemble(settings._replace(mesh=MeshSettings(**sizes)), abstract=True), sizes


def timed(exp: Experiment, of_step: Account, topology: Topology) -> dict[str, Any]:
  """The roofline of a step, and what the config's steps then take: seconds, hours and cost, all of them at least.

  Args:
    exp: of shapes.
    of_step: the account of its step.
    topology: the devices, whose peak rates bound a step.
  """
  steps = exp.settings.training.steps
  bounds = {'products': of_step.flops / topology.rate(exp.model.config.dtype),
            'memory': of_step.bytes_accessed / topology.bandwidth,
            'interconnect': of_step.bytes_sent / topology.chip.interconnect}
  seconds = max(bounds.values())
  hours = steps * seconds / 3600
  return {'flops_per_step': of_step.flops * topology.count, 'bytes_sent_per_step': of_step.bytes_sent,
          'step_seconds': seconds, 'bounds': bounds, 'bound_by': max(bounds, key=bounds.__getitem__),
          'utilisation': bounds['products'] / seconds, 'tokens_per_second': of_step.tokens / seconds,
          'steps': steps, 'hours': hours, 'cost': chips.costs(topology, hours)}


def fitting_changes(config: Config, of_step: Account, topology: Topology, tokens: int = 0) -> Iterator[dict[str, Any]]:
  """Changes of a config after which its step fits, by the account: single ones, and smaller parts with recomputation.

  Args:
    config: as for `config.read`.
    of_step: of the config itself.
    topology: the devices that the step is to fit on.
    tokens: as for `plan`.
  """
  settings = configs.read(config)
  t, mesh = settings.training, settings.mesh
  rows = t.batch_size // t.microbatches
  smaller: list[dict[str, Any]] = [{'training.microbatches': t.microbatches * n}
                                   for n in (2, 4, 8, 16, 32, 64) if rows % n == 0]
  again: list[dict[str, Any]] = [{'model.remat': name} for name in ('products', 'layer') if name != settings.model.remat]
  tried = [*smaller, *again, *({**s, **a} for a in again for s in smaller)]
  if of_step.static_bytes > topology.chip.memory:       # then no smaller part will do
    tried = []
  if topology.count > 1 and mesh.fsdp != -1:
    everywhere = {'mesh.data': 1, 'mesh.fsdp': -1, 'mesh.tensor': 1}
    tried += [everywhere, *({**everywhere, **a} for a in again)]
  if settings.strategy.name in ('full', 'last_layers'):
    tried += [{'strategy.name': 'lora'}, *({'strategy.name': 'lora', **a} for a in again)]
  elif settings.model.quantize == 'none':
    tried += [{'model.quantize': 'nf4'}, *({'model.quantize': 'nf4', **a} for a in again)]
  found: list[dict[str, Any]] = []
  for changes in tried:
    if any(set(f.items()) <= set(changes.items()) for f in found):      # a part of it is enough
      continue
    other = changes.get('strategy.name')
    changed = settings._replace(strategy=StrategySettings(other)) if other else settings
    try:
      exp, sizes = assembled(changed.replace(changes), topology)
      total = account.account(exp, sizes, tokens).total
    except InputError:                            # no config, such as a batch that cannot be dealt out so
      continue
    if total <= topology.chip.memory:
      found.append(changes)
      yield {'changes': changes, 'bytes': total}


def change(one: Mapping[str, Any]) -> str:
  """One of the `fitting_changes`, as flags."""
  said = ' '.join(f'--config.{field}={value}' for field, value in one['changes'].items())
  return f'{said}  ({one["bytes"] / GIB:.2f} GiB)'


class LocalPlan(NamedTuple):
  """What a training step takes on each of the devices that are here, before it has been compiled."""
  exp: Experiment              # of shapes
  of_step: Account
  trainable: int               # parameters

  @property
  def step_seconds(self) -> float:
    """The least that the rates of these devices allow, which are measured when this is first asked."""
    return timed(self.exp, self.of_step, chips.topology('local'))['step_seconds']

  def bytes(self, members: int = 1) -> float:
    """On each device, of so many members as one program: what does not learn is there once."""
    shared = self.of_step.kinds['weights']
    return shared + members * (self.of_step.total - shared)


def here(config: Config) -> LocalPlan | None:
  """The account of a config on this machine; None where nothing learns. Settings that only change arrays share one."""
  settings = configs.read(config)
  arrays = {'training.learning_rate': 1.0, 'training.weight_decay': 0.0, 'training.warmup': 0.0,
            **{f'training.{part}_seed': None for part in configs.SEEDS if part not in ('rows', 'shots')},
            'strategy.dropout': settings.strategy.dropout and 0.1}
  if not settings.task.rows:                    # otherwise the seed draws them
    arrays |= {'training.seed': 0, 'training.rows_seed': None}
  return _here(settings.replace(arrays))


@lru_cache(maxsize=128)
def _here(settings: Settings) -> LocalPlan | None:
  topology = chips.topology('local')
  exp, sizes = assembled(settings, topology)
  if not exp.settings.training.steps:
    return None
  return LocalPlan(exp, account.account(exp, sizes), tree.size(account.begun(exp)[0].trainable))


def check(config: Config, members: int = 1) -> None:
  """Refuses a config whose step finds no room here.

  Args:
    config: as for `config.read`.
    members: of a cohort, that are trained as one program.
  Raises:
    InputError: it does not fit; it says what would.
  """
  found, topology = here(config), chips.topology('local')
  memory = min(processes.all_gather_object(topology.chip.memory))      # where processes have different machines, the smallest
  if found is None or found.bytes(members) <= memory:
    return
  kinds = ', '.join(f'{kind} {n / GIB:.2f}' for kind, n in found.of_step.kinds.items() if n)
  fitting = None if members > 1 else next(fitting_changes(config, found.of_step, topology), None)      # each takes a second
  hint = f'this would fit: {change(fitting)}; ' if fitting else ''
  raise InputError(f'a training step needs about {found.bytes(members) / GIB:.2f} GiB on each device ({kinds}), and '
                   f'{memory / GIB:.2f} are there; {hint}--config.check_memory=False tries it all the same')
