"""GGUF files of every architecture, laid out as llama.cpp's converter does, written with nothing of research/."""

import json
import mmap
import re
import struct

import jax
import numpy as np
import pytest
import safetensors.numpy
import zoo
from test_families import IDS, SOURCE, batch_of, save

from research import tree
from research.data import tokenizer as tokenizers
from research.errors import InputError
from research.models import gguf, names
from research.models.config import Execution
from research.models.load import load

FLOAT32 = Execution('float32', 'float32', True)

_BLOCK = {
    'self_attn.q_proj': 'attn_q', 'self_attn.k_proj': 'attn_k', 'self_attn.v_proj': 'attn_v', 'self_attn.o_proj': 'attn_output',
    'self_attn.q_norm': 'attn_q_norm', 'self_attn.k_norm': 'attn_k_norm', 'mlp.gate_proj': 'ffn_gate', 'mlp.up_proj': 'ffn_up',
    'mlp.down_proj': 'ffn_down', 'input_layernorm': 'attn_norm', 'post_attention_layernorm': 'ffn_norm'}
_AROUND = _BLOCK | {'post_attention_layernorm': 'post_attention_norm', 'pre_feedforward_layernorm': 'ffn_norm',
                    'post_feedforward_layernorm': 'post_ffw_norm'}
_ENDS = {'model.embed_tokens': 'token_embd', 'model.norm': 'output_norm', 'lm_head': 'output'}


def _decoder(block):
  return _ENDS | {f'model.layers.{{}}.{theirs}': f'blk.{{}}.{name}' for theirs, name in block.items()}


def _t5():
  found = {'shared': 'token_embd', 'lm_head': 'output', 'encoder.final_layer_norm': 'enc.output_norm',
           'decoder.final_layer_norm': 'dec.output_norm'}
  for stack, short, mlp in (('encoder', 'enc', 1), ('decoder', 'dec', 2)):
    layer, out = f'{stack}.block.{{}}.layer.', f'{short}.blk.{{}}.'
    for one in 'qkvo':
      found[f'{layer}0.SelfAttention.{one}'] = f'{out}attn_{one}'
      found[f'{layer}1.EncDecAttention.{one}'] = f'{out}cross_attn_{one}'
    found |= {f'{layer}0.SelfAttention.relative_attention_bias': f'{out}attn_rel_b', f'{layer}0.layer_norm': f'{out}attn_norm',
              f'{layer}1.layer_norm': f'{out}{"ffn_norm" if stack == "encoder" else "cross_attn_norm"}',
              f'{layer}{mlp}.layer_norm': f'{out}ffn_norm', f'{layer}{mlp}.DenseReluDense.wi': f'{out}ffn_up',
              f'{layer}{mlp}.DenseReluDense.wi_0': f'{out}ffn_gate', f'{layer}{mlp}.DenseReluDense.wi_1': f'{out}ffn_up',
              f'{layer}{mlp}.DenseReluDense.wo': f'{out}ffn_down'}
  return found


_GPT2 = {'transformer.wte': 'token_embd', 'transformer.wpe': 'position_embd', 'transformer.ln_f': 'output_norm',
         'lm_head': 'output', **{f'transformer.h.{{}}.{theirs}': f'blk.{{}}.{name}' for theirs, name in {
             'ln_1': 'attn_norm', 'ln_2': 'ffn_norm', 'attn.c_attn': 'attn_qkv', 'attn.c_proj': 'attn_output',
             'mlp.c_fc': 'ffn_up', 'mlp.c_proj': 'ffn_down'}.items()}}
TABLES = {'llama': _decoder(_BLOCK), 'qwen2': _decoder(_BLOCK), 'qwen3': _decoder(_BLOCK), 'gemma': _decoder(_BLOCK),
          'gemma2': _decoder(_AROUND), 'gemma3': _decoder(_AROUND), 'gpt2': _GPT2, 't5': _t5()}
ARCHITECTURES = {'gemma3_text': 'gemma3', 'mt5': 't5', 'umt5': 't5'}       # model_type -> where GGUF calls it otherwise


def architecture(hf):
  return ARCHITECTURES.get(hf['model_type'], hf['model_type'])


