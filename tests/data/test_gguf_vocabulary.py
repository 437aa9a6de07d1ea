"""A tokenizer written into a GGUF header is read from there as the same one, or refused."""

import pytest
from test_gguf_tokenizers import AWKWARD, KEPT, byte_level, learned, shipped, small, trained, written  # noqa: F401
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from research.data import gguf_tokenizer, gguf_vocabulary, tokenizer
from research.errors import InputError


def again(ours, rows=None):
  return gguf_tokenizer.from_gguf(as_read(gguf_vocabulary.fields(ours, rows or ours.size)), 'FILE')


def as_read(fields):
  return {name: list(x) if isinstance(x, bytes) else x for name, x in fields.items()}


def as_header(fields):
  return as_read({f'tokenizer.ggml.{name}': x for name, x in fields.items()})


@pytest.mark.quick
@pytest.mark.parametrize('kind, change', [
    ('gpt2', {}), ('gpt2', dict(add_bos_token=False)), ('gpt2', dict(pre='qwen2', eot_token_id=0)), ('llama', {}),
    ('llama', dict(add_space_prefix=False)), ('t5', {}), ('t5', dict(remove_extra_whitespaces=True))])
def test_a_tokenizer_comes_back_with_what_stands_around_a_text(kind, change):
  ours = gguf_tokenizer.from_gguf(small(kind, **change), 'FILE')
  found = again(ours)
  assert (found.eos, found.bos, found.size, found.other_ends) == (ours.eos, ours.bos, ours.size, ours.other_ends)
  for text in ('', 'a', ' ab  a', 'abab</s> a', '12 ab', 'é'):
    assert found.hf(text)['input_ids'] == ours.hf(text)['input_ids']


@pytest.mark.parametrize('pre', ['gpt-2', 'smollm', 'qwen2', 'llama-bpe', 'dbrx'])
def test_a_way_to_cut_texts_is_found_by_its_rules(learned, shipped, pre):  # noqa: F811
  ours = gguf_tokenizer.from_gguf(as_header(byte_level(learned, pre)), 'FILE')
  fields = gguf_vocabulary.fields(ours, ours.size + 3)
  assert fields['tokenizer.ggml.pre'] == pre
  assert fields['tokenizer.ggml.tokens'][-1] == f'[PAD{ours.size + 2}]' and fields['tokenizer.ggml.token_type'][-1] == 5
  found = gguf_tokenizer.from_gguf(fields, 'FILE')
  for text in [*AWKWARD, *shipped[::20]]:
    assert found.encode(text) == ours.encode(text), text


@pytest.mark.parity
@pytest.mark.parametrize('how, kind', [(dict(model_type='bpe', byte_fallback=True, **KEPT), 'llama'),
                                       (dict(model_type='unigram', pad_id=0, eos_id=1, unk_id=2, bos_id=-1), 't5')],
                         ids=['bpe', 'unigram'])
def test_sentencepieces_models_come_back(shipped, how, kind):  # noqa: F811
  from sentencepiece import sentencepiece_model_pb2
  sp = trained(shipped, vocab_size=1000, **how)
  proto = sentencepiece_model_pb2.ModelProto()
  proto.ParseFromString(sp.serialized_model_proto())
  charsmap = proto.normalizer_spec.precompiled_charsmap
  more = {'remove_extra_whitespaces': True, 'precompiled_charsmap': charsmap} if charsmap else {}
  ours = gguf_tokenizer.from_gguf(as_header(written(sp, kind, add_space_prefix=True, **more)), 'FILE')
  found = again(ours)
  for text in [*AWKWARD, *shipped[::10]]:
    assert found.encode(text) == ours.encode(text) == sp.encode(text), text


@pytest.mark.quick
def test_the_byte_tokenizers_of_random_models_come_back():
  for ours in (tokenizer.of_bytes(), tokenizer.of_bytes(3)._replace(appends_eos=True)):
    found = again(ours)._replace(appends_eos=ours.appends_eos)
    for text in ('Ünïcode', 'a<eos>b', '<extra_id_1>'):
      assert found.prompt(text) == ours.prompt(text)


@pytest.mark.quick
@pytest.mark.parametrize('rust, saying', [
    (RustTokenizer(models.WordPiece({'a': 0, '[UNK]': 1}, unk_token='[UNK]')), 'of the kind WordPiece'),
    (RustTokenizer(models.BPE({'a': 0, 'b': 1, 'ab': 2}, [('a', 'b')])), 'tokenizer.ggml.pre')])
def test_a_tokenizer_without_a_form_is_refused_by_name(rust, saying):
  rust.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Punctuation(), pre_tokenizers.ByteLevel()])
  hf = PreTrainedTokenizerFast(tokenizer_object=rust, eos_token='a')
  with pytest.raises(InputError, match='--format=hf') as e:
    gguf_vocabulary.fields(tokenizer.Tokenizer(hf, 0, None, len(hf)), len(hf))
  assert saying in str(e.value)
