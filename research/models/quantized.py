"""Frozen kernels in 8 or 4 bits, written out again inside the product that reads them, a layer at a time.

Leading axes N are the layer stack's. Nothing quantised learns.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from research.models.kernels import Kernel

Array = jax.Array

# The 16 values of NormalFloat4 (Dettmers et al. 2023, arXiv 2305.14314, appendix E): quantiles of N(0, 1), scaled to [-1, 1].
NORMAL_FLOAT_4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0)
BLOCK, OUTER = 64, 256       # nf4: weights that share a scale; scales that share a scale
GROUP = 64                   # int8: weights that share a scale


class Quantized(Kernel):
  """What is kept in few bits; `label` is the kind's name."""
  label: str


@struct.dataclass
class Int8(Quantized):
  """One scale for every 64 inputs of each output: the largest of their weights is 127."""
  values: Array      # int8 [N, I, O]
  scale: Array       # bfloat16 [N, I / 64, O]

  label = 'int8'

  @property
  def shape(self) -> tuple[int, ...]:
    return self.values.shape

  def dense(self, dtype) -> Array:
    """The kernel [..., I, O] in this dtype."""
    scale = jnp.repeat(self.scale.astype(jnp.float32), GROUP, axis=-2)[..., :self.shape[-2], :]
    return (self.values.astype(jnp.float32) * scale).astype(dtype)


@struct.dataclass
class NF4(Quantized):
  """NormalFloat4 with double quantisation (QLoRA, Dettmers et al. 2023), in bitsandbytes' order.

  A layer's kernel is read as [O, I], row by row, in blocks of 64 weights: of each the largest is kept as a scale, and every
  weight as the nearest of 16 values. The scales, less their mean, are kept in 8 bits in blocks of 256.
  """
  codes: Array       # uint8 [N, weights / 2], the earlier weight in the upper four bits
  scales: Array      # uint8 [N, weights / 64]
  outer: Array       # float32 [N, weights / 64 / 256]
  mean: Array        # float32 [N]
  inputs: int = struct.field(pytree_node=False)
  outputs: int = struct.field(pytree_node=False)

  label = 'nf4'

  @property
  def shape(self) -> tuple[int, ...]:
    return (*self.mean.shape, self.inputs, self.outputs)

  def dense(self, dtype) -> Array:
    """The kernel [..., I, O] in this dtype."""
    lead, blocks = self.mean.shape, self.scales.shape[-1]
    scale = jnp.take(jnp.asarray(dynamic_map()), self.scales.astype(jnp.int32))
    scale = scale * jnp.repeat(self.outer, OUTER, axis=-1)[..., :blocks] + self.mean[..., None]
    halves = jnp.stack([self.codes >> 4, self.codes & 15], axis=-1).astype(jnp.int32)
    weights = jnp.take(jnp.asarray(NORMAL_FLOAT_4, jnp.float32), halves).reshape(*lead, blocks, BLOCK)
    weights = (weights * scale[..., None]).astype(dtype).reshape(*lead, -1)[..., :self.inputs * self.outputs]
    return weights.reshape(*lead, self.outputs, self.inputs).swapaxes(-1, -2)


@lru_cache(maxsize=1)
def dynamic_map() -> np.ndarray:
  """The 256 values of the signed dynamic 8-bit type (Dettmers 2016, arXiv 1511.04561), ascending.

  Seven decades: a number of decade e has 2^e steps between 0.1 and 1 of it, each represented by its middle. The array is
  float32, of shape [256].
  """
  decades = []
  for e in range(7):
    ends = np.linspace(0.1, 1, 2 ** e + 1)
    decades.append(10.0 ** (e - 6) * (ends[:-1] + ends[1:]) / 2)
  positive = np.concatenate(decades)
  return np.sort(np.concatenate([-positive, [0.0], positive, [1.0]])).astype(np.float32)


def _nearest(x: np.ndarray, values: np.ndarray) -> np.ndarray:
  return np.searchsorted((values[:-1] + values[1:]) / 2, x).astype(np.uint8)


def _blocks(x: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
  """x [n] in rows of `size`, the last one filled up with 0, and the largest magnitude of each row."""
  rows = np.pad(x, (0, -x.size % size)).reshape(-1, size)
  return rows, np.abs(rows).max(axis=1)


def _nf4_layer(kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.floating]:
  rows, largest = _blocks(np.ascontiguousarray(kernel.T).reshape(-1), BLOCK)
  codes = _nearest(rows / np.where(largest == 0, 1, largest)[:, None], np.asarray(NORMAL_FLOAT_4, np.float32)).reshape(-1, 2)
  mean = largest.mean(dtype=np.float32)
  groups, outer = _blocks(largest - mean, OUTER)
  scales = _nearest(groups / np.where(outer == 0, 1, outer)[:, None], dynamic_map()).reshape(-1)[:largest.size]
  return codes[:, 0] << 4 | codes[:, 1], scales, outer, mean


def int8(kernel: Array) -> Int8:
  """A kernel [N, I, O] rounded to 8 bits."""
  x = np.asarray(kernel, np.float32)
  largest = np.stack([np.abs(x[..., at:at + GROUP, :]).max(axis=-2) for at in range(0, x.shape[-2], GROUP)], axis=-2)
  scale = (largest / 127).astype(jnp.bfloat16)         # rounded first, so that the values are the nearest to what is kept
  each = np.repeat(np.where(scale == 0, 1, scale).astype(np.float32), GROUP, axis=-2)[..., :x.shape[-2], :]
  return Int8(jnp.asarray(np.clip(np.rint(x / each), -127, 127).astype(np.int8)), jnp.asarray(scale))


def nf4(kernel: Array) -> NF4:
  """A kernel [N, I, O] rounded to NormalFloat4."""
  *lead, inputs, outputs = kernel.shape
  layers = [_nf4_layer(np.asarray(x, np.float32)) for x in kernel.reshape(-1, inputs, outputs)]
  codes, scales, outer, mean = (
      jnp.asarray(np.stack(part).reshape((*lead, *np.shape(part[0])))) for part in zip(*layers))
  return NF4(codes, scales, outer, mean, inputs, outputs)


def abstract(kind: str, shape: tuple[int, ...]) -> Quantized:
  """What `KINDS[kind]` makes of a kernel [N, I, O], as shapes alone."""
  *lead, inputs, outputs = shape

  def of(dtype, *rest: int) -> Any:      # it stands where an array would
    return jax.ShapeDtypeStruct((*lead, *rest), dtype)

  if kind == 'int8':
    return Int8(of(jnp.int8, inputs, outputs), of(jnp.bfloat16, -(-inputs // GROUP), outputs))
  blocks = -(-inputs * outputs // BLOCK)
  return NF4(of(jnp.uint8, blocks * BLOCK // 2), of(jnp.uint8, blocks), of(jnp.float32, -(-blocks // OUTER)), of(jnp.float32),
             inputs, outputs)


KINDS: dict[str, Callable[[Array], Quantized] | None] = {'none': None, 'int8': int8, 'nf4': nf4}


def is_quantized(x) -> bool:
  return isinstance(x, Quantized)