def laid_out(hf, name, x):
  """A tensor's name and values in the file."""
  base, suffix = name.rsplit('.', 1)
  number = re.search(r'\.(\d+)\.', base)
  key = base if number is None else base.replace(number[0], '.{}.', 1)
  arch = architecture(hf)
  heads = {'q_proj': hf.get('num_attention_heads'), 'k_proj': hf.get('num_key_value_heads')}.get(base.split('.')[-1])
  if arch == 'llama' and heads:                 # rotary pairs side by side
    x = x.reshape(heads, 2, len(x) // heads // 2, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)
  if arch.startswith('gemma') and name.endswith('norm.weight'):
    x = x + np.float32(1)
  if arch == 'gpt2' and name.endswith(('c_attn.weight', 'c_proj.weight', 'c_fc.weight')):
    x = x.T
  return f'{TABLES[arch][key].format(number and number[1])}.{suffix}', np.ascontiguousarray(x)


def header(hf):
  """The fields that the converter writes beside the tokenizer's: name without prefix -> value."""
  c, arch = hf, architecture(hf)
  if arch == 't5':
    return {'context_length': c.get('n_positions', 512), 'embedding_length': c['d_model'], 'feed_forward_length': c['d_ff'],
            'block_count': c['num_layers'], 'decoder_block_count': c['num_decoder_layers'],
            'attention.head_count': c['num_heads'], 'attention.key_length': c['d_kv'], 'attention.value_length': c['d_kv'],
            'attention.layer_norm_epsilon': c['layer_norm_epsilon'],
            'attention.layer_norm_rms_epsilon': c['layer_norm_epsilon'],
            'attention.relative_buckets_count': c['relative_attention_num_buckets'],
            'decoder_start_token_id': c['decoder_start_token_id']}
  if arch == 'gpt2':
    return {'block_count': c['n_layer'], 'context_length': c['n_positions'], 'embedding_length': c['n_embd'],
            'feed_forward_length': c['n_inner'], 'attention.head_count': c['n_head'],
            'attention.layer_norm_epsilon': c['layer_norm_epsilon']}
  found = {'block_count': c['num_hidden_layers'], 'context_length': c['max_position_embeddings'],
           'embedding_length': c['hidden_size'], 'feed_forward_length': c['intermediate_size'],
           'attention.head_count': c['num_attention_heads'], 'attention.head_count_kv': c['num_key_value_heads'],
           'attention.layer_norm_rms_epsilon': c['rms_norm_eps'], 'attention.key_length': c['head_dim'],
           'attention.value_length': c['head_dim']}
  if arch == 'llama':
    found |= {'vocab_size': c['vocab_size'], 'rope.dimension_count': c['head_dim']}
  rope = c['rope_parameters'].get('full_attention', c['rope_parameters'])
  if arch not in ('gemma', 'gemma2'):
    found['rope.freq_base'] = float(rope['rope_theta'])
  if rope['rope_type'] in ('linear', 'yarn'):
    found |= {'rope.scaling.type': rope['rope_type'], 'rope.scaling.factor': rope['factor']}
  if 'original_max_position_embeddings' in rope:
    found['rope.scaling.original_context_length'] = rope['original_max_position_embeddings']
  if arch in ('gemma2', 'gemma3'):
    found['attention.sliding_window'] = c['sliding_window']
  for cap in ('attn_logit_softcapping', 'final_logit_softcapping'):
    found |= {cap: c[cap]} if c.get(cap) else {}
  return found


def divisors(hf):
  """rope_freqs.weight of a llama3 scaling, as the converter computes it."""
  p, dims = hf['rope_parameters'], hf['head_dim']
  found = []
  for frequency in 1 / p['rope_theta'] ** (np.arange(0, dims, 2) / dims):
    turns = p['original_max_position_embeddings'] * frequency / (2 * np.pi)
    smooth = (turns - p['low_freq_factor']) / (p['high_freq_factor'] - p['low_freq_factor'])
    found.append(1 if smooth > 1 else p['factor'] if smooth < 0 else 1 / ((1 - smooth) / p['factor'] + smooth))
  return np.array(found, np.float32)


def byte_level(tokens=260):
  """The fields of a byte-level tokenizer with one merge; names fill it up to `tokens`."""
  alphabet = [t for t, i in sorted(tokenizers.of_bytes().hf.get_vocab().items(), key=lambda x: x[1]) if i < 256]
  return {'model': 'gpt2', 'pre': 'gpt-2', 'merges': ['a b'], 'token_type': [1] * 256 + [3] * 3 + [1] + [5] * (tokens - 260),
          'tokens': [*alphabet, '<bos>', '<eos>', '<pad>', 'ab', *(f'[PAD{i}]' for i in range(260, tokens))],
          'bos_token_id': 256, 'eos_token_id': 257, 'padding_token_id': 0}


def sentencepiece(model):
  """The fields of a SentencePiece vocabulary of 10 tokens."""
  tokens = ['<pad>', '</s>', '<unk>', '<s>', '▁', 'a', 'b', '▁a', 'ab', '<0x0A>']
  return {'model': model, 'pre': 'default', 'tokens': tokens, 'scores': [-float(i) for i in range(10)],
          'token_type': [3, 3, 2, 3, 1, 1, 1, 1, 1, 6], 'bos_token_id': 3, 'eos_token_id': 1, 'unknown_token_id': 2,
          'padding_token_id': 0, 'add_space_prefix': True, 'remove_extra_whitespaces': True}


def write(file, hf, tensors, change=(), types=None, extra=(), tokenizer=None, order='LITTLE'):
  """Writes the model; gives the path as text.

  Args:
    change: fields of the header that are added or changed, without prefix, or None to leave one out.
    types: tensor in the file -> its type, where it is not F32; bytes stand as they are.
    extra: further tensors of the file.
    tokenizer: its fields; `byte_level` where there are none.
  """
  import gguf as library
  arch = architecture(hf)
  w = library.GGUFWriter(file, arch, endianess=library.GGUFEndian[order])
  add = {bool: w.add_bool, int: w.add_uint32, float: w.add_float32, str: w.add_string, list: w.add_array}
  fields = {name if name.startswith(('general.', 'split.')) else f'{arch}.{name}': value
            for name, value in {**header(hf), **dict(change)}.items()}
  fields |= {f'tokenizer.ggml.{name}': value for name, value in (tokenizer or byte_level()).items()}
  for name, value in fields.items():
    if value is not None:
      add[type(value)](name, value)
  for name, x in {**dict(laid_out(hf, n, x) for n, x in tensors.items()), **dict(extra)}.items():
    kind = library.GGMLQuantizationType[(types or {}).get(name, 'F32')]
    w.add_tensor(name, x if x.dtype == np.uint8 else library.quantize(x, kind), raw_dtype=kind)
  w.write_header_to_file()
  w.write_kv_data_to_file()
  w.write_tensors_to_file()
  w.close()
  return str(file)


_T5 = dict(relative_attention_max_distance=128)
_WINDOWED = dict(query_pre_attn_scalar=10)
# The zoo's models, but for what a GGUF file cannot say: name -> (what is changed of the zoo's, what the header adds).
MODELS = {
    'llama': (dict(hidden_size=96, intermediate_size=96), {}), 'llama-tied': (dict(hidden_act='silu'), {}),
    'llama-linear': ({}, {}), 'llama-llama3': ({}, {}), 'llama-yarn': ({}, {}),
    'qwen2': (dict(use_sliding_window=False), {}), 'qwen3': (dict(use_sliding_window=False), {}),
    'gpt2': (dict(n_embd=64, n_head=4, n_inner=96), {}), 'gemma': ({}, {}), 'gemma2': (_WINDOWED, {}),
    'gemma3_text': (_WINDOWED, {'attention.sliding_window_pattern': [True, True, False, True]}),
    't5': (_T5, {}), 't5-1.1': (_T5 | dict(d_model=64), {}), 'mt5': (_T5, {}), 'umt5': (_T5, {}),
}


class Pair:
  """A model in both layouts."""

  def __init__(self, name, folder):
    self.name, self.folder = name, folder
    changed, self.change = MODELS[name]
    with pytest.MonkeyPatch.context() as patch:
      patch.setitem(zoo.CONFIGS, name, zoo.CONFIGS[name] | changed)
      self.theirs = zoo.torch_model(name)
    save(self.theirs, folder)
    self.hf = json.loads((folder / 'config.json').read_text())
    self.tensors = safetensors.numpy.load_file(folder / 'model.safetensors')
    self.extra = {'rope_freqs.weight': divisors(self.hf)} if name == 'llama-llama3' else {}
    self.file = write(folder / 'model.gguf', self.hf, self.tensors, self.change, extra=self.extra)

  def other(self, file, **how):
    """Writes another file of the same model."""
    return write(file, self.hf, self.tensors, **{'change': self.change, 'extra': self.extra} | how)


@pytest.fixture(scope='module')
def made(tmp_path_factory):
  """name -> Pair, each made once."""
  found = {}

  def get(name):
    if name not in found:
      found[name] = Pair(name, tmp_path_factory.mktemp(name))
    return found[name]
  return get


@pytest.fixture(params=MODELS)
def pair(request, made):
  return made(request.param)


def refused(source, *saying):
  with pytest.raises(InputError) as e:
    load(str(source), FLOAT32)
  assert len(str(e.value).splitlines()) == 1
  for words in saying:
    assert words in str(e.value)


@pytest.mark.parity
def test_a_file_holds_the_same_model_as_the_folder(pair):
  file, folder = load(pair.file, FLOAT32), load(str(pair.folder), FLOAT32)
  expected, found = vars(folder.model.config) | {'family': None}, vars(file.model.config) | {'family': None}
  assert found == expected
  assert file.model.config.family == (folder.model.config.family if pair.name != 'mt5' else 't5')
  mine, others = tree.leaves(file.params), tree.leaves(folder.params)
  assert mine.keys() == others.keys()
  for path, x in others.items():
    shifted = pair.name.startswith('gemma') and path.endswith('/scale')      # 1 was added, and taken off again
    np.testing.assert_allclose(mine[path], x, rtol=0, atol=1e-6 if shifted else 0, err_msg=path)
  assert (file.tokenizer.eos, file.tokenizer.bos) == (257, None)


@pytest.mark.parity
def test_logits_of_a_file_are_those_of_the_folder(pair):
  file, folder = load(pair.file, FLOAT32), load(str(pair.folder), FLOAT32)
  batch = batch_of(folder.model.config)
  forward = jax.jit(lambda params: folder.model.logits({'params': params}, folder.model.hidden({'params': params}, batch)))
  expected = forward(folder.params)
  assert expected.std() >= 1
  np.testing.assert_allclose(forward(file.params), expected, rtol=0, atol=1e-5)


@pytest.mark.parity
def test_transformers_computes_the_same_with_the_config_of_a_file(pair, tmp_path):
  import torch
  from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM
  loaded = load(pair.file, FLOAT32)
  family, config, _, _, hf = gguf.read(pair.folder / 'model.gguf')
  assert hf == loaded.hf
  (tmp_path / 'config.json').write_text(json.dumps(hf))
  tensors = names.export_params(family, config, loaded.params)
  safetensors.numpy.save_file({n: np.ascontiguousarray(x) for n, x in tensors.items()}, tmp_path / 'model.safetensors',
                              {'format': 'pt'})
  kind = AutoModelForSeq2SeqLM if config.has_encoder else AutoModelForCausalLM
  again = kind.from_pretrained(tmp_path, attn_implementation='eager').eval()
  inputs = {'input_ids': torch.tensor(IDS)}
  if config.has_encoder:
    inputs = {'input_ids': torch.tensor(SOURCE), 'decoder_input_ids': torch.tensor(IDS)}
    assert again.config.decoder_start_token_id == pair.hf['decoder_start_token_id'] and again.config.is_encoder_decoder
  assert (again.config.eos_token_id, again.config.pad_token_id) == (257, 0)
  if config.has_encoder and not config.tied:
    with torch.no_grad():              # transformers ties it while it loads, whatever the config says of mT5 and UMT5
      again.lm_head.weight = torch.nn.Parameter(torch.tensor(tensors['lm_head.weight']))
  with torch.no_grad():
    np.testing.assert_allclose(again(**inputs).logits.numpy(), pair.theirs(**inputs).logits.numpy(), rtol=0, atol=1e-4)


@pytest.mark.parity
@pytest.mark.parametrize('kind', ['F16', 'BF16', 'Q8_0', 'Q4_0'])
@pytest.mark.parametrize('name', ['llama', 'gpt2', 't5-1.1'])
def test_matrices_in_other_types_are_read_as_the_gguf_library_reads_them(made, tmp_path, name, kind):
  import gguf as library
  pair, qtype = made(name), library.GGMLQuantizationType[kind]
  stored = dict(laid_out(pair.hf, n, x) for n, x in pair.tensors.items())
  types = {n: kind for n, x in stored.items() if x.ndim == 2 and x.shape[-1] % library.GGML_QUANT_SIZES[qtype][0] == 0}
  assert len(types) >= 3
  file = pair.other(tmp_path / 'a.gguf', types=types)
  _, _, tensors, _, _ = gguf.read(tmp_path / 'a.gguf')
  for theirs, x in pair.tensors.items():
    there, x = laid_out(pair.hf, theirs, x)
    rounded = library.dequantize(library.quantize(x, qtype), qtype) if there in types else x
    np.testing.assert_array_equal(laid_out(pair.hf, theirs, tensors[theirs])[1], rounded, err_msg=theirs)
  load(file, FLOAT32)


LLAMA = dict(model_type='llama', vocab_size=260, hidden_size=256, intermediate_size=32, num_hidden_layers=1,
             num_attention_heads=4, num_key_value_heads=2, head_dim=16, max_position_embeddings=64, rms_norm_eps=1e-5,
             rope_parameters={'rope_type': 'default', 'rope_theta': 5e5}, tie_word_embeddings=True)


def llama(hf=LLAMA, seed=0):
  """Tensors of a small llama."""
  rng, D, F = np.random.default_rng(seed), hf['hidden_size'], hf['intermediate_size']
  q, kv = (hf[f'num_{heads}_heads'] * hf['head_dim'] for heads in ('attention', 'key_value'))
  block = {'self_attn.q_proj': (q, D), 'self_attn.k_proj': (kv, D), 'self_attn.v_proj': (kv, D), 'self_attn.o_proj': (D, q),
           'mlp.gate_proj': (F, D), 'mlp.up_proj': (F, D), 'mlp.down_proj': (D, F), 'input_layernorm': (D,),
           'post_attention_layernorm': (D,)}
  shapes = {'model.embed_tokens.weight': (hf['vocab_size'], D), 'model.norm.weight': (D,)}
  for n in range(hf['num_hidden_layers']):
    shapes |= {f'model.layers.{n}.{name}.weight': shape for name, shape in block.items()}
  return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize('kind', [
    'Q4_1', 'Q5_0', 'Q5_1', 'Q2_K', 'Q3_K', 'Q4_K', 'Q5_K', 'Q6_K', 'TQ1_0', 'TQ2_0', 'MXFP4', 'NVFP4', 'IQ1_S', 'IQ1_M',
    'IQ2_XXS', 'IQ2_XS', 'IQ2_S', 'IQ3_XXS', 'IQ3_S', 'IQ4_NL', 'IQ4_XS'])
@pytest.mark.filterwarnings('ignore:invalid value:RuntimeWarning', 'ignore:overflow:RuntimeWarning')
def test_every_type_that_the_gguf_library_dequantises_is_read(tmp_path, kind):
  import gguf as library
  qtype = library.GGMLQuantizationType[kind]
  block, size = library.GGML_QUANT_SIZES[qtype]
  raw = np.random.default_rng(0).integers(0, 256, (260, 256 // block * size)).astype(np.uint8)
  write(tmp_path / 'a.gguf', LLAMA, llama(), types={'token_embd.weight': kind}, extra={'token_embd.weight': raw})
  _, _, tensors, _, _ = gguf.read(tmp_path / 'a.gguf')
  found = tensors['model.embed_tokens.weight']
  assert found.shape == (260, 256) and found.dtype == np.float32
  np.testing.assert_array_equal(found, library.dequantize(raw, qtype))


def test_a_type_that_the_gguf_library_does_not_dequantise_is_refused(tmp_path):
  import gguf as library
  write(tmp_path / 'b.gguf', LLAMA, llama())
  data = (tmp_path / 'b.gguf').read_bytes()
  at = data.index(b'output_norm.weight') + len('output_norm.weight') + 4 + 8      # after its number of axes and its one axis
  assert data[at:at + 4] == struct.pack('<I', library.GGMLQuantizationType.F32)
  (tmp_path / 'b.gguf').write_bytes(data[:at] + struct.pack('<I', library.GGMLQuantizationType.I32) + data[at + 4:])
  refused(tmp_path / 'b.gguf', 'output_norm.weight', 'type I32', 'cannot dequantise')


@pytest.mark.skipif(not hasattr(mmap, 'MADV_DONTNEED'), reason='pages of a mapped file can be dropped on Linux only')
def test_what_was_read_of_a_file_does_not_stay_in_memory(tmp_path):
  hf = LLAMA | dict(vocab_size=20_000)
  file = write(tmp_path / 'large.gguf', hf, llama(hf))
  _, _, tensors, _, _ = gguf.read(tmp_path / 'large.gguf')
  assert tensors['model.embed_tokens.weight'].nbytes > 20e6
  tensors['model.norm.weight']
  with open('/proc/self/smaps') as f:
    mapped = re.findall(re.escape(file) + r'\n(?:.*\n)*?Rss: +(\d+) kB', f.read())
  assert mapped and sum(map(int, mapped)) < 2_000


@pytest.mark.parametrize('trained', [8192, 64])
def test_llama_3_scaling_comes_back_from_its_divisors(tmp_path, trained):
  rope = {'rope_type': 'llama3', 'rope_theta': 5e5, 'factor': 32.0, 'low_freq_factor': 1.0, 'high_freq_factor': 4.0,
          'original_max_position_embeddings': trained}
  hf = LLAMA | dict(rope_parameters=rope)
  assert len(set(divisors(hf))) > 2
  file = write(tmp_path / 'a.gguf', hf, llama(), extra={'rope_freqs.weight': divisors(hf)},
               change={} if trained != 8192 else {'rope.scaling.original_context_length': None})
  assert load(file, FLOAT32).hf['rope_parameters'] == rope


def test_divisors_of_one_are_no_scaling(tmp_path):
  file = write(tmp_path / 'a.gguf', LLAMA, llama(), extra={'rope_freqs.weight': np.ones(8, np.float32)})
  assert load(file, FLOAT32).hf['rope_parameters'] == {'rope_type': 'default', 'rope_theta': 5e5}


@pytest.mark.quick
@pytest.mark.parametrize('change', [lambda x: x * 1.001, lambda x: x[:-1], lambda x: np.full_like(x, np.nan), lambda x: 0 * x])
def test_divisors_that_are_not_llama_3s_are_refused(tmp_path, change):
  rope = {'rope_type': 'llama3', 'rope_theta': 5e5, 'factor': 8.0, 'low_freq_factor': 1.0, 'high_freq_factor': 4.0,
          'original_max_position_embeddings': 8192}
  found = divisors(LLAMA | dict(rope_parameters=rope))
  refused(write(tmp_path / 'a.gguf', LLAMA, llama(), extra={'rope_freqs.weight': change(found)}), 'rope_freqs.weight')


@pytest.mark.parametrize('change, expected', [
    ({'rope.scaling.type': 'none', 'rope.scaling.factor': 4.0}, {'rope_type': 'default'}),
    ({'rope.scaling.type': 'linear', 'rope.scaling.factor': 4.0}, {'rope_type': 'linear', 'factor': 4.0}),
    ({'rope.scale_linear': 4.0}, {'rope_type': 'linear', 'factor': 4.0}),
    ({'rope.scaling.type': 'yarn', 'rope.scaling.factor': 4.0, 'rope.scaling.original_context_length': 32,
      'rope.scaling.yarn_attn_factor': 1.25, 'rope.scaling.yarn_beta_fast': 16.0},
     {'rope_type': 'yarn', 'factor': 4.0, 'original_max_position_embeddings': 32, 'attention_factor': 1.25,
      'beta_fast': 16.0})])
def test_scaling_of_positions_is_what_the_header_says(tmp_path, change, expected):
  hf = load(write(tmp_path / 'a.gguf', LLAMA, llama(), change), FLOAT32).hf
  assert hf['rope_parameters'] == {'rope_theta': 5e5} | expected


GEMMA = dict(model_type='gemma3_text', vocab_size=260, hidden_size=48, intermediate_size=16, num_hidden_layers=7,
             num_attention_heads=6, num_key_value_heads=2, head_dim=10, max_position_embeddings=64, rms_norm_eps=1e-6,
             sliding_window=8, rope_parameters={'rope_type': 'default', 'rope_theta': 1e6})


def gemma(hf):
  found = llama(hf)
  for n in range(hf['num_hidden_layers']):
    for norm in ('pre_feedforward_layernorm', 'post_feedforward_layernorm'):
      found[f'model.layers.{n}.{norm}.weight'] = np.ones(hf['hidden_size'], np.float32)
    if hf['model_type'] == 'gemma3_text':
      found |= {f'model.layers.{n}.self_attn.{x}_norm.weight': np.ones(hf['head_dim'], np.float32) for x in 'qk'}
  return found


@pytest.mark.parametrize('change, pattern, window', [
    ({}, (1, 1, 1, 1, 1, 0, 1), 8), ({'attention.sliding_window_pattern': 2}, (1, 0, 1, 0, 1, 0, 1), 8),
    ({'attention.sliding_window_pattern': [True, False] * 3 + [False]}, (1, 0, 1, 0, 1, 0, 0), 8),
    ({'attention.sliding_window_pattern': 1}, (), 0), ({'attention.sliding_window': None}, (), 0)])
def test_gemma_3_layers_are_global_where_the_header_says(tmp_path, change, pattern, window):
  file = write(tmp_path / 'a.gguf', GEMMA, gemma(GEMMA), change)
  config = load(file, FLOAT32).model.config
  assert config.layer_pattern == pattern and config.layer_kinds[-1].window == window
  assert config.layer_kinds[0].rope.inverse[1] == pytest.approx(1e6 ** -0.2)
  if pattern:
    assert config.layer_kinds[0].window == 0 and config.layer_kinds[1].rope.inverse[1] == pytest.approx(1e4 ** -0.2)
    other = load(write(tmp_path / 'b.gguf', GEMMA, gemma(GEMMA), change | {'rope.freq_base_swa': 2e4}), FLOAT32).model.config
    assert other.layer_kinds[1].rope.inverse[1] == pytest.approx(2e4 ** -0.2)


@pytest.mark.parametrize('kind, layers, scalar', [('gemma2', 46, 8), ('gemma2', 45, 10), ('gemma3_text', 62, 8),
                                                  ('gemma3_text', 46, 10)])
def test_the_27b_gemmas_scale_queries_by_width_over_heads(tmp_path, kind, layers, scalar):
  hf = GEMMA | dict(model_type=kind, num_hidden_layers=layers)
  config = gguf.read(tmp_path / write(tmp_path / 'a.gguf', hf, gemma(hf)))[1]
  assert config.query_scale == scalar ** -0.5


@pytest.mark.parity
def test_a_head_that_repeats_the_embedding_is_no_head(made, tmp_path):
  for name in ('t5', 'gpt2', 'llama-tied'):
    pair = made(name)
    embedding = next(x for n, x in pair.tensors.items() if n in ('shared.weight', 'transformer.wte.weight',
                                                                 'model.embed_tokens.weight'))
    file = load(pair.other(tmp_path / f'{name}.gguf', extra={'output.weight': embedding}), FLOAT32)
    assert file.model.config == load(pair.file, FLOAT32).model.config and file.hf['tie_word_embeddings']


@pytest.mark.parity
def test_a_t5_without_gates_but_with_a_head_is_refused(made, tmp_path):
  pair = made('t5')
  refused(pair.other(tmp_path / 'a.gguf', extra={'output.weight': 2 * pair.tensors['shared.weight']}), 'output.weight', 'T5')


@pytest.mark.parity
def test_a_bias_that_no_t5_reads_is_left_out(made, tmp_path):
  pair = made('t5')
  bias = {'dec.blk.0.cross_attn_rel_b.weight': np.ones((8, 4), np.float32)}
  assert load(pair.other(tmp_path / 'a.gguf', extra=bias), FLOAT32).model.config == load(pair.file, FLOAT32).model.config


@pytest.mark.parametrize('change, saying', [
    ({'expert_count': 8}, 'llama.expert_count=8 is not supported'),
    ({'rope.scaling.type': 'longrope'}, "llama.rope.scaling.type='longrope' is not supported (known: none, linear, yarn)"),
    ({'rope.dimension_count': 4}, 'llama.rope.dimension_count=4 is not supported'),
    ({'attention.causal': False}, 'llama.attention.causal=False is not supported'),
    ({'logit_scale': 0.5}, 'llama.logit_scale=0.5 is not supported'),
    ({'attention.head_count': [4, 2]}, 'llama.attention.head_count=[4, 2]'),
    ({'attention.head_count_kv': 3}, 'num_key_value_heads=3 does not divide'),
    ({'block_count': 2_000_000_000}, 'llama.block_count=2000000000'),
    ({'feed_forward_length': 2_000_000_000}, 'llama.feed_forward_length=2000000000'),
    ({'feed_forward_length': 64}, 'ffn_gate.weight holds 8192 numbers, but the header says 16384'),
    ({'embedding_length': '256'}, "llama.embedding_length='256'"),
    ({'rope.freq_base': 0.0}, 'llama.rope.freq_base=0.0'),
    ({'rope.freq_base': float('nan')}, 'llama.rope.freq_base=nan'),
    ({'context_length': None}, 'lacks llama.context_length'),
    ({'general.type': 'adapter'}, "general.type='adapter'"),
    ({'split.count': 3}, 'one of 3 parts')])
def test_a_header_that_would_be_computed_wrong_is_refused(tmp_path, change, saying):
  refused(write(tmp_path / 'a.gguf', LLAMA, llama(), change), saying)


def test_an_entry_for_each_layer_is_read_where_all_are_the_same(tmp_path):
  hf = LLAMA | dict(num_hidden_layers=2)
  file = write(tmp_path / 'a.gguf', hf, llama(hf), {'attention.head_count_kv': [2, 2]})
  assert load(file, FLOAT32).model.config.kv_heads == 2


@pytest.mark.quick
def test_another_architecture_is_refused_naming_the_known_ones(tmp_path, monkeypatch):
  monkeypatch.setitem(ARCHITECTURES, 'llama', 'mamba')
  monkeypatch.setitem(TABLES, 'mamba', TABLES['llama'])
  refused(write(tmp_path / 'a.gguf', LLAMA, llama()), "architecture 'mamba' is not supported "
          '(known: llama, qwen2, qwen3, gpt2, gemma, gemma2, gemma3, t5)')


@pytest.mark.quick
def test_the_other_byte_order_is_refused(tmp_path):
  refused(write(tmp_path / 'a.gguf', LLAMA, llama(), order='BIG'), 'byte order')


def test_a_tokenizer_with_tokens_beyond_the_embedding_loads_unless_eos_is_one(tmp_path):
  more = byte_level(300)
  tokenizer = load(str(write(tmp_path / 'a.gguf', LLAMA, llama(), tokenizer=more)), FLOAT32).tokenizer
  assert tokenizer.size == 260 and tokenizer.encode('ab') == [259]
  refused(write(tmp_path / 'b.gguf', LLAMA, llama(), tokenizer=more | {'eos_token_id': 280}), 'eos_token has the number 280',
          '260 rows')


def test_a_list_that_goes_beyond_the_end_is_refused_at_once(tmp_path):
  write(tmp_path / 'a.gguf', LLAMA, llama())
  data = (tmp_path / 'a.gguf').read_bytes()
  at = data.index(b'tokenizer.ggml.token_type') + len('tokenizer.ggml.token_type') + 8
  assert data[at:at + 8] == struct.pack('<Q', 260)
  (tmp_path / 'a.gguf').write_bytes(data[:at] + struct.pack('<Q', 1 << 60) + data[at + 8:])
  refused(tmp_path / 'a.gguf', 'not a whole GGUF file')


@pytest.mark.quick
def test_an_offset_that_wraps_around_is_refused(tmp_path):
  write(tmp_path / 'a.gguf', LLAMA, llama())
  data = (tmp_path / 'a.gguf').read_bytes()
  at = data.index(b'output_norm.weight') + len('output_norm.weight') + 4 + 8 + 4
  (tmp_path / 'a.gguf').write_bytes(data[:at] + struct.pack('<Q', (1 << 64) - 64) + data[at + 8:])
  with np.errstate(over='ignore'):
    refused(tmp_path / 'a.gguf', 'not a whole GGUF file')


TINY = dict(vocab_size=12, hidden_size=8, intermediate_size=4, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, head_dim=4)
TINY_T5 = dict(model_type='t5', vocab_size=12, d_model=8, d_kv=4, d_ff=4, num_layers=1, num_decoder_layers=2, num_heads=2,
               layer_norm_epsilon=1e-6, relative_attention_num_buckets=8, decoder_start_token_id=0)


def t5(hf=TINY_T5):
  """Tensors of a small gated T5."""
  D, F, Q, rng = hf['d_model'], hf['d_ff'], hf['num_heads'] * hf['d_kv'], np.random.default_rng(0)
  shapes = {'shared.weight': (hf['vocab_size'], D)}
  for stack, layers, attentions in (('encoder', hf['num_layers'], ('SelfAttention',)),
                                    ('decoder', hf['num_decoder_layers'], ('SelfAttention', 'EncDecAttention'))):
    shapes |= {f'{stack}.final_layer_norm.weight': (D,),
               f'{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight': (8, hf['num_heads'])}
    for n in range(layers):
      layer = f'{stack}.block.{n}.layer.'
      for i, attention in enumerate(attentions):
        shapes |= {f'{layer}{i}.{attention}.{one}.weight': (D, Q) if one == 'o' else (Q, D) for one in 'qkvo'}
      mlp = f'{layer}{len(attentions)}.DenseReluDense.'
      shapes |= {f'{mlp}wi_0.weight': (F, D), f'{mlp}wi_1.weight': (F, D), f'{mlp}wo.weight': (D, F)}
      shapes |= {f'{layer}{i}.layer_norm.weight': (D,) for i in range(len(attentions) + 1)}
  return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def qwen3(hf):
  norms = {f'model.layers.{n}.self_attn.{x}_norm.weight': np.ones(hf['head_dim'], np.float32)
           for n in range(hf['num_hidden_layers']) for x in 'qk'}
  return llama(hf) | norms


@pytest.mark.parametrize('kind', ['llama', 'qwen3', 'gemma3_text', 't5'])
@pytest.mark.filterwarnings('ignore::RuntimeWarning')
def test_a_damaged_header_is_read_or_refused_in_one_line(tmp_path, kind):
  import gguf as library
  yarn = {'rope.scaling.type': 'yarn', 'rope.scaling.factor': 4.0, 'rope.scaling.original_context_length': 32}
  hf, make, tokenizer, change = {
      'llama': (LLAMA | TINY, llama, sentencepiece('llama'), yarn),
      'qwen3': (LLAMA | TINY | dict(model_type='qwen3', vocab_size=260), qwen3, None, {}),
      'gemma3_text': (GEMMA | TINY, gemma, sentencepiece('llama'), {'attention.sliding_window_pattern': [True, False]}),
      't5': (TINY_T5, t5, sentencepiece('t5'), {})}[kind]
  whole = write(tmp_path / 'whole.gguf', hf, make(hf), change, tokenizer=tokenizer)
  loaded = load(whole, FLOAT32)
  assert loaded.tokenizer.decode(loaded.tokenizer.encode('ab a')) == 'ab a'
  data, end = (tmp_path / 'whole.gguf').read_bytes(), library.GGUFReader(whole).data_offset
  rng, refusals = np.random.default_rng(list(kind.encode())), 0
  for i in range(60):
    damaged, at = bytearray(data), int(rng.integers(0, end - 8))
    if i % 3 == 0:
      damaged[at] ^= int(rng.integers(1, 256))
    elif i % 3 == 1:
      damaged[at:at + 8] = rng.integers(0, 256, 8, np.uint8).tobytes() if i % 2 else b'\xff' * 8
    else:
      del damaged[at:]
    (tmp_path / f'{i}.gguf').write_bytes(damaged)
    try:
      load(str(tmp_path / f'{i}.gguf'), FLOAT32)
    except InputError as e:
      refusals += 1
      assert len(str(e).splitlines()) == 1
  assert refusals >= 30
