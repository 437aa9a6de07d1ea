"""The tokenizers that GGUF files carry give the ids of what they were written from."""

import io
import itertools
import json
import unicodedata

import numpy as np
import pytest
import regex
from test_tokenizer import BY_HAND
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import models, pre_tokenizers, trainers

from research.data import gguf_tokenizer, sources, tokenizer
from research.errors import InputError

AWKWARD = [
    *BY_HAND, '  a', 'a ', 'a' * 33, '=-' * 20, 'abab' * 9, ' ' * 70, '\u3000全角\u3000ｆｕｌｌ', 'ﬁ ﬂ ①②', 'a\x00b',
    '\ufeffbom', 'ｶﾞｷﾞ', '각 \u1100\u1161\u11a8', 'x\u0302\u0303y', '\u0085z', '…', 'İstanbul ß ẞ', 'a\r\nb\r\r\n\n  c',
    "I'LL'S", '12345678901', '\U000e0001']
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r'|\s+(?!\S)|\s+')


@pytest.fixture(scope='module')
def shipped():
  """Every text that ships with the package."""
  return sorted({value for name in ('sentiment_sentences', 'hass_ende', 'docstring_summary')
                 for rows in sources.sample(name).values() for row in rows for value in row.values()})


def through_a_file(folder, fields):
  """The header's tokenizer fields after they were written to a GGUF file and read again."""
  import gguf
  w = gguf.GGUFWriter(folder / 'vocabulary.gguf', 'llama')
  add = {bool: w.add_bool, int: w.add_uint32, str: w.add_string, list: w.add_array, bytes: w.add_array}
  for name, value in fields.items():
    add[type(value)](f'tokenizer.ggml.{name}', value)
  w.write_header_to_file()
  w.write_kv_data_to_file()
  w.write_tensors_to_file()
  w.close()
  return {n: f.contents() for n, f in gguf.GGUFReader(folder / 'vocabulary.gguf').fields.items() if n.startswith('tokenizer.')}


def loaded(folder, fields):
  return gguf_tokenizer.from_gguf(through_a_file(folder, fields), 'FILE')


# SentencePiece

def trained(texts, **how):
  import sentencepiece
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(texts[::8]), model_writer=model, minloglevel=2,
                                           character_coverage=0.999, num_threads=1, hard_vocab_limit=False, **how)
  return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def written(sp, kind, **more):
  """The fields of a SentencePiece model as llama.cpp's converter writes them."""
  def of(i):
    return (2 if sp.is_unknown(i) else 3 if sp.is_control(i) else 6 if sp.is_byte(i) else 4 if user(i) else 1)

  def user(i):
    return sp.id_to_piece(i) in more.get('user', ())
  size = sp.get_piece_size()
  special = {'bos': sp.bos_id(), 'eos': sp.eos_id(), 'unknown': sp.unk_id(), 'padding': sp.pad_id()}
  return {'model': kind, 'pre': 'default', 'token_type': [of(i) for i in range(size)],
          'tokens': [sp.id_to_piece(i).replace('▁', ' ') if user(i) else sp.id_to_piece(i) for i in range(size)],
          'scores': [sp.get_score(i) for i in range(size)],
          **{f'{name}_token_id': i for name, i in special.items() if i >= 0},
          **{name: value for name, value in more.items() if name != 'user'}}


def assert_equal(ours, sp, texts):
  for text in texts:
    ids = sp.encode(text)
    assert ours.encode(text) == ids, text
    assert ours.decode(ids) == sp.decode(ids).replace(' ⁇ ', ''), text            # its way to write what is unknown


def synthetic(count):
  """Texts of few characters, in which many ways to join compete."""
  rng = np.random.default_rng(0)
  return [''.join(rng.choice(list(alphabet), rng.integers(1, 40)))
          for alphabet in ('ab', 'ab ', 'aab-', 'e es', '01.', 'the in') for _ in range(count)]


