"""The tokenizers that GGUF files carry: byte-level BPE, SentencePiece's BPE, SentencePiece's unigram model."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as RustTokenizer
from transformers import PreTrainedTokenizerFast

from research.data.tokenizer import Tokenizer, around
from research.errors import InputError


def _words(digits: str) -> pre_tokenizers.PreTokenizer:
  """Cuts as Llama 3 and Qwen do, but for how many digits stay together."""
  return pre_tokenizers.Sequence([
      pre_tokenizers.Split(Regex(r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|" + digits +
                                 r'| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+'), behavior='isolated'),
      pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


class Pre(NamedTuple):
  """How byte-level BPE prepares a text."""
  cut: Callable[[], pre_tokenizers.PreTokenizer]
  composed: bool = False        # Unicode's NFC first
  whole: bool = False           # a part that is a token becomes it, whether or not merges lead there
  bos: bool = False             # a text begins with BOS where the header does not say


# What llama.cpp calls `tokenizer.ggml.pre`: a name, and the others by which it cuts texts in the same way.
_NAMED = (
    (('smollm', 'starcoder', 'refact', 'codeshell', 'exaone', 'minerva-7b'), Pre(lambda: pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]))),
    (('gpt-2', 'phi-2', 'jina-es', 'jina-de', 'jina-v2-es', 'jina-v2-de', 'gigachat', 'a.x-4.0', 'mellum', 'exaone4'),
     Pre(lambda: pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True))),
    (('llama-bpe', 'llama3', 'llama-v3', 'falcon3', 'falcon-h1', 'pixtral', 'midm-2.0', 'lfm2'),
     Pre(partial(_words, r'\p{N}{1,3}'), whole=True, bos=True)),
    (('dbrx', 'smaug-bpe'), Pre(partial(_words, r'\p{N}{1,3}'))),
    (('qwen2', 'deepseek-r1-qwen', 'kormo', 'f2llmv2', 'megrez'), Pre(partial(_words, r'\p{N}'), composed=True)),
)
PRE_TOKENIZERS = {name: pre for names, pre in _NAMED for name in names}
_ABSENT = (None, 'default')      # as older files have it; llama.cpp then cuts by a rule that no model was made with
_NORMAL, _UNKNOWN, _CONTROL, _WRITTEN_OUT, _UNUSED, _BYTE = range(1, 7)   # tokenizer.ggml.token_type


class _Given(NamedTuple):
  """The tokenizer's fields in a GGUF header, each of the kind that it has to be."""
  fields: dict[str, Any]
  where: str
  tokens: tuple[str, ...] = ()
  types: tuple[int, ...] = ()

  def get(self, name: str, kind: type, default: Any = None) -> Any:
    value = self.fields.get(f'tokenizer.ggml.{name}', default)
    if value is not None and type(value) is not kind:
      raise InputError(f'{self.where}: tokenizer.ggml.{name}={value!r:.60}: must be {_KINDS[kind]}')
    return value

  def all(self, name: str, kind: type, length: int | None = None) -> list[Any]:
    """A list whose entries are of this kind; with `length`, as many of them.

    Args:
      name: of the field, without `tokenizer.ggml.`.
      kind: the entries' type, a key of `_KINDS`.
      length: how many there must be; None: any number.
    Raises:
      InputError: the field is missing or another list.
    """
    found = self.get(name, list)
    if found is None:
      raise InputError(f'{self.where}: the GGUF header lacks tokenizer.ggml.{name}')
    if not all(type(x) is kind for x in found) or length not in (None, len(found)):
      number = '' if length is None else f'{length} '
      raise InputError(f'{self.where}: tokenizer.ggml.{name}: must be {number}entries, each {_KINDS[kind]}')
    return found

  def token(self, name: str, default: int | None = None) -> int | None:
    """The id of a special token.

    Raises:
      InputError: no token has this id.
    """
    found = self.get(f'{name}_token_id', int, default)
    if found is not None and not 0 <= found < len(self.tokens):
      raise InputError(f'{self.where}: tokenizer.ggml.{name}_token_id={found}: there are {len(self.tokens)} tokens')
    return found

  def scores(self) -> list[float]:
    found = self.all('scores', float, length=len(self.tokens))
    if not all(map(math.isfinite, found)):
      raise InputError(f'{self.where}: tokenizer.ggml.scores: must be finite')
    return found

  def unknown(self) -> int:
    """The id of what the vocabulary cannot write.

    Raises:
      InputError: neither the header nor the tokens' types name one.
    """
    found = self.token('unknown', next((i for i, kind in enumerate(self.types) if kind == _UNKNOWN), None))
    if found is None:
      raise InputError(f'{self.where}: the GGUF header lacks tokenizer.ggml.unknown_token_id')
    return found


