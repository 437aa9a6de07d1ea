"""Named shapes with random weights and a byte tokenizer, `random:NAME`: small ones for laptops, large ones to plan with.

Each is the config.json of its family; what it leaves out has the family's default. T5's vocabulary holds sentinels beside the
bytes; a large model's has more rows than the byte tokenizer has tokens.
"""

from typing import Any

from research.data.tokenizer import BOS, BYTES, EOS, PAD

_TOKENS = {'bos_token_id': BOS, 'eos_token_id': EOS, 'pad_token_id': PAD}
SENTINELS = 100


def _llama(width: int, hidden: int, layers: int, heads: int, kv_heads: int, context: int) -> dict[str, Any]:
  return {'model_type': 'llama', 'vocab_size': BYTES, 'hidden_size': width, 'intermediate_size': hidden,
          'num_hidden_layers': layers, 'num_attention_heads': heads, 'num_key_value_heads': kv_heads,
          'max_position_embeddings': context, 'rms_norm_eps': 1e-5, 'tie_word_embeddings': True, **_TOKENS}


def _gpt2(width: int, layers: int, heads: int, context: int) -> dict[str, Any]:
  return {'model_type': 'gpt2', 'vocab_size': BYTES, 'n_embd': width, 'n_layer': layers, 'n_head': heads,
          'n_positions': context, 'tie_word_embeddings': True, **_TOKENS}


def _t5(width: int, hidden: int, layers: int, heads: int) -> dict[str, Any]:
  return {'model_type': 't5', 'vocab_size': BYTES + SENTINELS, 'd_model': width, 'd_ff': hidden, 'd_kv': width // heads,
          'num_layers': layers, 'num_heads': heads, 'feed_forward_proj': 'gated-gelu', 'tie_word_embeddings': True,
          'is_encoder_decoder': True, 'decoder_start_token_id': PAD, **_TOKENS}


_SMOLLM2 = {'vocab_size': 49152, 'rope_theta': 100000.0}
_LLAMA_3_2 = {'vocab_size': 128256, 'rope_theta': 500000.0, 'rope_scaling': {
    'rope_type': 'llama3', 'factor': 32.0, 'low_freq_factor': 1.0, 'high_freq_factor': 4.0,
    'original_max_position_embeddings': 8192}}
_LLAMA_3 = {'vocab_size': 128256, 'tie_word_embeddings': False, 'rope_theta': 500000.0}

PRESETS = {
    'llama-tiny': _llama(64, 160, 3, 4, 2, 512), 'llama-small': _llama(256, 704, 6, 8, 4, 1024),
    'gpt2-tiny': _gpt2(64, 3, 4, 512), 'gpt2-small': _gpt2(256, 6, 8, 1024),
    't5-tiny': _t5(64, 128, 2, 4), 't5-small': _t5(256, 512, 4, 8),
    'smollm2-135m': _llama(576, 1536, 30, 9, 3, 8192) | _SMOLLM2,
    'llama-3.2-1b': _llama(2048, 8192, 16, 32, 8, 131072) | _LLAMA_3_2,
    'llama-3-8b': _llama(4096, 14336, 32, 32, 8, 8192) | _LLAMA_3,
    'llama-3-70b': _llama(8192, 28672, 80, 64, 8, 8192) | _LLAMA_3,
    'flan-t5-xxl': _t5(4096, 10240, 24, 64) | {'vocab_size': 32128, 'tie_word_embeddings': False},
}

# Models on the hub whose shapes are known here: they can be planned for without a network.
HUB = {
    'HuggingFaceTB/SmolLM2-135M': 'smollm2-135m', 'HuggingFaceTB/SmolLM2-135M-Instruct': 'smollm2-135m',
    'meta-llama/Llama-3.2-1B': 'llama-3.2-1b',
    'meta-llama/Meta-Llama-3-8B': 'llama-3-8b', 'meta-llama/Meta-Llama-3-70B': 'llama-3-70b',
    'google/flan-t5-xxl': 'flan-t5-xxl',
}