KEPT = dict(normalization_rule_name='identity', remove_extra_whitespaces=False)      # as Llama's and Gemma's vocabularies


@pytest.mark.parity
@pytest.mark.parametrize('how, fields', [
    (dict(byte_fallback=True), {}), (dict(byte_fallback=True, add_dummy_prefix=False), {'add_space_prefix': False}),
    (dict(byte_fallback=False), {}), (dict(byte_fallback=True, split_by_whitespace=False), {})],
    ids=['llama', 'gemma', 'without bytes', 'across words'])
def test_bpe_of_scores_gives_the_ids_and_texts_of_sentencepiece(tmp_path, shipped, how, fields):
  sp = trained(shipped, model_type='bpe', vocab_size=1000, **KEPT, **how)
  ours = loaded(tmp_path, written(sp, 'llama', **fields))
  assert_equal(ours, sp, [*AWKWARD, *shipped, *synthetic(500)])


@pytest.mark.parity
def test_pieces_are_joined_in_the_order_of_their_scores_not_of_their_ids(tmp_path, shipped):
  sp = trained(shipped, model_type='bpe', vocab_size=1000, byte_fallback=True, **KEPT)
  fields, special = written(sp, 'llama'), 3 + 256
  old = [*range(special), *(special + np.random.default_rng(0).permutation(sp.get_piece_size() - special)).tolist()]
  ours = loaded(tmp_path, fields | {name: [fields[name][i] for i in old] for name in ('tokens', 'scores', 'token_type')})
  for text in [*AWKWARD, *shipped[::5]]:
    assert [old[i] for i in ours.encode(text)] == sp.encode(text), text


@pytest.mark.parity
def test_tokens_that_users_defined_stand_whole_as_sentencepiece_has_them(tmp_path, shipped):
  user = ['▁▁', '▁▁▁', '▁▁▁▁', '\n\n', '<table>', '<h1>']
  sp = trained(shipped, model_type='bpe', vocab_size=1000, byte_fallback=True, add_dummy_prefix=False,
               user_defined_symbols=user, **KEPT)
  ours = loaded(tmp_path, written(sp, 'llama', add_space_prefix=False, user=user))
  texts = ['a<table>b', '<table><h1> x', '    four', 'a     b', '\n\n\n', 'x\n\n  y', *AWKWARD, *shipped[::5]]
  assert_equal(ours, sp, texts)
  assert ours.decode(ours.encode('a<table>b')) == 'a<table>b'


