"""The transformer of every family, and the pure functions by which the rest of the code knows it.

Flax ends here: outside this folder a model is the NamedTuple `Model`, and its variables are a plain tree
`{'params': …, 'delta': …}`. The decoder's parameters stand at the root (`embed`, `layers`, `norm`, `head`), an encoder's
under `encoder`.
"""

from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core.scope import LazyRng

from research.distributed import mesh
from research.models.block import Block, Context, relative_biases
from research.models.config import DTYPES, ModelConfig
from research.models.layers import PRODUCT, Dense, Embedding, Norm, softcap
from research.models.positions import Tokens
from research.models.products import contract
from research.unstacked import is_unstacked, map_stacks, unstack

Array = jax.Array


class Cache(NamedTuple):
  """Keys and values of what was read so far: S slots a row, `used` of them filled, the same for every row."""
  layers: tuple[Array, ...]   # keys and values [N, B, K, S, head_dim]; with an encoder also those of its S' tokens
  tokens: Tokens              # each [B, S]
  source: Tokens | None       # the encoder's, each [B, S']
  used: Array                 # []


def _remat_block(c: ModelConfig, is_scanned: bool) -> type[Block]:
  """A layer that keeps for the backward pass what `config.remat` says, and computes the rest again there.

  'products' keeps what kernels give and computes plain attention, norms and activations again: little work, most of the memory.
  """
  if c.remat == 'none':
    return Block
  keep = jax.checkpoint_policies.save_only_these_names(PRODUCT) if c.remat == 'products' else None
  return nn.remat(Block, policy=keep, prevent_cse=not is_scanned)


LAST_LAYERS = 'last_layers'      # the name of the stack of `ModelConfig.last_layers`


def stacks(layers: int, last: int) -> dict[str, slice]:
  """The stacks that a decoder's layers are kept in, and which of the layers each holds."""
  found = {'layers': slice(0, layers - last), LAST_LAYERS: slice(layers - last, layers)}
  return {name: of for name, of in found.items() if of.stop > of.start}


class Stack(nn.Module):
  """Layers of one shape, the table of relative biases that they share, and the norm after the last."""
  config: ModelConfig
  length: int
  crosses: bool = False
  last_layers: int = 0      # of the layers, the last ones, whose parameters stand in a stack of their own

  @nn.compact
  def __call__(self, x, context: Context, cache=None):
    c = self.config
    if c.relative_buckets and not c.bias_per_layer:
      assert context.buckets is not None
      context = context._replace(bias=relative_biases(nn.Embed(c.relative_buckets, c.heads, name='relative'), context.buckets))
    own, crossed = (cache[:2], cache[2:]) if cache else (None, ())
    carry, found = (x, own), []
    for name, of in stacks(self.length, self.last_layers).items():
      params: Any = self.get_variable('params', name)
      apart = any(map(is_unstacked, jax.tree.leaves(params, is_leaf=is_unstacked)))
      layers = self._unrolled if apart else self._scanned
      carry, read = layers(name, range(self.length)[of], carry, jax.tree.map(itemgetter(of), crossed), context)
      found.append(read)
    (x, own), crossed = carry, found[0] if len(found) == 1 else jax.tree.map(lambda *ys: jnp.concatenate(ys), *found)
    return Norm(c, name='norm')(x), None if own is None else (*own, *(crossed or ()))

  def _kinds(self, layers: range, context: Context) -> list[int] | None:
    """The kind of each layer; None where there is but one."""
    return [self.config.layer_pattern[n] for n in layers] if len(context.masks) > 1 else None

  def _scanned(self, name: str, layers: range, carry, crossed, context: Context):
    """One compiled layer, run over a stack's arrays [N, …]."""
    c, kinds = self.config, self._kinds(layers, context)
    scanned = nn.scan(
        _remat_block(c, is_scanned=True), variable_axes={'params': 0, 'delta': 0}, variable_broadcast='shared',
        split_rngs={'params': True, 'dropout': True}, in_axes=(0, nn.broadcast), length=len(layers))
    per_layer = jnp.arange(layers.start, layers.stop), None if kinds is None else jnp.asarray(kinds, jnp.int32), crossed
    return scanned(c, self.crosses, name=name)(carry, per_layer, context)

  def _unrolled(self, name: str, layers: range, carry, crossed, context: Context):
    """A layer for each of a stack whose parameters stand apart; its deltas are [N, …] here too. Two of them are traced."""
    block = _remat_block(self.config, is_scanned=False)(self.config, self.crosses, parent=None)
    kinds = self._kinds(layers, context)
    own: Any = {kind: self.get_variable(kind, name) for kind in ('params', 'delta') if self.has_variable(kind, name)}
    own = map_stacks(lambda x: x if is_unstacked(x) else unstack(x), own)
    shared: Any = {'shared': self.get_variable('shared', name)} if self.has_variable('shared', name) else {}
    dropout: Any = self.scope.rngs['dropout'] if self.scope is not None and self.has_rng('dropout') else None
    keys = [None] * len(layers) if dropout is None else jax.random.split(dropout.rng, len(layers))      # as in a scan

    # The first is traced apart: what it reads may depend on nothing that learns, and then its gradient is another program.
    @partial(jax.jit, static_argnames=('kind', 'is_first'))
    def run(own, shared, key, carry, number, crossed, context, kind, is_first):
      rngs: Any = None if key is None else {'dropout': LazyRng(key, (*dropout.suffix, name))}
      return block.apply({**own, **shared}, carry, (number, kind, crossed), context, rngs=rngs)

    found = []
    for at, number in enumerate(layers):
      of_layer = jax.tree.map(itemgetter(at), own, is_leaf=is_unstacked)
      carry, read = run(of_layer, shared, keys[at], carry, jnp.int32(number), jax.tree.map(itemgetter(at), crossed), context,
                        None if kinds is None else kinds[at], is_first=at == 0)
      found.append(read)
    return carry, jax.tree.map(lambda *ys: jnp.stack(ys), *found)


