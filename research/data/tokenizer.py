"""Text <-> token ids, the same interface whatever file the vocabulary came from."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors
from tokenizers import Tokenizer as RustTokenizer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from research.errors import InputError


class Tokenizer(NamedTuple):
  """A transformers tokenizer with the few facts about it that the rest of the code needs."""
  hf: PreTrainedTokenizerBase
  eos: int                      # ends every answer, trained with it
  bos: int | None               # begins every text, or None where the model was trained without
  size: int                     # ids are below this
  appends_eos: bool = False          # prompts end with EOS too: an encoder reads them
  other_ends: tuple[int, ...] = ()      # tokens that end an answer where the model writes them, beside EOS

  @property
  def ends(self) -> tuple[int, ...]:
    """The tokens that end an answer, EOS first."""
    return tuple(dict.fromkeys((self.eos, *self.other_ends)))

  def encode(self, text: str) -> list[int]:
    """Ids of `text` alone: no special token is added, but those written out in it are read as such.

    A text with a token that the model has no embedding for is refused (`InputError`).
    """
    return self.encode_all([text])[text]

  def encode_all(self, texts: Iterable[str]) -> dict[str, list[int]]:
    """What `encode` gives for every text: each once, all at one time; refused (`InputError`) as in `known`."""
    distinct = list(dict.fromkeys(texts))
    found = dict(zip(distinct, self.hf(distinct, add_special_tokens=False)['input_ids'])) if distinct else {}
    self.known([max(ids) for ids in found.values() if ids])
    return found

  def known(self, ids: list[int]) -> list[int]:
    """The ids of a text, as they are.

    Raises:
      InputError: the model has no embedding for one of them: some files' tokenizers have more tokens than rows.
    """
    largest = max(ids, default=0)
    if largest >= self.size:
      raise InputError(f'the model has no embedding for {self.hf.convert_ids_to_tokens(largest)!r}, which a text contains')
    return ids

  def prompt(self, text: str) -> list[int]:
    """Ids of `text` as a model reads its prompts (see `as_prompt`)."""
    return self.as_prompt(self.encode(text))

  def as_prompt(self, ids: list[int]) -> list[int]:
    """A text's ids as a model reads its prompts: with BOS where it has one, never with two; with EOS before an encoder."""
    bos = self.bos if ids or self.appends_eos else self.hf.bos_token_id   # an empty prompt begins with BOS where there is one
    if bos is not None and bos < self.size and ids[:1] != [bos]:
      ids = [bos, *ids]
    return [*ids, self.eos] if self.appends_eos else ids

  def answers(self, texts: Iterable[str]) -> dict[str, list[int]]:
    """Ids of texts as they follow a prompt.

    Some vocabularies put a blank before each text that is tokenised by itself, which what follows a prompt must not have.
    """
    distinct = list(dict.fromkeys(texts))
    if self.appends_eos or self.encode('x y') == [*self.encode('x'), *self.encode(' y')]:
      return self.encode_all(distinct)
    before = self.encode(BEFORE)
    found = self.encode_all([BEFORE + text for text in distinct])
    ids = {text: found[BEFORE + text] for text in distinct}
    own = lambda text: ids[text][len(before):] if ids[text][:len(before)] == before else self.encode(text)
    return {text: own(text) for text in distinct}

  def end_of_turn(self) -> int:
    """The token that the chat template ends an assistant's turn with; EOS where it has none for that."""
    return self._end_of_turn()[0]

  def closing(self) -> str:
    """What the chat template writes after what an assistant says, up to the token that ends its turn; nothing without one."""
    return self._end_of_turn()[1]

  def _end_of_turn(self) -> tuple[int, str]:
    self._check_template()
    said = '§'
    text = self._rendered([{'role': 'user', 'content': 'a'}, {'role': 'assistant', 'content': said}])
    special = {i: token.content for i, token in self.hf.added_tokens_decoder.items() if token.special}
    after = text.rpartition(said)[2] if said in text else ''
    end = next((i for i in self.encode(after) if i in special), None)
    return (self.eos, '') if end is None else (end, after[:after.find(special[end])] + special[end])

  def is_special(self, token: int) -> bool:
    return token in self.hf.all_special_ids or token in self.ends

  def decode(self, ids: Iterable[int]) -> str:
    """Text of `ids`, special tokens left out."""
    return self.hf.decode(  # type: ignore[return-value]  # a list of ids gives one text, a list of lists several
        list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)

  def chat(self, messages: list[dict[str, str]]) -> str:
    """The prompt that the chat template makes of `messages`, up to where the assistant's answer begins.

    A template that is not there, or that refuses these turns, is an `InputError`.
    """
    self._check_template()
    return self._rendered(messages, add_generation_prompt=True)

  def conversation(self, messages: list[dict[str, str]]) -> str:
    """All of `messages` as the chat template writes them; refused (`InputError`) as in `chat`."""
    self._check_template()
    return self._rendered(messages)

  def _check_template(self) -> None:
    if not self.hf.chat_template:
      raise InputError('the model\'s tokenizer carries no chat template, which a task with messages needs')

  def _rendered(self, messages: list[dict[str, str]], add_generation_prompt: bool = False) -> str:
    try:
      text = self.hf.apply_chat_template(messages, tokenize=False, add_generation_prompt=add_generation_prompt)
    except Exception as e:  # a template is a program, and raises what its author chose
      raise InputError('the model\'s chat template refuses these turns '
                       f'({", ".join(turn["role"] for turn in messages)}): {" ".join(str(e).split()):.300}') from None
    assert isinstance(text, str)      # it is not tokenised
    return text

  def fingerprint(self) -> str:
    """Hash of vocabulary, merges and rules."""
    if hasattr(self.hf, 'backend_tokenizer'):
      rules = self.hf.backend_tokenizer.to_str()
    else:                                         # one of transformers' own in Python, such as ByT5's
      rules = type(self.hf).__name__ + json.dumps(self.hf.get_vocab(), sort_keys=True)
    return hashlib.sha256(rules.encode()).hexdigest()[:16]

  def template_fingerprint(self) -> str:
    """Hash of the chat template, and of the tokens that begin and end texts."""
    said = json.dumps([self.hf.chat_template, self.eos, self.bos, self.appends_eos, self.other_ends], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()[:16]


BEFORE = '\n'      # what stands before an answer while it is tokenised: vocabularies join a line break with nothing


def from_folder(folder: Path) -> Tokenizer:
  """The tokenizer of a Hugging Face folder; BOS is added where its own post-processor adds it.

  What its generation_config.json names as ends of an answer are some, EOS or not.

  Raises:
    InputError: the folder holds no tokenizer that can be read, or one without EOS.
  """
  from transformers import AutoTokenizer  # imports torch where there is one, which takes seconds and is not needed
  try:
    hf = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    first = hf('a')['input_ids'][:1]
  except BaseException as e:  # whatever the libraries raise at a broken file, the person's remedy is the same
    if not isinstance(e, Exception) and type(e).__name__ != 'PanicException':      # that of a library in Rust
      raise
    raise InputError(f'{folder}: no usable tokenizer ({type(e).__name__}: {(str(e).splitlines() or [""])[0]})') from None
  if hf.eos_token_id is None:
    raise InputError(f'{folder}: the tokenizer names no eos_token, without which no answer can end')
  begins = first == [hf.bos_token_id]
  ends = generation(folder).get('eos_token_id')
  ends = [ends] if isinstance(ends, int) else ends or []
  if not isinstance(ends, list) or not all(type(i) is int and i >= 0 for i in ends):
    raise InputError(f'{folder}: generation_config.json: eos_token_id={ends!r:.60}: must be the number of a token, or several')
  there = tuple(i for i in ends if i < len(hf))      # transformers writes its defaults into the files of small vocabularies too
  return Tokenizer(hf, hf.eos_token_id, hf.bos_token_id if begins else None, len(hf), other_ends=there)


def generation(folder: Path) -> dict[str, Any]:
  """A model folder's generation_config.json; nothing where it has none.

  Raises:
    InputError: it is no JSON object.
  """
  path = folder / 'generation_config.json'
  if not path.exists():
    return {}
  try:
    found = json.loads(path.read_text(encoding='utf-8'))
  except OSError as e:
    raise InputError(f'{path}: cannot be read ({e.strerror})') from None
  except (ValueError, RecursionError) as e:
    raise InputError(f'{path}: is not JSON ({e})') from None
  if not isinstance(found, dict):
    raise InputError(f'{path}: is not a JSON object')
  return found


BOS, EOS, PAD, BYTES = 256, 257, 258, 259   # of the byte tokenizer: its special tokens, and its ids before the sentinels


def of_bytes(sentinels: int = 0) -> Tokenizer:
  """Ids 0-255 are the bytes of UTF-8; 256, 257 and 258 are <bos>, <eos> and <pad>; then <extra_id_0>, …, as T5's.

  With sentinels a text begins without BOS and ends with EOS, otherwise the other way round.
  """
  alphabet = _byte_alphabet()
  rust = RustTokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
  rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
  rust.decoder = decoders.ByteLevel()
  extra = [sentinel(i) for i in range(sentinels)]
  rust.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in ('<bos>', '<eos>', '<pad>', *extra)])
  rust.post_processor = around(bos=None if sentinels else ('<bos>', BOS), eos=('<eos>', EOS) if sentinels else None)
  hf = PreTrainedTokenizerFast(tokenizer_object=rust, bos_token='<bos>', eos_token='<eos>', pad_token='<pad>')
  return Tokenizer(hf, eos=EOS, bos=None if sentinels else BOS, size=BYTES + sentinels)