_KINDS = {str: 'a text', int: 'a whole number', float: 'a number', bool: 'true or false', list: 'a list'}


def from_gguf(fields: dict[str, Any], where: str) -> Tokenizer:
  """The tokenizer that a GGUF file carries: byte-level BPE, or SentencePiece's BPE or unigram model.

  Raises:
    InputError: the vocabulary is of another kind, lacks a part, or its `tokenizer.ggml.pre` is not in `PRE_TOKENIZERS`.
  """
  given = _Given(fields, where)
  kind = given.get('model', str)
  if kind not in _MODELS:
    raise InputError(f'{where}: tokenizer.ggml.model={kind!r} is not supported (known: gpt2, byte-level BPE; llama and t5, '
                     'SentencePiece\'s BPE and unigram model)')
  tokens = given.all('tokens', str)
  given = given._replace(tokens=tuple(tokens), types=tuple(given.all('token_type', int, length=len(tokens))))
  eos, bos = given.token('eos'), given.token('bos')
  if eos is None:
    raise InputError(f'{where}: the GGUF header lacks tokenizer.ggml.eos_token_id')
  template = fields.get('tokenizer.chat_template')
  if template is not None and not isinstance(template, str):
    raise InputError(f'{where}: tokenizer.chat_template={template!r:.60}: must be a text')
  try:
    rust, begins, ends = _MODELS[kind](given)
    rust.add_tokens([AddedToken(token, special=one != _WRITTEN_OUT, normalized=False)
                     for token, one in zip(tokens, given.types) if one in (_UNKNOWN, _CONTROL, _WRITTEN_OUT)])
    begins = bos is not None and given.get('add_bos_token', bool, begins)
    ends = given.get('add_eos_token', bool, ends)
    if begins or ends:
      rust.post_processor = around((tokens[bos], bos) if begins and bos is not None else None,
                                   (tokens[eos], eos) if ends else None)
  except InputError:
    raise
  except Exception as e:  # the library raises nothing more particular
    raise InputError(f'{where}: the tokenizer is broken ({(str(e).splitlines() or [""])[0]})') from None
  special = {'eos': eos, 'bos': bos, 'pad': given.token('padding', eos), 'unk': None if kind == 'gpt2' else given.unknown()}
  hf = PreTrainedTokenizerFast(
      tokenizer_object=rust, chat_template=template,
      **{f'{name}_token': None if i is None else tokens[i] for name, i in special.items()})
  turn = given.token('eot')
  return Tokenizer(hf, eos, bos if begins else None, len(tokens), other_ends=() if turn is None else (turn,))


def _byte_level(given: _Given) -> tuple[RustTokenizer, bool, bool]:
  """Byte-level BPE, and whether a text begins with BOS and ends with EOS where the header does not say.

  Raises:
    InputError: a way of cutting texts that is not in `PRE_TOKENIZERS`, or a merge that is not of two tokens.
  """
  name = given.get('pre', str)
  name = _told(given) if name in _ABSENT else name
  if name not in PRE_TOKENIZERS:
    raise InputError(f'{given.where}: tokenizer.ggml.pre={name!r} is not supported (known: {", ".join(PRE_TOKENIZERS)})')
  # GGUF holds no empty list, and a vocabulary of single bytes has nothing to merge.
  bare = 'tokenizer.ggml.merges' not in given.fields and all(
      len(token) == 1 for token, kind in zip(given.tokens, given.types) if kind == _NORMAL)
  pre, merges = PRE_TOKENIZERS[name], [tuple(merge.split(' ')) for merge in ([] if bare else given.all('merges', str))]
  if any(len(merge) != 2 for merge in merges):
    raise InputError(f'{given.where}: tokenizer.ggml.merges: each must be two tokens with a blank between them')
  rust = RustTokenizer(models.BPE(vocab=_vocabulary(given), merges=merges, ignore_merges=pre.whole))
  if pre.composed:
    rust.normalizer = normalizers.NFC()
  rust.pre_tokenizer = pre.cut()
  rust.decoder = decoders.ByteLevel()
  return rust, pre.bos, False


