"""The places of a model where a delta can stand."""

from typing import Any, NamedTuple

from research import tree
from research.models.block import FUSED, QKV
from research.models.config import ModelConfig
from research.models.quantized import is_quantized
from research.tree import Tree


class Site(NamedTuple):
  """A place where a delta can stand."""
  kind: str                        # kernel, bias, output (a sublayer's result), prefix, embedding, prompt
  stack: tuple[int, ...]           # leading axes: (N,) in a layer stack, () elsewhere
  inputs: int                      # I; the width for an output, K · head_dim for a prefix, V for an embedding
  outputs: int                     # O
  values: tuple[Any, ...] = ()     # the parameters that it changes: several where they are changed as one
  parts: tuple[str, ...] = ()      # their paths
  devices: int = 1                 # that share its sides (`ModelConfig.devices`)


def sites(config: ModelConfig, params: Tree) -> dict[str, Site]:
  """All sites of a model by path.

  Every kernel is one, at its parameter's path; so is a bias that a kernel does not have, every sublayer's result
  (`…/output`), the prefix of the decoder's attention (`…/attn/prefix`), the embedding and the soft prompt beside it
  (`embed/prompt`). Beside q, k and v stands `qkv`, where one delta changes the three as one kernel [D, outputs of q, k, v].
  """
  found: dict[str, Site] = {}
  named = tree.leaves(params, is_leaf=is_quantized)
  for path, x in named.items():
    if path.endswith('/kernel'):
      *stack, inputs, outputs = x.shape
      layer, stack = path.removesuffix('/kernel'), tuple(stack)
      sublayer, name = layer.rpartition('/')[::2]
      found[path] = Site('kernel', stack, inputs, outputs, (x,), (path,))
      if f'{layer}/bias' not in named:
        found[f'{layer}/bias'] = Site('bias', stack, inputs, outputs)
      if name in ('o', 'down'):
        found[f'{sublayer}/output'] = Site('output', stack, config.width, config.width)
      if name == 'q' and sublayer.endswith('attn'):
        parts = tuple(f'{sublayer}/{n}/kernel' for n in QKV)
        kernels = tuple(named[part] for part in parts)
        found[f'{sublayer}/{FUSED}'] = Site('kernel', stack, inputs, sum(k.shape[-1] for k in kernels), kernels, parts)
        if not sublayer.startswith('encoder'):
          width = config.kv_heads * config.head_dim
          found[f'{sublayer}/prefix'] = Site('prefix', stack, width, width)
  table = named['embed/embedding']
  vocab, width = table.shape
  found['embed/embedding'] = Site('embedding', (), vocab, width, (table,), ('embed/embedding',))
  found['embed/prompt'] = Site('prompt', (), vocab, width, (table,))
  return {path: site._replace(devices=config.devices) for path, site in found.items()}
