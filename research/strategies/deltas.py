"""Deltas: small pytrees that stand at the path of what they change.

A kernel delta takes a layer's input, its kernel and its bias and gives the layer's output; other kinds of sites take what
stands there (see `models.layers` and `models.sites.sites`). Where the algebra allows it `merge` folds a delta into the
parameters that it changes; where it does not, `unmergeable` says why. `key` is given while training only: without it there
is no dropout.

A delta declares each of its leaves once, in `axes`: which side of what stands there its last dimensions are (`IN` what it
reads, `OUT` what it gives, None neither). By them a leaf is sharded, but for those in `whole`, which lie whole on every device,
and a delta of several kernels is taken apart. Leading axes N are the layer stack's; inside the scan a delta is one layer's.
Leaves named in `shared` are the same in all layers and have no such axis. What is trainable is the strategy's to say, but for
leaves whose names begin with `fixed`, which never are; all that is frozen is saved beside what is trainable, except the
leaves in `derived`, which follow from the base and the settings.
"""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import struct

from research.distributed.partition import IN, OUT, Axes, declare
from research.models.kernels import dense
from research.models.products import affine, contract, dot

Array = jax.Array
RATE: dict[str, Axes] = {'fixed_rate': ()}


def leaves(**axes: Axes) -> Mapping[str, Axes]:
  """The leaves of a kind of delta, and the axes of each."""
  return MappingProxyType(axes)


def dropout(x: Array, rate: Array | None, key: Array | None) -> Array:
  """Zeroes a share of x and scales the rest by 1 / (1 - rate); x itself without a rate or a key.

  Args:
    x: of any shape, which the result has too.
    rate: [], the share that is zeroed, at least 0 and below 1.
    key: of shape []; None outside of training.
  """
  if key is None or rate is None:
    return x
  return jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0).astype(x.dtype)


class Delta:
  """What all deltas have; a reader of the rows can skip it."""
  axes: ClassVar[Mapping[str, Axes]] = MappingProxyType({})
  whole: ClassVar[tuple[str, ...]] = ()
  shared: ClassVar[tuple[str, ...]] = ()
  derived: ClassVar[tuple[str, ...]] = ()
  unmergeable: ClassVar[str] = ''
  __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]      # every delta is a `struct.dataclass`

  def __init_subclass__(cls) -> None:
    static = {name for name, value in vars(cls).items() if isinstance(value, dataclasses.Field)
              and not value.metadata.get('pytree_node', True)}
    if wrong := (cls.__annotations__.keys() - static) ^ cls.axes.keys():
      raise TypeError(f'{cls.__name__}: {min(wrong)} is a leaf without axes, or axes of no leaf')
    for leaf, axes in cls.axes.items():
      declare(leaf, () if leaf in cls.whole else axes)
    DERIVED.update(cls.derived)

  def per_layer(self):
    """This delta without what is the same in all layers: None stands for it."""
    return dataclasses.replace(self, **dict.fromkeys(self.shared))

  def shared_leaves(self):
    """This delta with None for what every layer has its own of."""
    return dataclasses.replace(self, **dict.fromkeys(self.axes.keys() - set(self.shared)))

  def reads(self) -> Array | None:
    """The matrix [I, R] that the input is multiplied with first; None where there is none.

    Kernels that read one input multiply it with those of all their deltas at one time, and give each its part as `inner`.
    """
    return None

  def split_outputs(self, widths: tuple[int, ...]) -> list[Any]:
    """The deltas of kernels that stand side by side, from that of all; `widths`: their outputs."""
    starts = [sum(widths[:i]) for i in range(len(widths))]
    outputs = [name for name, axes in self.axes.items() if axes[-1:] == (OUT,)]
    return [dataclasses.replace(self, **{name: getattr(self, name)[..., at:at + width] for name in outputs})
            for at, width in zip(starts, widths)]


DERIVED: set[str] = set()      # leaves of deltas that nobody needs to save


