"""The fields of a GGUF header that carry a tokenizer: the inverse of `gguf_tokenizer`, which has to read the same ids again."""

import base64
import json
from typing import Any

from research.data import gguf_tokenizer
from research.data.gguf_tokenizer import PRE_TOKENIZERS
from research.data.tokenizer import Tokenizer
from research.errors import InputError

_NORMAL, _UNKNOWN, _CONTROL, _WRITTEN_OUT, _UNUSED, _BYTE = range(1, 7)   # tokenizer.ggml.token_type
# Texts that a vocabulary that is cut, joined or normalised otherwise reads otherwise.
PROBES = (
    'Hello world', ' a  b   c ', "I'LL'S we're", '12345678901 3.14', 'a\r\nb\n\n\tc',
    'Ünïcode – naïve \ufb01 \uff46\uff55 全角 日本語', 'e\u0301 \xe9', '\u3000x\u200b…', '=-' * 8,
    'def f(x):\n    return x ** 2\n', '\U0001f642\U0001f44d\U0001f3fd', 'abab' * 9,
    ' ' * 20, 'İstanbul ß', '$100,000.00!?', 'x' * 40)


def fields(tokenizer: Tokenizer, rows: int, also: tuple[str, ...] = ()) -> dict[str, Any]:
  """The header's fields by name, of a tokenizer that is byte-level BPE, or SentencePiece's BPE or unigram model.

  Args:
    tokenizer: the model's.
    rows: of its embedding; where there are more than tokens, names fill the list up.
    also: further texts that the header's tokenizer has to read as this one does.
  Raises:
    InputError: it is of another kind, or no field says how it cuts or normalises texts.
  """
  hf = tokenizer.hf
  if not hasattr(hf, 'backend_tokenizer'):
    raise InputError(f'--format=gguf: a tokenizer of the class {type(hf).__name__} has no form in GGUF (known: byte-level BPE, '
                     'SentencePiece\'s BPE and unigram model); use --format=hf')
  said = json.loads(hf.backend_tokenizer.to_str())
  kind = said['model'].get('type')
  level = 'ByteLevel' in json.dumps(said['pre_tokenizer'])
  makers = {'BPE': _byte_level if level else _sentencepiece_bpe, 'Unigram': _unigram}
  if kind not in makers:
    raise InputError(f'--format=gguf: a tokenizer of the kind {kind} has no form in GGUF (known: byte-level BPE, '
                     'SentencePiece\'s BPE and unigram model); use --format=hf')
  found = {**makers[kind](tokenizer, said, _tokens(tokenizer, said, rows)), **_special(tokenizer)}
  made = {f'tokenizer.ggml.{name}': value for name, value in found.items()}
  template = hf.chat_template.get('default') if isinstance(hf.chat_template, dict) else hf.chat_template
  made |= {'tokenizer.chat_template': template} if template else {}
  _check(tokenizer, made, (*PROBES, *_added(said), *also))
  return made


def _tokens(tokenizer: Tokenizer, said: dict[str, Any], rows: int) -> dict[str, Any]:
  """Texts and types of all tokens below `rows`; a number that no token has is named [PADn].

  Args:
    tokenizer: the model's.
    said: its rules.
    rows: of its embedding.
  """
  texts = {i: text for text, i in tokenizer.hf.get_vocab().items()}
  kinds = {one['id']: _CONTROL if one['special'] else _WRITTEN_OUT for one in said['added_tokens']}
  unknown = tokenizer.hf.unk_token_id
  if unknown is not None and (said['model']['type'] != 'BPE' or said['model'].get('byte_fallback')):
    kinds[unknown] = _UNKNOWN
  if said['model'].get('byte_fallback'):
    kinds |= {i: _BYTE for i in (tokenizer.hf.get_vocab().get(f'<0x{b:02X}>') for b in range(256)) if i is not None}
  return {'tokens': [texts.get(i, f'[PAD{i}]') for i in range(rows)],
          'token_type': [kinds.get(i, _NORMAL) if i in texts else _UNUSED for i in range(rows)]}


def _special(tokenizer: Tokenizer) -> dict[str, Any]:
  """The special tokens' ids, and what stands around a text."""
  hf, others = tokenizer.hf, [i for i in tokenizer.other_ends if i != tokenizer.eos]
  ids = {'bos': hf.bos_token_id, 'eos': tokenizer.eos, 'padding': hf.pad_token_id, 'unknown': hf.unk_token_id,
         'eot': others[0] if others else None}
  written = hf('a')['input_ids']
  return {f'{name}_token_id': i for name, i in ids.items() if i is not None and i < tokenizer.size} | {
      'add_bos_token': tokenizer.bos is not None, 'add_eos_token': written[-1:] == [tokenizer.eos]}


