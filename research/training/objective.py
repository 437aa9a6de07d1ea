"""What a step lowers: a loss as a value that is given to the step, and equal to another one that computes the same."""

import dataclasses
from typing import ClassVar, Protocol

import jax

from research.models.functions import Model
from research.models.transformer import Batch
from research.training import losses
from research.tree import Tree

Array = jax.Array


class Objective(Protocol):
  """A loss over batches. It is hashable: a compiled step knows it by its value."""
  sums: ClassVar[tuple[str, ...]]      # what a batch comes to, `loss` and `tokens` (targets) among them
  count: ClassVar[str]                 # the sum by which the others are divided

  def __call__(self, model: Model, variables: Tree, batch: Batch, key: Array | None = None) -> tuple[Array, dict[str, Array]]:
    """The summed loss of a batch.

    Args:
      model: whose loss is meant.
      variables: the model's, trainable and frozen ones together.
      batch: every array [B, …] (see `data.batches`).
      key: for dropout, of shape []; None switches it off.
    Returns:
      The loss [], and each of `sums` [].
    """


@dataclasses.dataclass(frozen=True)
class CrossEntropy:
  """The negative log-likelihood of the targets, in nats."""
  label_smoothing: float = 0.0      # as for `losses.target_losses`

  sums: ClassVar[tuple[str, ...]] = ('loss', 'tokens')
  count: ClassVar[str] = 'tokens'

  def __call__(self, model: Model, variables: Tree, batch: Batch, key: Array | None = None) -> tuple[Array, dict[str, Array]]:
    return losses.cross_entropy(model, variables, batch, key, self.label_smoothing)


CROSS_ENTROPY = CrossEntropy()