def _product(a: Array, b: Array) -> Array:
  return jnp.einsum('...ir,...ro->...io', a, b, precision='highest')


@struct.dataclass
class LowRank(Delta):
  """LoRA (Hu et al. 2021, arXiv 2106.09685): x W + s · drop(x) A B.

  s is alpha / R, or alpha / √R (rsLoRA, Kalajdzievski 2023, arXiv 2312.03732).
  """
  a: Array       # [N, I, R]
  b: Array       # [N, R, O]
  fixed_rate: Array | None      # [] of dropout, as in all that have it; None: there is none
  scale: float = struct.field(pytree_node=False)

  axes = leaves(a=(IN, None), b=(None, OUT), **RATE)
  shared = derived = ('fixed_rate',)

  def reads(self) -> Array:
    """A [I, R]."""
    return self.a

  def __call__(self, x: Array, kernel, bias: Array | None, key: Array | None = None, inner: Array | None = None) -> Array:
    if inner is None:
      inner = dot(dropout(x, self.fixed_rate, key), self.a)
    return affine(x, kernel, bias) + dot(inner * self.scale, self.b)

  def merge(self, kernel: Array, bias: Array | None):
    """W + s A B [..., I, O], in float32, and the bias as it is."""
    return kernel + self.scale * _product(self.a, self.b), bias


@struct.dataclass
class PiSSA(Delta):
  """PiSSA (Meng et al. 2024, arXiv 2404.02948): LoRA that begins at the kernel's R largest singular directions.

  The paper freezes W - s A₀ B₀; here W stays as it is, and what is added is s · drop(x) (A B - A₀ B₀), computed as
  (A - A₀) B + A₀ (B - B₀): a bfloat16 product then rounds what was learned, and not what W holds already.
  """
  a: Array             # [N, I, R]
  b: Array             # [N, R, O]
  fixed_a: Array       # where a and b began
  fixed_b: Array
  fixed_rate: Array | None
  scale: float = struct.field(pytree_node=False)

  axes = leaves(a=(IN, None), b=(None, OUT), fixed_a=(IN, None), fixed_b=(None, OUT), **RATE)
  shared = derived = ('fixed_rate',)

  def reads(self) -> Array:
    """A - A₀ and A₀ side by side, [I, 2 R]."""
    return jnp.concatenate([self.a - self.fixed_a, self.fixed_a], axis=-1)

  def __call__(self, x: Array, kernel, bias: Array | None, key: Array | None = None, inner: Array | None = None) -> Array:
    if inner is None:
      inner = dot(dropout(x, self.fixed_rate, key), self.reads())
    return affine(x, kernel, bias) + dot(inner * self.scale, jnp.concatenate([self.b, self.b - self.fixed_b], axis=-2))

  def merge(self, kernel: Array, bias: Array | None):
    """W + s (A B - A₀ B₀) [..., I, O], in float32, and the bias as it is."""
    return kernel + self.scale * (_product(self.a, self.b) - _product(self.fixed_a, self.fixed_b)), bias


