"""T5 (Raffel et al. 2020, arXiv 1910.10683), T5 1.1 and Flan-T5, mT5 (arXiv 2010.11934), ByT5 (arXiv 2105.13626), UMT5
(Chung et al. 2023, arXiv 2304.09151): an encoder and a decoder with relative position biases.

They differ in the MLP (ReLU, or gated gelu), in the head (the embedding, scaled; or its own), and UMT5 in having biases
in every layer. Attention scores are not scaled.
"""

from functools import partial

from research.models.config import ModelConfig
from research.models.fields import Fields
from research.models.names import Family, Row

_FORWARD = {'relu': ('relu', False), 'gated-gelu': ('gelu_tanh', True), 'gated-silu': ('silu', True),
            'gelu': ('gelu', False), 'gated-relu': ('relu', True)}


def config(f: Fields, family: str) -> ModelConfig:
  activation, gated = f.one_of('feed_forward_proj', _FORWARD, 'relu' if family == 't5' else 'gated-gelu')
  # Only T5's own files mean what they say here: mT5 and UMT5 write either and have a head of their own where one is there.
  said = f.take('tie_word_embeddings', True)
  scaled = {'t5': f.take('scale_decoder_outputs', said), 'mt5': False, 'umt5': True}[family]
  layers, heads, width = f.size('num_layers'), f.size('num_heads'), f.size('d_model')
  for derived in ('dense_act_fn', 'is_gated_act'):
    f.take(derived)
  return ModelConfig(
      family=family, vocab=f.size('vocab_size'), width=width, hidden=f.size('d_ff'),
      layers=f.size('num_decoder_layers', layers), heads=heads, kv_heads=heads, head_dim=f.size('d_kv', 64),
      context=f.size('n_positions', 512), tied=not f.separate_head,
      norm_eps=f.number('layer_norm_epsilon', 1e-6), activation=activation, gated=gated, query_scale=1.0,
      logit_scale=width ** -0.5 if scaled else 1.0, encoder_layers=layers,
      start=f.take('decoder_start_token_id', f.take('pad_token_id', 0)),
      buckets=f.size('relative_attention_num_buckets', 32), max_distance=f.size('relative_attention_max_distance', 128),
      bias_per_layer=family == 'umt5')


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


DUPLICATES = {f'{stack}.embed_tokens.weight': 'shared.weight' for stack in ('encoder', 'decoder')}
# A cross-attention bias that early T5 files carry and no T5 reads.
IGNORED = (r'^decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight$',)


T5, MT5, UMT5 = (
    Family(name, partial(config, family=name), rows, embedding='shared.weight', duplicates=DUPLICATES, ignored=IGNORED)
    for name in ('t5', 'mt5', 'umt5'))