class Transformer(nn.Module):
  config: ModelConfig

  def setup(self):
    c = self.config
    init_std = 1.0 if c.init_std is None else c.init_std
    self.embed = Embedding(c.vocab, c.width, init_std, DTYPES[c.dtype], c.embed_scale)
    if c.learned_positions:
      self.positions = nn.Embed(c.learned_positions, c.width, embedding_init=nn.initializers.normal(init_std))
    if c.has_encoder:
      self.encoder = Stack(c, c.encoder_layers)
    self.decoder = Stack(c, c.layers, c.has_encoder, c.last_layers)
    nn.share_scope(self, self.decoder)
    if not c.tied:
      self.head = Dense(c.vocab, init_std=c.init_std)

  def embedded(self, tokens, positions):
    x = self.embed(tokens)
    if not self.config.learned_positions:
      return x
    return x + mesh.constrain_lookup(self.positions(positions).astype(x.dtype))

  def encode(self, tokens, positions, context: Context):
    """What the encoder makes of the prompt, [B, S', D].

    Args:
      tokens: [B, S'].
      positions: [B, S'].
      context: of the encoder's layers.
    """
    return self.encoder(self.embedded(tokens, positions), context)[0]

  def hidden(self, tokens, positions, context: Context, cache=None):
    """Final normed activations [B, L, D], and the cache with these tokens in it.

    Args:
      tokens: [B, L].
      positions: [B, L].
      context: of the decoder's layers.
      cache: keys and values as `Cache.layers` holds them; None: none are kept, and None comes back.
    """
    return self.decoder(self.embedded(tokens, positions), context, cache)

  def logits(self, hidden):
    """[..., D] -> [..., V] float32."""
    c = self.config
    if c.logit_scale != 1:
      hidden = hidden * jnp.asarray(c.logit_scale, hidden.dtype)
    if c.tied:
      lead = 'ab'[:hidden.ndim - 1]
      found = contract(f'{lead}d,vd->{lead}v', hidden, self.embed.embedding)
    else:
      found = self.head(hidden).astype(jnp.float32)
    return softcap(found, c.logit_cap)