@pytest.mark.parity
@pytest.mark.diagonal('collapse', 'rule')
@pytest.mark.parametrize('collapse', [True, False])
@pytest.mark.parametrize('rule', ['nmt_nfkc', 'identity'])
def test_unigram_gives_the_ids_and_texts_of_sentencepiece(tmp_path, shipped, rule, collapse):
  from sentencepiece import sentencepiece_model_pb2
  sp = trained(shipped, model_type='unigram', vocab_size=1000, normalization_rule_name=rule, remove_extra_whitespaces=collapse,
               pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
  proto = sentencepiece_model_pb2.ModelProto()
  proto.ParseFromString(sp.serialized_model_proto())
  charsmap = proto.normalizer_spec.precompiled_charsmap
  assert bool(charsmap) == (rule == 'nmt_nfkc')
  fields = written(sp, 't5', add_space_prefix=True, remove_extra_whitespaces=collapse,
                   **({'precompiled_charsmap': charsmap} if charsmap else {}))
  assert_equal(loaded(tmp_path, fields), sp, [*AWKWARD, *shipped])
  padded = {**fields, 'tokens': [*fields['tokens'], *(f'[PAD{i}]' for i in range(28))],     # to the embedding's size
            'scores': fields['scores'] + [-10_000.0] * 28, 'token_type': fields['token_type'] + [5] * 28}
  assert_equal(loaded(tmp_path, padded), sp, [*AWKWARD, '[PAD1]', *shipped[::20]])


# Byte-level BPE

def pieces(pre, text):
  """How a text is cut, by the regex package."""
  if pre == 'smollm':
    return [piece for part in regex.split(r'(\p{N})', text) for piece in regex.findall(GPT2, part)]
  if pre == 'qwen2':
    return regex.findall(LLAMA3.replace('{1,3}', ''), unicodedata.normalize('NFC', text))
  return regex.findall(GPT2 if pre == 'gpt-2' else LLAMA3, text)


def by_hand(pre, vocabulary, merges, text):
  """The ids of a text, by the definition of BPE."""
  alphabet, ranks, ids = tokenizer._byte_alphabet(), {merge: i for i, merge in enumerate(merges)}, []
  for piece in pieces(pre, text):
    parts = [alphabet[b] for b in piece.encode()]
    if pre.startswith('llama') and ''.join(parts) in vocabulary:
      parts = [''.join(parts)]
    while True:
      best = min(itertools.pairwise(parts), key=lambda pair: ranks.get(pair, len(ranks)), default=None)
      if best not in ranks:
        break
      joined, i = [], 0
      while i < len(parts):
        both = tuple(parts[i:i + 2]) == best
        joined.append(''.join(best) if both else parts[i])
        i += 1 + both
      parts = joined
    ids += [vocabulary[part] for part in parts]
  return ids


@pytest.fixture(scope='module')
def learned(shipped):
  """(tokens, merges) of a byte-level BPE, and two tokens to which no merge leads."""
  rust = RustTokenizer(models.BPE())
  rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  trainer = trainers.BpeTrainer(vocab_size=1500, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
  rust.train_from_iterator([*shipped[::8], *(str(n) for n in range(3000)), 'é ü è ß'], trainer)
  found = json.loads(rust.to_str())['model']
  return [*sorted(found['vocab'], key=found['vocab'].get), 'Ġzyzzyva', '777'], [tuple(merge) for merge in found['merges']]


def byte_level(learned, pre, **more):
  tokens, merges = learned
  return {'model': 'gpt2', 'pre': pre, 'tokens': [*tokens, '<|end|>', '<tool>', '[PAD0]'],
          'merges': [' '.join(merge) for merge in merges], 'token_type': [1] * len(tokens) + [3, 4, 5],
          'eos_token_id': len(tokens)} | more


@pytest.mark.parametrize('pre', ['gpt-2', 'smollm', 'qwen2', 'llama-bpe', 'llama3', 'llama-v3'])
def test_byte_level_bpe_gives_the_ids_of_its_definition(tmp_path, learned, shipped, pre):
  ours = loaded(tmp_path, byte_level(learned, pre))
  vocabulary = {token: i for i, token in enumerate(learned[0])}
  for text in [*AWKWARD, 'a zyzzyva 777 7771', *shipped[::4]]:
    assert ours.encode(text) == by_hand(pre, vocabulary, learned[1], text), text
    assert ours.decode(ours.encode(text)) == (unicodedata.normalize('NFC', text) if pre == 'qwen2' else text), text
  whole = {vocabulary['Ġzyzzyva'], vocabulary['777']} <= {*ours.encode('a zyzzyva 777')}
  assert whole == pre.startswith('llama')


@pytest.mark.parity
@pytest.mark.parametrize('pre, name', [('qwen2', 'Qwen2Tokenizer'), ('gpt-2', 'GPT2Tokenizer')])
def test_byte_level_bpe_gives_the_ids_of_transformers_own_tokenizer(tmp_path, learned, shipped, pre, name):
  import transformers
  tokens, merges = learned
  theirs = getattr(transformers, name)(vocab={token: i for i, token in enumerate(tokens)}, merges=merges, unk_token='!',
                                       bos_token='!', eos_token='!', pad_token='!')
  ours = loaded(tmp_path, byte_level(learned, pre))
  for text in [*AWKWARD, *shipped[::4]]:
    if '!' not in text:
      assert ours.encode(text) == theirs.encode(text, add_special_tokens=False), text


@pytest.mark.quick
def test_written_out_special_tokens_are_read_as_such_and_those_of_users_stay_in_texts(tmp_path, learned):
  ours = loaded(tmp_path, byte_level(learned, 'qwen2'))
  end, tool, pad = (len(learned[0]) + i for i in range(3))
  ids = ours.encode('a<|end|> <tool>b[PAD0]')
  assert end in ids and tool in ids and pad not in ids
  assert ours.decode(ids) == 'a <tool>b[PAD0]'
  assert ours.hf.convert_tokens_to_ids('<|end|>') == end == ours.eos and ours.size == pad + 1
  assert '[PAD0]' not in ours.hf.get_vocab()


# What stands around a text

SMALL = {
    'gpt2': dict(model='gpt2', pre='smollm', merges=['a b', '1 2'], tokens=['<s>', '</s>', 'a', 'b', 'ab', 'Ġ', '1', '2', '12'],
                 token_type=[3, 3, 1, 1, 1, 1, 1, 1, 1], bos_token_id=0, eos_token_id=1, add_bos_token=True),
    'llama': dict(model='llama', tokens=['<s>', '</s>', '<unk>', '▁', 'a', 'b', '▁a', 'ab'], bos_token_id=0, eos_token_id=1,
                  token_type=[3, 3, 2, 1, 1, 1, 1, 1], scores=[-0.0, -1.0, -2.0, -3.0, -4.0, -5.0, -6.0, -7.0]),
    't5': dict(model='t5', tokens=['<pad>', '</s>', '<unk>', '▁', 'a', 'b', '▁a', 'ab'], eos_token_id=1, padding_token_id=0,
               token_type=[3, 3, 2, 1, 1, 1, 1, 1], scores=[0.0, 0.0, 0.0, -3.0, -4.0, -5.0, -2.0, -4.5]),
}


def small(kind, **change):
  """The fields of a small tokenizer; `...` leaves one out."""
  return {f'tokenizer.ggml.{n}': v for n, v in (SMALL[kind] | change).items() if v is not ...}


@pytest.mark.quick
@pytest.mark.parametrize('kind, change, begins, ends', [
    ('gpt2', {}, True, False), ('gpt2', dict(add_bos_token=False), False, False),
    ('gpt2', dict(add_bos_token=...), False, False), ('gpt2', dict(add_bos_token=..., pre='llama-bpe'), True, False),
    ('gpt2', dict(add_eos_token=True), True, True),
    ('llama', {}, True, False), ('llama', dict(add_bos_token=False, add_eos_token=True), False, True),
    ('t5', {}, False, True), ('t5', dict(add_eos_token=False), False, False)])
def test_a_text_begins_and_ends_as_the_header_says_or_its_kind_does(kind, change, begins, ends):
  ours = gguf_tokenizer.from_gguf(small(kind, **change), 'FILE')
  inner = ours.encode('a')
  assert inner and not {0, 1} & {*inner}
  assert ours.hf('a')['input_ids'] == [0] * begins + inner + [1] * ends
  assert (ours.bos, ours.eos) == (0 if begins else None, 1)
  assert ours.prompt('a') == [0] * begins + inner


@pytest.mark.parametrize('model_type, kind, change', [
    ('gpt2', 'gpt2', {}), ('llama', 'gpt2', dict(pre='llama-bpe', add_bos_token=...)),
    ('qwen2', 'gpt2', dict(pre='qwen2', tokens=['<s>', '<|endoftext|>', *'abĠ12', 'ab', '12'], merges=['a b', '1 2'])),
    ('llama', 'llama', {}), ('gemma', 'llama', dict(add_space_prefix=False)),
    ('gemma3_text', 'llama', dict(add_space_prefix=False)), ('t5', 't5', dict(remove_extra_whitespaces=True))])
def test_a_saved_tokenizer_is_the_same_when_transformers_reads_it_again(tmp_path, model_type, kind, change):
  ours = gguf_tokenizer.from_gguf(small(kind, **change), 'FILE')
  ours.hf.save_pretrained(tmp_path)
  (tmp_path / 'config.json').write_text(json.dumps({'model_type': model_type}))
  again = tokenizer.from_folder(tmp_path)
  assert (again.eos, again.bos, again.size) == (ours.eos, ours.bos, ours.size)
  for text in ('', 'a', ' ab  a', 'abab</s> a', '12 ab', 'é'):
    assert again.hf(text)['input_ids'] == ours.hf(text)['input_ids']
    assert again.decode(again.encode(text)) == ours.decode(ours.encode(text))


@pytest.mark.quick
def test_digits_stand_alone_where_smollm_cuts_and_together_where_gpt2_does():
  assert gguf_tokenizer.from_gguf(small('gpt2'), 'FILE').encode('ab12') == [4, 6, 7]
  assert gguf_tokenizer.from_gguf(small('gpt2', pre='gpt-2'), 'FILE').encode('ab12') == [4, 8]


@pytest.mark.quick
def test_bos_begins_a_text_once():
  with_bos = gguf_tokenizer.from_gguf(small('gpt2'), 'FILE')
  assert with_bos.prompt('ab') == [0, 4] and with_bos.prompt('<s>ab') == [0, 4] and with_bos.prompt('') == [0]
  without = gguf_tokenizer.from_gguf(small('gpt2', add_bos_token=False), 'FILE')
  assert without.prompt('ab') == [4] and without.prompt('<s>ab') == [0, 4]


# What is refused

def refused(fields, *saying):
  with pytest.raises(InputError, match=r'^FILE: ') as e:
    gguf_tokenizer.from_gguf(fields, 'FILE')
  assert len(str(e.value).splitlines()) == 1
  for words in saying:
    assert words in str(e.value)


@pytest.mark.quick
@pytest.mark.parametrize('pre', ['deepseek-coder', 'tekken', 'gpt-4o'])
def test_an_unknown_way_to_cut_text_is_refused_by_name(pre):
  refused(small('gpt2', pre=pre), f'tokenizer.ggml.pre={pre!r} is not supported', 'smollm',
          'gpt-2', 'llama-bpe', 'qwen2')


@pytest.mark.quick
def test_the_token_that_ends_a_turn_ends_an_answer():
  assert gguf_tokenizer.from_gguf(small('gpt2'), 'FILE').ends == (1,)
  assert gguf_tokenizer.from_gguf(small('gpt2', eot_token_id=0), 'FILE').ends == (1, 0)
  refused(small('gpt2', eot_token_id=99), 'eot_token_id=99')


@pytest.mark.quick
@pytest.mark.parametrize('model', ['bert', 'rwkv', ...])
def test_an_unknown_kind_of_vocabulary_is_refused_by_name(model):
  refused(small('gpt2', model=model), f'tokenizer.ggml.model={None if model is ... else model!r} is not supported', 'gpt2',
          'llama', 't5')


@pytest.mark.quick
@pytest.mark.parametrize('kind, field', [
    *((kind, field) for kind in SMALL for field in ('tokens', 'token_type', 'eos_token_id')), ('gpt2', 'merges'),
    ('llama', 'scores'), ('t5', 'scores')])
def test_a_tokenizer_that_lacks_a_part_is_refused(kind, field):
  refused(small(kind, **{field: ...}), f'lacks tokenizer.ggml.{field}')


@pytest.mark.quick
@pytest.mark.parametrize('kind', ['llama', 't5'])
def test_a_sentencepiece_vocabulary_without_an_unknown_token_is_refused(kind):
  refused(small(kind, token_type=[3, 3, 1, 1, 1, 1, 1, 1]), 'lacks tokenizer.ggml.unknown_token_id')


@pytest.mark.quick
@pytest.mark.parametrize('kind, change', [
    ('gpt2', dict(tokens='abc')), ('gpt2', dict(tokens=[1, 2, 3])), ('gpt2', dict(token_type=[3, 3])),
    ('gpt2', dict(merges=[1])), ('gpt2', dict(merges=['ab'])), ('gpt2', dict(eos_token_id=9)), ('gpt2', dict(bos_token_id=-1)),
    ('gpt2', dict(padding_token_id='0')), ('gpt2', dict(add_bos_token=1)), ('gpt2', dict(pre=3)),
    ('llama', dict(scores=[0.0])), ('llama', dict(scores=[float('nan')] * 8)), ('llama', dict(add_space_prefix='yes')),
    ('t5', dict(scores=['0'] * 8)), ('t5', dict(unknown_token_id=8))])
def test_a_field_of_the_wrong_kind_is_refused_by_name(kind, change):
  refused(small(kind, **change), f'tokenizer.ggml.{next(iter(change))}')


@pytest.mark.quick
@pytest.mark.parametrize('kind, change', [
    ('gpt2', dict(merges=['a a'])), ('t5', dict(precompiled_charsmap=[1, 2, 3])), ('t5', dict(precompiled_charsmap=[300] * 8))])
def test_what_the_tokenizers_library_refuses_is_refused_in_one_line(kind, change):
  refused(small(kind, **change), 'the tokenizer is broken')


@pytest.mark.quick
def test_scores_that_say_no_order_are_refused():
  refused(small('llama', scores=[-1000.0] * 8), 'tokenizer.ggml.scores')


@pytest.mark.quick
def test_a_chat_template_that_is_no_text_is_refused():
  refused({**small('gpt2'), 'tokenizer.chat_template': 3}, 'tokenizer.chat_template')


ALIASES = {'smollm': ['starcoder', 'refact', 'codeshell', 'exaone', 'minerva-7b'],
           'gpt-2': ['phi-2', 'jina-es', 'jina-de', 'jina-v2-es', 'jina-v2-de', 'gigachat', 'a.x-4.0', 'mellum', 'exaone4'],
           'llama-bpe': ['falcon3', 'falcon-h1', 'pixtral', 'midm-2.0', 'lfm2'],
           'qwen2': ['deepseek-r1-qwen', 'kormo', 'f2llmv2', 'megrez']}


@pytest.mark.quick
@pytest.mark.parametrize('alias, pre', [(alias, pre) for pre, aliases in ALIASES.items() for alias in aliases])
def test_another_name_of_a_way_to_cut_texts_gives_the_same_ids(learned, alias, pre):
  header = lambda name: {f'tokenizer.ggml.{n}': v for n, v in byte_level(learned, name).items()}
  ours, other = (gguf_tokenizer.from_gguf(header(name), 'FILE') for name in (pre, alias))
  assert other.fingerprint() == ours.fingerprint() and other.bos == ours.bos


@pytest.mark.quick
@pytest.mark.parametrize('pre', ['default', ...])
@pytest.mark.parametrize('architecture, tokens, meant', [
    ('qwen2', [], 'qwen2'), ('qwen3', [], 'qwen2'), ('gpt2', [], 'gpt-2'), ('llama', ['<|begin_of_text|>'], 'llama-bpe'),
    ('llama', ['<reponame>', '<gh_stars>'], 'smollm'), ('llama', [], None), ('gemma', [], None)])
def test_a_header_that_does_not_say_how_texts_are_cut_is_read_by_what_leaves_one_answer(architecture, tokens, meant, pre):
  change = {'tokens': [*SMALL['gpt2']['tokens'], *tokens], 'token_type': [*SMALL['gpt2']['token_type'], *[3] * len(tokens)]}
  of = lambda pre: {'general.architecture': architecture, **small('gpt2', pre=pre, **change)}
  if meant is None:
    refused(of(pre), 'lacks tokenizer.ggml.pre', 'gguf-new-metadata --pre-tokenizer NAME OLD NEW', 'smollm, gpt-2, llama-bpe')
  else:
    assert gguf_tokenizer.from_gguf(of(pre), 'FILE').fingerprint() == gguf_tokenizer.from_gguf(of(meant), 'FILE').fingerprint()
