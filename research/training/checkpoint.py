"""Checkpoints of what is trainable, by Orbax, saved while training goes on.

`checkpoints/latest` holds all that a run resumes from; `checkpoints/best` what it learned up to its best validation.
What does not learn is in neither: a record beside the arrays names the base by its fingerprint, with every array's shape and
checksum, and is compared when they are restored. Of `latest` the one before is kept too, for the case that it is damaged.
"""

import errno
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from research import run_files, tree
from research.console import say
from research.distributed import placement, processes
from research.errors import InputError
from research.training.steps import TrainState
from research.tree import Tree
from research.unstacked import is_unstacked, stacked, unstack


def _describe(named: dict[str, Any]) -> dict[str, list[Any]]:
  return {name: [list(x.shape), str(x.dtype)] for name, x in named.items()}


KEPT = {'best': 1, 'latest': 2}      # checkpoints of each kind
WORDS = {1: np.uint8, 2: np.uint16, 4: np.uint32}      # by bytes of an element
CHUNK = 1 << 20


def checksum(x: Any) -> int:
  """A number of 32 bits that any changed bit of an array changes: its elements' bits, each times an odd number of its own.

  Args:
    x: with elements of one, two or four bytes; of an array that lies on several processes' devices they all call this.
  """
  if isinstance(x, jax.Array) and not x.is_fully_addressable:
    return int(processes.to_host(_checksum_of_all(x)))
  flat = np.ascontiguousarray(np.asarray(x)).reshape(-1)
  bits, total = flat.view(WORDS[flat.dtype.itemsize]), 0
  for begin in range(0, bits.size, CHUNK):
    part = bits[begin:begin + CHUNK].astype(np.uint32)
    total += int((part * (2 * np.arange(begin, begin + part.size, dtype=np.uint32) + np.uint32(1))).sum(dtype=np.uint32))
  return total % 2 ** 32


@jax.jit
def _checksum_of_all(x: jax.Array) -> jax.Array:
  """The same where the elements lie apart: each has its number from its place."""
  word = jnp.dtype(WORDS[x.dtype.itemsize])
  bits = x.astype(word) if x.dtype == bool else jax.lax.bitcast_convert_type(x, word)
  number = sum((jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis) * np.uint32(math.prod(x.shape[axis + 1:]) % 2 ** 32)
                for axis in range(x.ndim)), jnp.uint32(0))
  return (bits.astype(jnp.uint32) * (2 * number + 1)).sum(dtype=jnp.uint32)


def _sealed(record: dict[str, Any]) -> dict[str, Any]:
  """A record with its own hash."""
  return {**record, 'sha256': hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()}


class Damaged(Exception):
  """A checkpoint is not what was written."""


