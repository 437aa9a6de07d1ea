"""T5 (Raffel et al. 2020, arXiv 1910.10683), T5 1.1 and Flan-T5, mT5 (arXiv 2010.11934), ByT5 (arXiv 2105.13626), UMT5
(Chung et al. 2023, arXiv 2304.09151): an encoder and a decoder with relative position biases.

They differ in the MLP (ReLU, or gated gelu), in the head (the embedding, scaled; or its own), and UMT5 in having biases
in every layer. Attention scores are not scaled.
"""

from functools import partial
from typing import Any

from research.errors import InputError
from research.models.config import ModelConfig
from research.models.fields import Fields
from research.models.header import Header
from research.models.names import Family, Row

_FORWARD = {'relu': ('relu', False), 'gated-gelu': ('gelu_tanh', True), 'gated-silu': ('silu', True),
            'gelu': ('gelu', False), 'gated-relu': ('relu', True)}


def config(f: Fields, family: str) -> ModelConfig:
  activation, gated = f.one_of('feed_forward_proj', _FORWARD, 'relu' if family == 't5' else 'gated-gelu')
  # That the embeddings are tied says whether the head's input is scaled; a head of their own has every file that holds one.
  said = f.flag('tie_word_embeddings', True)
  scaled = family != 'mt5' and f.flag('scale_decoder_outputs', said)
  layers, heads, width = f.size('num_layers'), f.size('num_heads'), f.size('d_model')
  for derived in ('dense_act_fn', 'is_gated_act'):
    f.take(derived)
  buckets = f.size('relative_attention_num_buckets', 32)
  if buckets < 4:
    raise InputError(f'{f.where}: relative_attention_num_buckets={buckets}: must be 4 or more')
  furthest, vocab = f.size('relative_attention_max_distance', 128), f.size('vocab_size')
  if furthest <= buckets // 2:
    raise InputError(f'{f.where}: relative_attention_max_distance={furthest}: must be above half of the '
                     f'{buckets} buckets, which are of one distance each')
  start = f.count('decoder_start_token_id', f.count('pad_token_id', 0))
  if start >= vocab:
    raise InputError(f'{f.where}: decoder_start_token_id={start}: must be below vocab_size={vocab}')
  return ModelConfig(
      family=family, vocab=vocab, width=width, hidden=f.size('d_ff'),
      layers=f.size('num_decoder_layers', layers), heads=heads, kv_heads=heads, head_dim=f.size('d_kv', 64),
      context=f.size('n_positions', 512), tied=not f.separate_head,
      norm_eps=f.number('layer_norm_epsilon', 1e-6), activation=activation, gated=gated, query_scale=1.0,
      logit_scale=width ** -0.5 if scaled else 1.0, encoder_layers=layers,
      decoder_start_id=start, relative_buckets=buckets, max_distance=furthest,
      bias_per_layer=family == 'umt5', init_std=None)


def rows(c: ModelConfig) -> tuple[Row, ...]:
  found = [Row('embed/embedding', 'shared.weight')]
  for stack, root, sublayers in (('encoder', 'encoder/', ('attn', 'mlp')), ('decoder', '', ('attn', 'cross', 'mlp'))):
    for number, sublayer in enumerate(sublayers):
      theirs = f'{stack}.block.{{n}}.layer.{number}.'
      if sublayer == 'mlp':
        names = {'gate': 'wi_0', 'up': 'wi_1', 'down': 'wo'} if c.gated else {'up': 'wi', 'down': 'wo'}
        inner = 'DenseReluDense'
      else:
        names, inner = dict(zip('qkvo', 'qkvo')), {'attn': 'SelfAttention', 'cross': 'EncDecAttention'}[sublayer]
      found += [Row(f'{root}layers/{sublayer}/{ours}/kernel', f'{theirs}{inner}.{name}.weight', transposed=True)
                for ours, name in names.items()]
      found.append(Row(f'{root}layers/norm_{sublayer}/scale', f'{theirs}layer_norm.weight'))
    bias = 'layer.0.SelfAttention.relative_attention_bias.weight'
    found.append(Row(f'{root}layers/attn/relative/embedding', f'{stack}.block.{{n}}.{bias}') if c.bias_per_layer else
                 Row(f'{root}relative/embedding', f'{stack}.block.0.{bias}'))
    found.append(Row(f'{root}norm/scale', f'{stack}.final_layer_norm.weight'))
  return (*found, *(() if c.tied else (Row('head/kernel', 'lm_head.weight', transposed=True),)))


