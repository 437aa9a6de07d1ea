"""Text and token ids."""

import base64
import json
import re

import pytest
from tokenizers import AddedToken, models, pre_tokenizers, processors
from tokenizers import Tokenizer as RustTokenizer

from research.data import gguf_tokenizer, sources, tokenizer
from research.errors import InputError

BY_HAND = [
    '', ' ', 'a', ' a', 'Hello, world!', '2024-11-22', 'a1b22c333', ' 1', '  12  345 ', 'x=3.14159', '½ ² ٣ 五',
    "don't you'll I'M we've", '😀', 'family: 👨‍👩‍👧‍👦 flag: 🇩🇪', 'Größe: 10 µm – „äöüß“',
    '日本語のテキスト', 'Здравствуй, мир',
    'def f(x):\n    return x ** 2  # 4 spaces\n', '\tif (a\t!= b) {\r\n\t\treturn;\n\t}', '\n\n\n', ' \n \t ',
    'a\u00a0b\u200bc',
    '{"key": [1, 2.5e-3, null]}', 'https://example.org/a?b=c&d=%20', 'AAAAAAAAAAAAAAAA', 'e\u0301 vs \u00e9',
    '<|im_start|>user\nhi<|im_end|>', 'not <|a|> special', ' leading and trailing ',
]


@pytest.fixture(scope='session')
def shipped():
  """Every text that ships with the package."""
  return sorted({value for name in ('sentiment_sentences', 'hass_ende', 'docstring_summary')
                 for rows in sources.sample(name).values() for row in rows for value in row.values()})


@pytest.fixture(scope='session')
def fields(smollm2_file):
  import gguf
  return {n: f.contents() for n, f in gguf.GGUFReader(smollm2_file).fields.items() if n.startswith('tokenizer.')}


@pytest.fixture(scope='session')
def ours(fields):
  return gguf_tokenizer.from_gguf(fields, 'SmolLM2')


@pytest.mark.smollm2
def test_ids_equal_an_independent_pipeline_on_all_shipped_text(ours, fields, shipped):
  tokens = fields['tokenizer.ggml.tokens']
  rust = RustTokenizer(models.BPE(vocab=dict(zip(tokens, range(len(tokens)))),
                                  merges=[tuple(m.split()) for m in fields['tokenizer.ggml.merges']]))
  rust.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
  rust.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in tokens[:17]])
  assert tokens[16].startswith('<') and fields['tokenizer.ggml.token_type'][:18] == [3] * 17 + [1]
  assert len(shipped) > 6000
  for text, expected in zip([*BY_HAND, *shipped], rust.encode_batch([*BY_HAND, *shipped])):
    assert ours.encode(text) == expected.ids, text


@pytest.mark.smollm2
@pytest.mark.parity
def test_ids_equal_what_transformers_reads_from_the_same_file(ours, smollm2_file, shipped):
  """But for several blanks before a digit, and for digits beyond 0-9: transformers' GGUF reader leaves out that SmolLM2
  cuts at digits first."""
  from transformers import AutoTokenizer
  theirs = AutoTokenizer.from_pretrained(smollm2_file.parent, gguf_file=smollm2_file.name)
  texts = [t for t in [*BY_HAND, *shipped]
           if not re.search(r'\s\s\d', t) and all(c.isascii() or not c.isnumeric() for c in t)]
  assert len(texts) > 6000
  for text in texts:
    assert ours.encode(text) == theirs.encode(text, add_special_tokens=False), text


@pytest.mark.smollm2
def test_smollm2_gives_back_every_text(ours, shipped):
  for text in [*BY_HAND, *shipped]:
    if '<|im_' not in text:
      assert ours.decode(ours.encode(text)) == text


@pytest.mark.smollm2
def test_smollm2_reads_written_out_special_tokens_and_has_no_bos(ours):
  ids = ours.prompt('<|im_start|>user\nhi<|im_end|>')
  assert ids[0] == 1 and ids[-1] == ours.eos == 2 and ours.bos is None
  assert ours.decode(ids) == 'user\nhi'
  assert ours.prompt('hi') == ours.encode('hi')