def learned(texts: Iterable[str], size: int, sentinels: int = 0) -> Tokenizer:
  """Byte-level BPE with a vocabulary of `size` learned from texts, special tokens and sentinels as in `of_bytes`.

  Args:
    texts: what to learn from.
    size: the most tokens of the vocabulary, the bytes, special tokens and sentinels among them.
    sentinels: how many.
  Raises:
    InputError: `size` is below the number of bytes, special tokens and sentinels.
  """
  hf = of_bytes(sentinels).hf.train_new_from_iterator(texts, size, show_progress=False)
  if len(hf) > size:
    raise InputError(f'model.vocab={size}: must be at least {len(hf)}: the bytes and the special tokens')
  return Tokenizer(hf, hf.eos_token_id, None if sentinels else hf.bos_token_id, len(hf))


def sentinel(number: int) -> str:
  """How T5 vocabularies write the mark of the number-th gap in a text."""
  return f'<extra_id_{number}>'


def around(bos: tuple[str, int] | None, eos: tuple[str, int] | None) -> processors.TemplateProcessing:
  """What puts special tokens, each (text, id), around a text that is tokenised as a whole."""
  single = ' '.join([*([bos[0]] if bos else []), '$A', *([eos[0]] if eos else [])])
  return processors.TemplateProcessing(single=single, special_tokens=[x for x in (bos, eos) if x])


def _byte_alphabet() -> list[str]:
  """The character by which byte-level BPE writes each byte: printable ones as they are, the others from U+0100 on."""
  printable = {*range(ord('!'), ord('~') + 1), *range(ord('¡'), ord('¬') + 1), *range(ord('®'), ord('ÿ') + 1)}
  others = iter(range(256))
  return [chr(b) if b in printable else chr(256 + next(others)) for b in range(256)]


def dumps(tokenizer: Tokenizer) -> dict[str, Any]:
  """The tokenizer's rules as plain data, for comparison in tests and records."""
  return json.loads(tokenizer.hf.backend_tokenizer.to_str())
