"""Deltas: small pytrees that stand at the path of what they change.

A kernel delta takes the layer's input and its kernel and gives the layer's output; an output delta takes a sublayer's
result. At step 0 every one of them changes nothing. `key` is given while training only: without it there is no dropout.
Leading axes N are the layer stack's; inside the scan a delta is one layer's. What makes deltas has a `kind`: that of the
sites where they can stand.
"""

import math

import jax
import jax.numpy as jnp
from flax import struct

from research.errors import InputError
from research.models.products import dot

Array = jax.Array


def dropout(x: Array, rate: float, key: Array | None) -> Array:
  """Zeroes a share `rate` of x and scales the rest by 1 / (1 - rate); x itself where there is no key."""
  if key is None or rate == 0:
    return x
  return jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0).astype(x.dtype)


@struct.dataclass
class LowRank:
  """LoRA (Hu et al. 2021, arXiv 2106.09685): x W + s · drop(x) A B, with PEFT's scale s = alpha / rank."""
  a: Array       # [N, I, R]
  b: Array       # [N, R, O]
  scale: float = struct.field(pytree_node=False)
  rate: float = struct.field(pytree_node=False)

  def __call__(self, x: Array, kernel: Array, key: Array | None = None) -> Array:
    return dot(x, kernel) + dot(dot(dropout(x, self.rate, key), self.a), self.b) * self.scale

  def merge(self, kernel: Array) -> Array:
    """W + s A B, computed in float32."""
    product = jnp.einsum('...ir,...ro->...io', self.a, self.b, precision='highest')
    return (kernel.astype(jnp.float32) + self.scale * product).astype(kernel.dtype)


def low_rank(rank: int, alpha: float, rate: float):
  """Makes LoRA deltas as PEFT does by default: A ~ U(-1/√I, 1/√I), B = 0."""
  def make(key, site) -> LowRank:
    if rank > min(site.inputs, site.outputs):
      raise InputError(f'strategy.rank={rank}: above the smaller side of a {site.inputs} x {site.outputs} kernel')
    bound = 1 / math.sqrt(site.inputs)
    a = jax.random.uniform(key, (*site.stack, site.inputs, rank), jnp.float32, -bound, bound)
    return LowRank(a, jnp.zeros((*site.stack, rank, site.outputs)), alpha / rank, rate)
  make.kind = 'kernel'
  return make


@struct.dataclass
class Bottleneck:
  """An adapter (Houlsby et al. 2019, arXiv 1902.00751): y + gelu(y D + d) U + u, on a sublayer's result y."""
  down: Array           # [N, D, W]
  down_bias: Array      # [N, W]
  up: Array             # [N, W, D]
  up_bias: Array        # [N, D]
  rate: float = struct.field(pytree_node=False)

  def __call__(self, y: Array, key: Array | None = None) -> Array:
    inner = jax.nn.gelu(dot(y, self.down) + self.down_bias.astype(y.dtype))
    return y + dropout(dot(inner, self.up) + self.up_bias.astype(y.dtype), self.rate, key)


def bottleneck(width: int, rate: float):
  """Makes adapters whose U and biases are 0 and D ~ U(-1/√I, 1/√I): the identity, exactly (the paper's is nearly so)."""
  def make(key, site) -> Bottleneck:
    bound = 1 / math.sqrt(site.inputs)
    down = jax.random.uniform(key, (*site.stack, site.inputs, width), jnp.float32, -bound, bound)
    return Bottleneck(down, jnp.zeros((*site.stack, width)), jnp.zeros((*site.stack, width, site.outputs)),
                      jnp.zeros((*site.stack, site.outputs)), rate)
  make.kind = 'output'
  return make