@struct.dataclass
class Dora(Delta):
  """DoRA (Liu et al. 2024, arXiv 2402.09353): m / ‖W + s A B‖ · (x W + s · drop(x) A B), the norm over each output's weights.

  W + s A B is never formed: ‖W + s A B‖² = ‖W‖² + 2 s diag(Wᵀ A B) + s² diag(Bᵀ Aᵀ A B). The backward pass takes the norm for
  a constant (section 4.3 of the paper).
  """
  a: Array                 # [N, I, R]
  b: Array                 # [N, R, O]
  magnitude: Array         # m [N, O]
  fixed_square: Array      # ‖W‖² [N, O]
  fixed_rate: Array | None
  scale: float = struct.field(pytree_node=False)

  axes = leaves(a=(IN, None), b=(None, OUT), magnitude=(OUT,), fixed_square=(OUT,), **RATE)
  shared, derived = ('fixed_rate',), ('fixed_square', 'fixed_rate')

  def norm(self, kernel) -> Array:
    """‖W + s A B‖ of one layer's kernel, [O]."""
    a, b = jax.lax.stop_gradient((self.a, self.b))
    cross = jnp.sum(contract('ri,io->ro', a.T, kernel) * b, axis=0)
    own = jnp.sum(dot(a.T @ a, b) * b, axis=0)
    square = self.fixed_square + 2 * self.scale * cross + self.scale ** 2 * own
    return jnp.sqrt(jnp.maximum(square, jnp.finfo(jnp.float32).tiny))

  def reads(self) -> Array:
    """A [I, R]."""
    return self.a

  def __call__(self, x: Array, kernel, bias: Array | None, key: Array | None = None, inner: Array | None = None) -> Array:
    if inner is None:
      inner = dot(dropout(x, self.fixed_rate, key), self.a)
    changed = dot(x, kernel) + dot(inner * self.scale, self.b)
    y = (self.magnitude / self.norm(kernel) * changed).astype(x.dtype)
    return y if bias is None else y + bias.astype(y.dtype)

  def merge(self, kernel: Array, bias: Array | None):
    """m / ‖W + s A B‖ · (W + s A B) [..., I, O], in float32, and the bias as it is."""
    changed = kernel + self.scale * _product(self.a, self.b)
    return self.magnitude[..., None, :] * changed / jnp.linalg.norm(changed, axis=-2, keepdims=True), bias


@struct.dataclass
class Vera(Delta):
  """VeRA (Kopiczko et al. 2023, arXiv 2310.11454): x W + drop(x) A diag(d) B diag(o), with random A and B for all layers."""
  d: Array             # [N, R]
  o: Array             # [N, O]
  fixed_a: Array       # [I, R]
  fixed_b: Array       # [R, O]
  fixed_rate: Array | None

  axes = leaves(d=(None,), o=(OUT,), fixed_a=(IN, None), fixed_b=(None, OUT), **RATE)
  shared, derived = ('fixed_a', 'fixed_b', 'fixed_rate'), ('fixed_rate',)

  def reads(self) -> Array:
    """A [I, R]."""
    return self.fixed_a

  def __call__(self, x: Array, kernel, bias: Array | None, key: Array | None = None, inner: Array | None = None) -> Array:
    if inner is None:
      inner = dot(dropout(x, self.fixed_rate, key), self.fixed_a)
    return affine(x, kernel, bias) + dot(inner * self.d.astype(x.dtype), self.fixed_b) * self.o.astype(x.dtype)

  def merge(self, kernel: Array, bias: Array | None):
    """W + A diag(d) B diag(o) [..., I, O], in float32, and the bias as it is."""
    return kernel + _product(self.fixed_a * self.d[..., None, :], self.fixed_b * self.o[..., None, :]), bias


@struct.dataclass
class ScaleOut(Delta):
  """(IA)³ on a layer's outputs (Liu et al. 2022, arXiv 2205.05638): l · (x W + bias)."""
  l: Array       # [N, O]

  axes, whole = leaves(l=(OUT,)), ('l',)

  def __call__(self, x: Array, kernel, bias: Array | None, key: Array | None = None) -> Array:
    return affine(x, kernel, bias) * self.l.astype(x.dtype)

  def merge(self, kernel: Array, bias: Array | None):
    """W diag(l) [..., I, O], in float32, and l · bias [..., O] where there is a bias."""
    return kernel * self.l[..., None, :], None if bias is None else bias * self.l


@struct.dataclass
class ScaleIn(Delta):
  """(IA)³ on a layer's inputs, which are an MLP's activations: (l · x) W + bias."""
  l: Array       # [N, I]

  axes, whole = leaves(l=(IN,)), ('l',)

  def __call__(self, x: Array, kernel, bias: Array | None, key: Array | None = None) -> Array:
    return affine(x * self.l.astype(x.dtype), kernel, bias)

  def merge(self, kernel: Array, bias: Array | None):
    """diag(l) W [..., I, O], in float32, and the bias as it is."""
    return kernel * self.l[..., None], bias