def _byte_level(tokenizer: Tokenizer, said: dict[str, Any], tokens: dict[str, Any]) -> dict[str, Any]:
  """As llama.cpp has GPT-2's kind, under the name by which it cuts texts so.

  Args:
    tokenizer: the model's.
    said: its rules.
    tokens: from `_tokens`.
  Raises:
    InputError: no name stands for how it cuts texts.
  """
  merges = [' '.join(merge) if isinstance(merge, list) else merge for merge in said['model']['merges']]
  found = {'model': 'gpt2', **tokens, 'merges': merges}
  of = lambda name: gguf_tokenizer.from_gguf({f'tokenizer.ggml.{n}': x for n, x in {
      'model': 'gpt2', 'pre': name, 'tokens': ['a', 'b'], 'token_type': [1, 1], 'merges': [], 'eos_token_id': 0}.items()}, '')
  for name, pre in PRE_TOKENIZERS.items():
    rules = json.loads(of(name).hf.backend_tokenizer.to_str())
    same_cut = _bare(rules['pre_tokenizer']) == _bare(said['pre_tokenizer']) and rules['normalizer'] == said['normalizer']
    if not merges or (same_cut and pre.whole == bool(said['model'].get('ignore_merges'))):      # no merges: no cut is seen
      return found | {'pre': 'gpt-2' if not merges else name}
  raise InputError('--format=gguf: how this tokenizer cuts texts has no name in tokenizer.ggml.pre that is known here (known: '
                   f'{", ".join(PRE_TOKENIZERS)}); use --format=hf')


def _bare(rules: Any) -> Any:
  """Rules without what changes no ids: offsets, and a sequence of one."""
  if isinstance(rules, dict):
    bare = {name: _bare(x) for name, x in rules.items() if name != 'trim_offsets'}
    parts = bare.get('pretokenizers', [])
    return parts[0] if len(parts) == 1 else bare
  return [_bare(x) for x in rules] if isinstance(rules, list) else rules


def _around_blanks(tokenizer: Tokenizer) -> dict[str, Any]:
  """How SentencePiece treats the blanks of a text, seen in what it gives."""
  pieces = lambda text: tokenizer.hf.convert_ids_to_tokens(tokenizer.encode(text))
  joined = lambda text: ''.join(pieces(text))
  return {'pre': 'default', 'add_space_prefix': joined('a').startswith('▁'),
          'remove_extra_whitespaces': joined('a   a').count('▁') == joined('a a').count('▁')}


def _sentencepiece_bpe(tokenizer: Tokenizer, said: dict[str, Any], tokens: dict[str, Any]) -> dict[str, Any]:
  """Scores that give the merges in their order: a piece's is below those of all that are joined before it.

  Args:
    tokenizer: the model's.
    said: its rules.
    tokens: from `_tokens`.
  """
  rank: dict[str, int] = {}
  for merge in said['model']['merges']:
    rank.setdefault(''.join(merge) if isinstance(merge, list) else merge.replace(' ', '', 1), len(rank))
  last = len(rank)
  return {'model': 'llama', **tokens, 'scores': [-float(rank.get(text, last)) for text in tokens['tokens']],
          **_around_blanks(tokenizer)}


def _unigram(tokenizer: Tokenizer, said: dict[str, Any], tokens: dict[str, Any]) -> dict[str, Any]:
  """As llama.cpp has T5's kind: log-probabilities, and how characters are normalised.

  Args:
    tokenizer: the model's.
    said: its rules.
    tokens: from `_tokens`.
  """
  scores, charsmap = dict(map(tuple, said['model']['vocab'])), _charsmap(said['normalizer'])
  return {'model': 't5', **tokens, 'scores': [float(scores.get(text, -10_000.0)) for text in tokens['tokens']],
          **_around_blanks(tokenizer), **({'precompiled_charsmap': charsmap} if charsmap else {})}


def _charsmap(rules: Any) -> bytes:
  """SentencePiece's table of normalised characters among the normalisers; empty where there is none."""
  if isinstance(rules, dict):
    if rules.get('type') == 'Precompiled':
      return base64.b64decode(rules['precompiled_charsmap'])
    return next((found for one in rules.get('normalizers', ()) if (found := _charsmap(one))), b'')
  return b''


def _added(said: dict[str, Any]) -> tuple[str, ...]:
  """Texts around the tokens that stand whole, of which blanks beside them may be taken away."""
  return tuple(f'a {one["content"]} b{one["content"]}c' for one in said['added_tokens'][:64])


def _check(tokenizer: Tokenizer, made: dict[str, Any], texts: tuple[str, ...]) -> None:
  """Refuses fields that are read as another tokenizer.

  Args:
    tokenizer: the model's.
    made: the header's fields by whole name.
    texts: to compare on.
  Raises:
    InputError: the first text that gives other ids.
  """
  plain = {name: list(x) if isinstance(x, bytes) else x for name, x in made.items()}
  again = gguf_tokenizer.from_gguf(plain, '--format=gguf')._replace(appends_eos=tokenizer.appends_eos)
  for text in texts:
    if again.encode(text) != tokenizer.encode(text) or again.prompt(text) != tokenizer.prompt(text):
      raise InputError(f'--format=gguf: this tokenizer has no form in GGUF: read from there it would give other ids for '
                       f'{text!r:.60}; use --format=hf')
