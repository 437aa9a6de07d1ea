"""What a step lowers: a loss as a value that is given to the step, and equal to another one that computes the same."""

import dataclasses
from typing import ClassVar, Protocol

import jax
import jax.numpy as jnp

from research.data.batch import Batch
from research.models.functions import Model
from research.training import losses
from research.tree import Tree

Array = jax.Array


class Objective(Protocol):
  """A loss over batches. It is hashable: a compiled step knows it by its value."""
  sums: ClassVar[tuple[str, ...]]      # what a batch comes to, `loss` and `tokens` (targets) among them
  count: ClassVar[str]                 # the sum by which the others are divided
  of_pairs: ClassVar[bool]             # whether it compares two answers to a prompt, under the model and the one of step 0

  def __call__(self, model: Model, variables: Tree, batch: Batch, key: Array | None = None) -> tuple[Array, dict[str, Array]]:
    """The summed loss of a batch.

    Args:
      model: whose loss is meant.
      variables: the model's, trainable and frozen ones together.
      batch: every array [B, …].
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
  of_pairs: ClassVar[bool] = False

  def __call__(self, model: Model, variables: Tree, batch: Batch, key: Array | None = None) -> tuple[Array, dict[str, Array]]:
    return losses.cross_entropy(model, variables, batch, key, self.label_smoothing)


CROSS_ENTROPY = CrossEntropy()
REFERENCE = 'reference'      # the collection of variables that holds what is trainable as it was at step 0, frozen


@dataclasses.dataclass(frozen=True)
class PreferenceLoss:
  """Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290).

  The negative log of σ(β (m - r)), where m is by how much the log-likelihood of the chosen answer is above that of the
  rejected one, and r is the same under the reference: the model at step 0, which shares with this one all that is frozen.
  """
  beta: float = 0.1

  sums: ClassVar[tuple[str, ...]] = ('loss', 'tokens', 'pairs', 'accuracy', 'margin')
  count: ClassVar[str] = 'pairs'
  of_pairs: ClassVar[bool] = True

  def __call__(self, model: Model, variables: Tree, batch: Batch, key: Array | None = None) -> tuple[Array, dict[str, Array]]:
    ours = {name: x for name, x in variables.items() if name != REFERENCE}
    at_start = jax.tree.map(lambda then, now: now if then is None else then, variables[REFERENCE], ours,
                            is_leaf=lambda then: then is None)
    margin, pairs = _margins(model, ours, batch, key)
    gained = self.beta * (margin - _margins(model, at_start, batch)[0])
    total = -jnp.sum(jax.nn.log_sigmoid(gained) * pairs)
    return total, {'loss': total, 'tokens': jnp.sum(batch.weights), 'pairs': jnp.sum(pairs),
                   'accuracy': jnp.sum((gained > 0) * pairs), 'margin': jnp.sum(gained * pairs)}


def _margins(model: Model, variables: Tree, batch: Batch, key: Array | None = None) -> tuple[Array, Array]:
  """Of each pair the log-likelihood of the chosen answer less that of the rejected one, and 1 where there is a pair.

  The first target of an answer is predicted from its prompt, on branch 0; the targets after it are of the same answer.

  Args:
    model: whose likelihoods are meant.
    variables: the model's.
    batch: of documents with two answers each, the chosen one first (see `data.batches.prompt_with_choices`).
    key: for dropout.
  Returns:
    Two arrays [B, T // 2 + 1].
  """
  begins = (jnp.take_along_axis(batch.branches, batch.index, axis=1) == 0) & (batch.weights > 0)      # [B, T]
  answer = jnp.cumsum(begins, axis=1) - 1                                                             # of each target
  most = 2 * (batch.targets.shape[1] // 2 + 1)
  total = jax.vmap(lambda x, of: jax.ops.segment_sum(x, of, most))
  likelihood = total(-losses.target_losses(model, variables, batch, key) * batch.weights, answer)     # [B, answers]
  pairs = total(begins.astype(jnp.float32), answer)[:, ::2]
  return likelihood[:, ::2] - likelihood[:, 1::2], pairs