@struct.dataclass
class Oft(Delta):
  """OFT (Qiu et al. 2023, arXiv 2306.07280) on a layer's inputs (arXiv 2506.19847): (x R) W + bias, R of orthogonal blocks.

  A block is Cayley's (I - Q)(I + Q)⁻¹ of a skew-symmetric Q, whose upper triangle is trainable. With `neumann` terms it is the
  sum I + 2 Q + 2 Q² + … + Qⁿ instead, which needs no inverse and approaches (I + Q)(I - Q)⁻¹, as PEFT has it.
  """
  skew: Array      # [N, I / block, block · (block - 1) / 2]
  block: int = struct.field(pytree_node=False)
  neumann: int = struct.field(pytree_node=False)      # terms, 2 or from 4 on; 0: exact

  axes = leaves(skew=(None, None))

  def rotations(self) -> Array:
    """The blocks of R [..., I / B, B, B], each B wide, in float32."""
    q = jnp.zeros((*self.skew.shape[:-1], self.block, self.block)).at[..., *jnp.triu_indices(self.block, 1)].set(self.skew)
    q, eye = q - q.mT, jnp.eye(self.block)
    if not self.neumann:
      return jnp.linalg.solve(eye + q, eye - q)
    total, power = jnp.broadcast_to(eye, q.shape), eye
    for term in range(1, self.neumann):
      power = jnp.matmul(power, q, precision='highest')
      total = total + (1 if 1 < term == self.neumann - 1 else 2) * power
    return total

  def __call__(self, x: Array, kernel, bias: Array | None, key: Array | None = None) -> Array:
    blocks = x.reshape(*x.shape[:-1], -1, self.block)
    turned = jnp.einsum('...rk,rkc->...rc', blocks, self.rotations().astype(x.dtype))
    return affine(turned.reshape(x.shape), kernel, bias)

  def merge(self, kernel: Array, bias: Array | None):
    """R W [..., I, O], in float32, and the bias as it is."""
    blocks = kernel.reshape(*kernel.shape[:-2], -1, self.block, kernel.shape[-1])
    return jnp.einsum('...rkc,...rco->...rko', self.rotations(), blocks, precision='highest').reshape(kernel.shape), bias


@struct.dataclass
class LowRankEmbedding(Delta):
  """LoRA on the embedding of the tokens: E[t] + s · A[t] B. A head that is tied to the embedding does not see it."""
  a: Array       # [V, R]
  b: Array       # [R, D]
  scale: float = struct.field(pytree_node=False)

  axes = leaves(a=(IN, None), b=(None, OUT))

  def __call__(self, tokens: Array, key: Array | None = None) -> Array:
    return dot(jnp.take(self.a, tokens, axis=0), self.b) * self.scale

  def merge(self, table: Array, bias: None):
    """E + s A B [V, D], in float32, and no bias."""
    return table + self.scale * _product(self.a, self.b), bias


@struct.dataclass
class Bottleneck(Delta):
  """An adapter: y + s · (act(z D + d) U + u), on a sublayer's result y.

  z is y itself (Houlsby et al. 2019, arXiv 1902.00751; Pfeiffer et al. 2020, arXiv 2005.00247) or, beside the sublayer, its
  input x (He et al. 2021, arXiv 2110.04366).
  """
  down: Array           # [N, D, W]
  down_bias: Array      # [N, W]
  up: Array             # [N, W, D]
  up_bias: Array        # [N, D]
  fixed_rate: Array | None
  scale: float = struct.field(pytree_node=False)
  parallel: bool = struct.field(pytree_node=False)
  activation: str = struct.field(pytree_node=False)

  axes = leaves(down=(IN, None), down_bias=(None,), up=(None, OUT), up_bias=(None,), **RATE)
  shared = derived = ('fixed_rate',)
  unmergeable = 'adapter cannot be merged: a nonlinearity stands between its matrices'

  def __call__(self, x: Array, y: Array, key: Array | None = None) -> Array:
    act = {'gelu': jax.nn.gelu, 'relu': jax.nn.relu}[self.activation]
    inner = act(affine(x if self.parallel else y, self.down, self.down_bias))
    return y + dropout(affine(inner, self.up, self.up_bias), self.fixed_rate, key) * self.scale