@pytest.mark.smollm2
def test_smollm2_chat_ends_where_the_answer_begins(ours):
  text = ours.chat([{'role': 'system', 'content': 'Be brief.'}, {'role': 'user', 'content': 'Hi'}])
  assert text == ('<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n')


def test_a_folder_adds_bos_where_its_own_post_processor_does(tmp_path):
  hf = tokenizer.of_bytes().hf
  hf.save_pretrained(tmp_path / 'with')
  hf.backend_tokenizer.post_processor = processors.TemplateProcessing(single='$A', special_tokens=[])
  hf.save_pretrained(tmp_path / 'without')
  without, added = (tokenizer.from_folder(tmp_path / f) for f in ('without', 'with'))
  assert without.prompt('hi') == [104, 105] == added.encode('hi')
  assert added.prompt('hi') == added.prompt('<bos>hi') == added.hf('hi')['input_ids'] == [256, 104, 105]
  assert (added.eos, added.size) == (257, 259)


def test_all_ends_that_a_folders_generation_config_names_end_an_answer(tmp_path):
  tokenizer.of_bytes().hf.save_pretrained(tmp_path)
  assert tokenizer.from_folder(tmp_path).ends == (257,) and tokenizer.generation(tmp_path) == {}
  for named, ends in (('[257, 10]', (257, 10)), ('10', (257, 10)), ('null', (257,)), ('[50256]', (257,))):
    (tmp_path / 'generation_config.json').write_text(f'{{"eos_token_id": {named}, "temperature": 0.6}}')
    assert tokenizer.from_folder(tmp_path).ends == ends
  for named in ('[-1]', '"x"', '[true]'):
    (tmp_path / 'generation_config.json').write_text(f'{{"eos_token_id": {named}}}')
    with pytest.raises(InputError, match='must be the number of a token'):
      tokenizer.from_folder(tmp_path)
  (tmp_path / 'generation_config.json').write_text('{')
  with pytest.raises(InputError, match='is not JSON'):
    tokenizer.from_folder(tmp_path)


def test_a_folder_whose_tokenizer_names_no_end_is_refused(tmp_path):
  hf = tokenizer.of_bytes().hf
  hf.eos_token = None
  hf.save_pretrained(tmp_path)
  with pytest.raises(InputError, match='eos_token'):
    tokenizer.from_folder(tmp_path)


@pytest.mark.quick
def test_the_byte_tokenizer_reads_bytes_and_gives_back_every_text(shipped):
  of_bytes = tokenizer.of_bytes()
  for text in [*BY_HAND, *shipped[::10]]:
    assert of_bytes.encode(text) == list(text.encode())
    assert of_bytes.decode(of_bytes.encode(text)) == text
  assert of_bytes.prompt('hi') == [256, 104, 105]
  assert of_bytes.decode([256, 104, 257, 105, 258]) == 'hi'


def test_a_tokenizer_of_which_a_library_in_rust_despairs_is_one_line(tmp_path):
  rules = json.loads(tokenizer.of_bytes().hf.backend_tokenizer.to_str())
  rules['normalizer'] = {'type': 'Precompiled', 'precompiled_charsmap': base64.b64encode(bytes(8)).decode()}
  tokenizer.of_bytes().hf.save_pretrained(tmp_path)
  (tmp_path / 'tokenizer.json').write_text(json.dumps(rules))
  with pytest.raises(InputError, match='no usable tokenizer'):
    tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize('text', ['[' * 100_000, '5', '{"eos_token_id": "x"}', None])
def test_a_generation_config_that_cannot_be_read_is_one_line(tmp_path, text):
  tokenizer.of_bytes().hf.save_pretrained(tmp_path)
  if text is None:
    (tmp_path / 'generation_config.json').mkdir()
  else:
    (tmp_path / 'generation_config.json').write_text(text)
  with pytest.raises(InputError, match=r'generation_config\.json'):
    tokenizer.from_folder(tmp_path)