def gguf(h: Header) -> dict[str, Any]:
  """T5 1.0 is told by its lack of gates, UMT5 by biases beyond the first layer; mT5 computes what T5 1.1 does.

  Of gated MLPs all are read as gelu, which is also what llama.cpp computes; a file does not tell UL2's silu.

  Raises:
    InputError: a model without gates and with a head of its own, or a number of buckets that no T5 can have.
  """
  gated = 'dec.blk.0.ffn_gate.weight' in h.tensors
  if not gated and h.separate_head:
    raise InputError(f'{h.where}: a T5 without gates has the embedding for its head, and scales what that reads; whether the '
                     'other head of this file, output.weight, wants that too it does not say')
  layers, heads = h.layers(), h.size('attention.head_count')
  h.only('attention.head_count_kv', heads)
  epsilon = h.number('attention.layer_norm_rms_epsilon')
  h.only('attention.layer_norm_epsilon', h.take('attention.layer_norm_rms_epsilon'))
  buckets, furthest = h.size('attention.relative_buckets_count'), 128      # which no file says otherwise
  if not 4 <= buckets < 4 * furthest:
    raise InputError(f'{h.where}: t5.attention.relative_buckets_count={buckets}: must be from 4 to {4 * furthest - 1}')
  ids = h.special_ids()
  start = h.take('decoder_start_token_id', ids.get('pad_token_id', 0))
  width = h.size('embedding_length')
  return {
      'model_type': 'umt5' if 'dec.blk.1.attn_rel_b.weight' in h.tensors else 't5', 'is_encoder_decoder': True,
      'vocab_size': h.vocab(), 'd_model': width, 'd_kv': h.head_dim(width // heads), 'd_ff': h.size('feed_forward_length'),
      'num_layers': layers, 'num_decoder_layers': h.layers('decoder_block_count', layers), 'num_heads': heads,
      'feed_forward_proj': 'gated-gelu' if gated else 'relu', 'n_positions': h.length('context_length'),
      'relative_attention_num_buckets': buckets, 'relative_attention_max_distance': furthest, 'layer_norm_epsilon': epsilon,
      **ids, 'decoder_start_token_id': start}


def to_gguf(c: ModelConfig, hf: dict[str, Any]) -> dict[str, Any]:
  return {'vocab_size': c.vocab, 'context_length': c.context, 'embedding_length': c.width, 'feed_forward_length': c.hidden,
          'block_count': c.encoder_layers, 'decoder_block_count': c.layers, 'attention.head_count': c.heads,
          'attention.key_length': c.head_dim, 'attention.value_length': c.head_dim,
          'attention.layer_norm_epsilon': float(c.norm_eps), 'attention.layer_norm_rms_epsilon': float(c.norm_eps),
          'attention.relative_buckets_count': c.relative_buckets, 'decoder_start_token_id': c.decoder_start_id}


DUPLICATES = {f'{stack}.embed_tokens.weight': 'shared.weight' for stack in ('encoder', 'decoder')}
# A cross-attention bias that early T5 files carry and no T5 reads.
IGNORED = (r'^decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight$',)


T5, MT5, UMT5 = (
    Family(name, partial(config, family=name), rows, f'{name.upper()}ForConditionalGeneration', embedding='shared.weight',
           duplicates=DUPLICATES, ignored=IGNORED, gguf=gguf if name == 't5' else None, to_gguf=to_gguf,
           gguf_name='t5')
    for name in ('t5', 'mt5', 'umt5'))