@struct.dataclass
class Prompt(Delta):
  """Prompt tuning (Lester et al. 2021, arXiv 2104.08691): vectors that stand before the prompt's tokens, in their place."""
  table: Array      # [P, D]

  axes = leaves(table=(None, None))
  unmergeable = 'prompt cannot be merged: its vectors are part of the input'

  def __call__(self, tokens: Array, x: Array) -> Array:
    return jnp.where((tokens < 0)[..., None], jnp.take(self.table, jnp.maximum(-1 - tokens, 0), axis=0).astype(x.dtype), x)


@struct.dataclass
class Prefix(Delta):
  """Prefix tuning (Li & Liang 2021, arXiv 2101.00190): keys and values that attention finds before every line."""
  keys: Array        # [N, P, K · head_dim]
  values: Array
  slots: int = struct.field(pytree_node=False)      # P

  axes = leaves(keys=(None, OUT), values=(IN, OUT))
  unmergeable = 'prefix cannot be merged: its keys and values are part of the input'

  def __call__(self) -> tuple[Array, Array]:
    return self.keys, self.values

  def projected(self) -> 'Prefix':
    """Itself: what a prefix that an MLP makes comes to."""
    return self


@struct.dataclass
class ProjectedPrefix(Delta):
  """A prefix that an MLP makes while it learns (section 4.3 of Li & Liang 2021): tanh(E H + h) Z + z, keys and then values."""
  table_in: Array            # E [P, W]
  hidden: Array              # H [W, W']
  hidden_bias: Array         # h [W']
  out: Array                 # Z [N, W', 2 · K · head_dim]
  out_bias: Array            # z [N, 2 · K · head_dim]
  slots: int = struct.field(pytree_node=False)

  axes = leaves(table_in=(None, None), hidden=(None, None), hidden_bias=(None,), out=(None, None), out_bias=(None,))
  shared = ('table_in', 'hidden', 'hidden_bias')
  unmergeable = Prefix.unmergeable

  def __call__(self) -> tuple[Array, Array]:
    inner = jnp.tanh(affine(self.table_in, self.hidden, self.hidden_bias))
    keys, values = jnp.split(affine(inner, self.out, self.out_bias), 2, axis=-1)
    return keys, values

  def projected(self) -> Prefix:
    """The prefix of all layers that the MLP has come to."""
    inner = jnp.tanh(affine(self.table_in, self.hidden, self.hidden_bias))
    both = jnp.einsum('pw,nwo->npo', inner, self.out, precision='highest') + self.out_bias[:, None]
    keys, values = jnp.split(both, 2, axis=-1)
    return Prefix(keys, values, self.slots)


@struct.dataclass
class AddedBias(Delta):
  """A bias where the model has none (BitFit, Ben Zaken et al. 2021, arXiv 2106.10199)."""
  value: Array      # [N, O]

  axes = leaves(value=(OUT,))
  unmergeable = 'bitfit cannot be merged: this model has no bias there'

  def astype(self, dtype) -> Array:
    """One layer's bias [O] of that type, as a parameter gives it."""
    return self.value.astype(dtype)


def column_squares(kernel) -> Array:
  """‖W‖² of every output of a kernel [N, I, O], in float32."""
  x: Any = dense(kernel, jnp.float32)
  return jnp.sum(x * x, axis=-2)