class Checkpoints:
  """The two checkpoints of a run; a new one replaces the old one once it is whole."""

  def __init__(self, folder: Path, base: str | None):
    """
    Args:
      folder: holds a folder of each kind, `latest` and `best`; made by the first save.
      base: the fingerprint of the model that the trainables belong to; None: of any, to restore alone.
    """
    self._folder, self._base = folder, base
    self._managers: dict[str, ocp.CheckpointManager] = {}

  def _manager(self, kind: str) -> ocp.CheckpointManager:
    if kind not in self._managers:
      run_files.check_name(self._folder)
      self._managers[kind] = ocp.CheckpointManager(
          (self._folder / kind).absolute(),
          options=ocp.CheckpointManagerOptions(max_to_keep=KEPT[kind], cleanup_tmp_directories=True))
    return self._managers[kind]

  def step(self, kind: str) -> int | None:
    """The step of the whole checkpoint of this kind, if there is one."""
    there = kind in self._managers or (self._folder / kind).is_dir()
    return self._manager(kind).latest_step() if there else None

  def save_best(self, step: int, trainable: Tree) -> None:
    self._save('best', step, {name: _whole(x) for name, x in tree.leaves(trainable).items()})

  def save_latest(self, state: TrainState, members: Sequence['Checkpoints'] = ()) -> None:
    """Saves what to resume from, after the best so far is whole: a run that resumes from here does not reach it again.

    Args:
      state: of the run, or of all members of a cohort with a leading axis.
      members: of a cohort, whose best ones are meant too.
    """
    for one in (self, *members):
      if 'best' in one._managers:
        one._finish('best')
    self._save('latest', int(np.max(state.step)), {n: _whole(x, state.step.ndim) for n, x in _state_leaves(state).items()})

  def _save(self, kind: str, step: int, named: dict[str, Any]) -> None:
    manager = self._manager(kind)
    for reached in manager.all_steps():    # by a run that was then killed and went on from before this step
      if reached >= step:                  # Orbax would skip the save in silence
        self._finish(kind)
        manager.delete(reached)
    self._written(kind, lambda: manager.save(step, args=ocp.args.Composite(
        arrays=ocp.args.StandardSave(tree.nested(named)),
        record=ocp.args.JsonSave(_sealed({'base': self._base, 'arrays': _describe(named),
                                          'checksums': {name: checksum(x) for name, x in named.items()}})))))

  def restore_latest(self, state: TrainState) -> TrainState | None:
    """The latest state that is whole, or None where nothing was saved; `state` gives the shapes.

    One that belongs to another run is refused (`InputError`), and so is a run of which every checkpoint is damaged.
    """
    if self.step('latest') is None:
      return None
    leaves, axis = _state_leaves(state), state.step.ndim      # of a cohort's members the layers' axis is the second
    named = self._restore('latest', {name: _whole_shape(x, axis) for name, x in leaves.items()})
    named |= {name: unstack(named[name], axis) for name, x in leaves.items() if is_unstacked(x)}
    named['key'] = jax.device_put(jax.random.wrap_key_data(jnp.asarray(named['key'])), state.key.sharding)
    return tree.replace(state, named)

  def restore_best(self, trainable: Tree) -> Tree:
    """What the run had learned at its best step; `trainable` gives the shapes.

    No checkpoint, one that belongs to another run, and a damaged one are refused (`InputError`).
    """
    like = {name: _whole_shape(x) for name, x in tree.leaves(trainable).items()}
    return tree.replace(trainable, self._restore('best', like))

  def _restore(self, kind: str, like: dict[str, Any]) -> dict[str, Any]:
    if self.step(kind) is None:
      raise InputError(f'{self._folder}: holds no {kind} checkpoint; train the run first')
    manager = self._manager(kind)
    steps = sorted(manager.all_steps(), reverse=True)
    for number, step in enumerate(steps):
      try:
        return self._restore_whole(kind, step, like)
      except Damaged as e:
        where = self._folder / kind / str(step)
        if number + 1 == len(steps):
          remedy = ('train the run again in another workdir, or put these files back from a copy' if kind == 'best' else
                    f'remove {self._folder / kind} to begin at step 1 again')
          raise InputError(f'{where}: is damaged ({e}); {remedy}') from None
        say(f'{where}: is damaged ({e}); the one before it, of step {steps[number + 1]}, is taken')
        manager.delete(step)
    raise AssertionError('there is a step')

  def _restore_whole(self, kind: str, step: int, like: dict[str, Any]) -> dict[str, Any]:
    """One checkpoint's arrays, compared with its record.

    Raises:
      InputError: it belongs to another run.
      Damaged: it is not what was written.
    """
    manager, where = self._manager(kind), self._folder / kind / str(step)
    record = _or_damaged(lambda: dict(manager.restore(step, args=ocp.args.Composite(record=ocp.args.JsonRestore()))['record']))
    seal = record.pop('sha256', None)
    if seal not in (None, _sealed(record)['sha256']):
      raise Damaged('its record is not the one that was written')
    if self._base not in (None, record['base']):
      raise InputError(f'{where}: was trained on another base model ({record["base"]}, not {self._base})')
    check_shapes(record['arrays'], _describe(like), str(where))
    here = placement.replicated()
    abstract = {n: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=getattr(x, 'sharding', here)) for n, x in like.items()}
    restored = _or_damaged(lambda: tree.leaves(manager.restore(
        step, args=ocp.args.Composite(arrays=ocp.args.StandardRestore(tree.nested(abstract))))['arrays']))
    written: Mapping[str, int] = record.get('checksums', {})      # older checkpoints have none
    changed = [name for name in written if checksum(restored[name]) != written[name]]
    if changed:
      raise Damaged(f'{changed[0]} is not what was written')
    return restored

  def wait(self) -> None:
    """Until everything saved is whole on disk."""
    for kind in self._managers:
      self._finish(kind)

  def _finish(self, kind: str) -> None:
    self._written(kind, self._managers[kind].wait_until_finished)

  def _written(self, kind: str, write: Callable[[], Any]) -> None:
    """Writes, or waits for what is being written.

    Raises:
      OSError: it could not be written.
      JaxRuntimeError: a device, or another process, is gone.
    """
    try:
      write()
    except jax.errors.JaxRuntimeError:      # of the devices: another process can have died
      raise
    except (ValueError, RuntimeError, OSError) as e:      # Orbax hands on whatever the library below it says of a disk
      why = f'a checkpoint could not be written: {(str(e).strip().splitlines() or [""])[0]:.200}'
      raise OSError(getattr(e, 'errno', None) or errno.EIO, why, str(self._folder / kind)) from None

  def close(self) -> None:
    for manager in self._managers.values():
      manager.close()
    self._managers = {}


