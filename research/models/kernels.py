"""Kernels that are kept otherwise than as an array [..., I, O].

Each is a small pytree that stands where the array would; `products.contract` and the deltas take either. Leading axes N are the
layer stack's.
"""

from typing import Any

import jax
import numpy as np
from flax import struct

from research.unstacked import stacked

Array = jax.Array


class Kernel:
  """What all kinds have in common: they pass for an array of the kernel's own shape where sizes are asked."""

  @property
  def shape(self) -> tuple[int, ...]:
    raise NotImplementedError

  def dense(self, dtype) -> Array:
    """The kernel [..., I, O] in this dtype; inside the scan there are no leading axes."""
    raise NotImplementedError

  @property
  def size(self) -> int:
    return int(np.prod(self.shape))

  @property
  def ndim(self) -> int:
    return len(self.shape)


@struct.dataclass
class Transposed(Kernel):
  """With the inputs of each output side by side, as processors read it fastest where it multiplies few rows."""
  values: Array      # [N, O, I]

  @property
  def shape(self) -> tuple[int, ...]:
    *lead, outputs, inputs = self.values.shape
    return (*lead, inputs, outputs)

  @property
  def dtype(self) -> Any:
    return self.values.dtype

  def dense(self, dtype) -> Array:
    """The kernel [..., I, O] in this dtype."""
    return self.values.swapaxes(-1, -2).astype(dtype)


def transposed(kernel: Any) -> Transposed:
  """A kernel [N, I, O], or its layers that stand apart, kept transposed."""
  return Transposed(jax.tree.map(lambda x: x.swapaxes(-1, -2), kernel))


def is_kernel(x: Any) -> bool:
  """Whether a kernel is kept in one of these ways."""
  return isinstance(x, Kernel)


def dense(kernel: Any, dtype) -> Array:
  """A kernel as an array of its own shape, whichever way it is kept."""
  kernel = stacked(kernel)
  return kernel.dense(dtype) if is_kernel(kernel) else kernel.astype(dtype)
