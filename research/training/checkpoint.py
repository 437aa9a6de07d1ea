"""Checkpoints of what learns, by Orbax, saved while training goes on.

`checkpoints/latest` holds all that a run goes on from; `checkpoints/best` what it learned up to its best validation.
What does not learn is in neither: a record beside the arrays names the base by its fingerprint, with every array's shape,
and is compared before anything is restored.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from research import sharding, tree
from research.errors import InputError
from research.training.steps import TrainState
from research.tree import Tree


def _describe(named: dict[str, Any]) -> dict[str, list]:
  return {name: [list(x.shape), str(x.dtype)] for name, x in named.items()}


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
      self._managers[kind] = ocp.CheckpointManager(
          (self._folder / kind).absolute(),
          options=ocp.CheckpointManagerOptions(max_to_keep=1, cleanup_tmp_directories=True))
    return self._managers[kind]

  def step(self, kind: str) -> int | None:
    """The step of the whole checkpoint of this kind, if there is one."""
    there = kind in self._managers or (self._folder / kind).is_dir()
    return self._manager(kind).latest_step() if there else None

  def save_best(self, step: int, trainable: Tree) -> None:
    self._save('best', step, tree.leaves(trainable))

  def save_latest(self, state: TrainState, members: Sequence['Checkpoints'] = ()) -> None:
    """Saves what to go on from, after the best so far is whole: a run that goes on from here does not reach it again.

    Args:
      state: of the run, or of all members of a cohort with a leading axis.
      members: of a cohort, whose best ones are meant too.
    """
    for one in (self, *members):
      if 'best' in one._managers:
        one._managers['best'].wait_until_finished()
    self._save('latest', int(np.max(state.step)), _state_leaves(state))

  def _save(self, kind: str, step: int, named: dict[str, Any]) -> None:
    manager = self._manager(kind)
    for reached in manager.all_steps():    # by a run that was then killed and went on from before this step
      if reached >= step:                  # Orbax would skip the save in silence
        manager.wait_until_finished()
        manager.delete(reached)
    manager.save(step, args=ocp.args.Composite(
        arrays=ocp.args.StandardSave(tree.nested(named)),
        record=ocp.args.JsonSave({'base': self._base, 'arrays': _describe(named)})))

  def restore_latest(self, state: TrainState) -> TrainState | None:
    """The latest state, or None where nothing was saved; `state` gives the shapes."""
    if self.step('latest') is None:
      return None
    named = self._restore('latest', _state_leaves(state))
    named['key'] = jax.device_put(jax.random.wrap_key_data(jnp.asarray(named['key'])), state.key.sharding)
    return tree.replace(state, named)

  def restore_best(self, trainable: Tree) -> Tree:
    """What the run had learned at its best step; `trainable` gives the shapes."""
    return tree.replace(trainable, self._restore('best', tree.leaves(trainable)))

  def _restore(self, kind: str, like: dict[str, Any]) -> dict[str, Any]:
    step = self.step(kind)
    if step is None:
      raise InputError(f'{self._folder}: holds no {kind} checkpoint; train the run first')
    manager = self._manager(kind)
    record = manager.restore(step, args=ocp.args.Composite(record=ocp.args.JsonRestore()))['record']
    where = self._folder / kind / str(step)
    if self._base not in (None, record['base']):
      raise InputError(f'{where}: was trained on another base model ({record["base"]}, not {self._base})')
    check_shapes(record['arrays'], _describe(like), str(where))
    here = sharding.replicated()
    abstract = {n: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=getattr(x, 'sharding', here)) for n, x in like.items()}
    restored = manager.restore(step, args=ocp.args.Composite(arrays=ocp.args.StandardRestore(tree.nested(abstract))))
    return tree.leaves(restored['arrays'])

  def wait(self) -> None:
    """Until everything saved is whole on disk."""
    for manager in self._managers.values():
      manager.wait_until_finished()

  def close(self) -> None:
    for manager in self._managers.values():
      manager.close()
    self._managers = {}


def check_shapes(saved: dict[str, list], wanted: dict[str, list], where: str) -> None:
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


def _state_leaves(state: TrainState) -> dict[str, Any]:
  named = {name: x for name, x in tree.leaves(state).items() if name != 'key'}
  return {**named, 'key': np.asarray(jax.random.key_data(state.key))}