def _or_damaged(read: Callable[[], Any]) -> Any:
  """What `read` gives, where it does so in all processes.

  Raises:
    Damaged: it raised something in one of them.
  """
  found, why = None, ''
  try:
    found = read()
  except Exception as e:  # Orbax and what it reads by raise whatever a damaged file leads them to
    why = f'{type(e).__name__}: {(str(e).strip().splitlines() or [""])[0]:.80}'
  told = [one for one in processes.all_gather_object(why) if one]
  if told:
    raise Damaged(told[0])
  return found


def check_shapes(saved: dict[str, list[Any]], wanted: dict[str, list[Any]], where: str) -> None:
  """Refuses a checkpoint of other arrays: a library that restores what it finds would go on in silence.

  Args:
    saved: name -> [shape, dtype] of what the checkpoint holds.
    wanted: name -> [shape, dtype] of what the config needs.
    where: the checkpoint's folder, for the message of an error.
  Raises:
    InputError: an array is missing, unexpected, or of another shape or dtype.
  """
  for what, names in (('lacks', wanted.keys() - saved.keys()), ('holds unexpected', saved.keys() - wanted.keys())):
    if names:
      raise InputError(f'{where}: {what} arrays: {", ".join(sorted(names)[:5])}; it is of another model or strategy')
  for name, shape in wanted.items():
    if list(saved[name]) != shape:
      raise InputError(f'{where}: {name} is {saved[name]}, but the config says {shape}')


def _whole(x: Any, axis: int = 0) -> Any:
  """A leaf as it is saved: of layers that stand apart the stacked array, which lies on the host where it can."""
  if is_unstacked(x) and x.layers[0].is_fully_addressable:
    return np.stack([np.asarray(layer) for layer in x], axis)
  return stacked(x, axis)


def _whole_shape(x: Any, axis: int = 0) -> Any:
  """The same as a shape that has its place on the devices."""
  if not is_unstacked(x):
    return x
  one = x.layers[0]
  where = one.sharding
  if isinstance(where, NamedSharding):
    where = NamedSharding(where.mesh, P(*_with(axis, None, (*where.spec, *[None] * (one.ndim - len(where.spec))))))
  return jax.ShapeDtypeStruct(_with(axis, len(x), one.shape), one.dtype, sharding=where)


def _with(axis: int, new: Any, sides: tuple[Any, ...]) -> tuple[Any, ...]:
  return (*sides[:axis], new, *sides[axis:])


def _state_leaves(state: TrainState) -> dict[str, Any]:
  named = {name: x for name, x in tree.leaves(state).items() if name != 'key'}
  return {**named, 'key': np.asarray(jax.random.key_data(state.key))}