def _told(given: _Given) -> str:
  """How a file cuts texts that does not say it, where its architecture or its special tokens leave one answer.

  Raises:
    InputError: they leave several.
  """
  architecture, tokens = given.fields.get('general.architecture'), set(given.tokens)
  if architecture in ('qwen2', 'qwen3', 'gpt2'):
    return 'gpt-2' if architecture == 'gpt2' else 'qwen2'
  if '<|begin_of_text|>' in tokens:
    return 'llama-bpe'
  if {'<reponame>', '<gh_stars>'} <= tokens:
    return 'smollm'
  raise InputError(f'{given.where}: the GGUF header lacks tokenizer.ggml.pre, which says how texts are cut before they are '
                   'tokenised, and nothing else in it tells; write it into a copy: '
                   f'gguf-new-metadata --pre-tokenizer NAME OLD NEW (known: {", ".join(names[0] for names, _ in _NAMED)})')


def _vocabulary(given: _Given) -> dict[str, int]:
  """The tokens by text, without the names that fill up a vocabulary to the embedding's size."""
  return {token: i for i, (token, kind) in enumerate(zip(given.tokens, given.types)) if kind != _UNUSED}


def _sentencepiece_bpe(given: _Given) -> tuple[RustTokenizer, bool, bool]:
  """As `_byte_level`, for SentencePiece's BPE (Kudo & Richardson 2018, arXiv 1808.06226)."""
  rust = RustTokenizer(models.BPE(
      vocab=_vocabulary(given), merges=_merges(given), fuse_unk=True, byte_fallback=True,
      unk_token=given.tokens[given.unknown()]))
  _spaces(rust, given)
  return rust, True, False


def _merges(given: _Given) -> list[tuple[str, str]]:
  """SentencePiece joins the two neighbours that give the piece with the best score, wherever they are cut; so every way to
  cut a piece in two is a merge, the best pieces' first.

  Raises:
    InputError: all scores are the same.
  """
  score = {t: s for t, s, kind in zip(given.tokens, given.scores(), given.types) if kind == _NORMAL}
  if len(set(score.values())) < 2 < len(score):
    raise InputError(f'{given.where}: tokenizer.ggml.scores: all are the same, and so do not say which tokens to join first '
                     '(a converter without tokenizer.model writes such files); give the original folder')
  return [(piece[:cut], piece[cut:]) for piece in sorted(score, key=score.__getitem__, reverse=True)
          for cut in range(1, len(piece)) if piece[:cut] in score and piece[cut:] in score]


def _unigram(given: _Given) -> tuple[RustTokenizer, bool, bool]:
  """As `_byte_level`, for SentencePiece's unigram model (Kudo 2018, arXiv 1804.10959)."""
  rust = RustTokenizer(models.Unigram(list(zip(given.tokens, given.scores())), given.unknown(), _BYTE in given.types))
  _spaces(rust, given)
  return rust, False, True


def _spaces(rust: RustTokenizer, given: _Given) -> None:
  """SentencePiece writes a blank as U+2581; most vocabularies also put one before each text, or cut off superfluous ones."""
  steps, charsmap = [], given.fields.get('tokenizer.ggml.precompiled_charsmap')
  if charsmap:
    step = normalizers.Precompiled(bytes(given.all('precompiled_charsmap', int)))
    # The library takes these two for one character, and what becomes of the first for what becomes of both.
    steps += [normalizers.Replace('\r\n', step.normalize_str('\r') + step.normalize_str('\n')), step]
  if given.get('remove_extra_whitespaces', bool, False):
    steps += [normalizers.Replace(Regex(r'\A +| +\z'), ''), normalizers.Replace(Regex(' {2,}'), ' ')]
  prefix = given.get('add_space_prefix', bool, True)
  steps += [normalizers.Prepend('▁')] if prefix else []
  rust.normalizer = normalizers.Sequence([*steps, normalizers.Replace(' ', '▁')])
  rust.decoder = decoders.Sequence([decoders.Replace('▁', ' '), decoders.ByteFallback(), decoders.Fuse(),
                                    *([decoders.Strip(' ', 1, 0)] if prefix else [])])


_MODELS = {'gpt2': _byte_level, 'llama': _sentencepiece_bpe, 't5': _unigram}     # tokenizer.ggml.model
