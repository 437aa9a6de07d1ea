"""A run as lm-evaluation-harness reads it: its `TemplateLM`, on our scoring and decoding, without torch.

Ids, cuts and stops are those of the harness's own backend (`hf`) on the folder that `export` writes, and so are
log-likelihoods.
"""

import json
import math
from collections.abc import Sequence
from typing import Any

from lm_eval import utils
from lm_eval.api.model import TemplateLM

from research.console import say
from research.data import batches, prompts
from research.data.tokenizer import Tokenizer
from research.errors import InputError
from research.evaluation import decode, harness, shared_prefix
from research.evaluation.score import document_losses_and_hits
from research.models.functions import Model
from research.tree import Tree

LONGEST = ('max_gen_toks', 'max_new_tokens', 'max_tokens', 'max_completion_tokens')      # the first that is given counts
LONGEST_ANSWER = 256      # tokens, where a task does not say
OF_SAMPLING = ('top_p', 'top_k', 'min_p')      # which say nothing where nothing is drawn
NEUTRAL = {'num_beams': 1, 'repetition_penalty': 1.0, 'num_return_sequences': 1}


class HarnessModel(TemplateLM):  # type: ignore[misc]  # the harness is not looked into (setup.cfg)
  """One run, or a base model, that the harness asks."""

  def __init__(self, model: Model, variables: Tree, tokenizer: Tokenizer, max_length: int, slots: int = 0,
               batch_size: int = 16):
    """
    Args:
      model: of the run.
      variables: of the run.
      tokenizer: of the model.
      max_length: the most tokens that it reads at one time, those of a soft prompt not among them.
      slots: of a soft prompt, which stands before every context.
      batch_size: packed sequences (scoring) or prompts (generation) per batch; no result depends on it.
    """
    super().__init__()
    self.tokenizer = tokenizer.hf
    self.backend = 'seq2seq' if model.config.has_encoder else 'causal'
    self.max_length = max_length
    self._model, self._variables, self._tokenizer, self._batch_size = model, variables, tokenizer, batch_size
    self._places = prompts.placeholders(slots)

  @property
  def eot_token_id(self) -> int:
    """The token that ends a text."""
    return self._tokenizer.eos

  @property
  def prefix_token_id(self) -> int:
    """What stands before a text without context: BOS where the vocabulary has one, or else EOS."""
    bos = self._tokenizer.hf.bos_token_id
    return bos if isinstance(bos, int) and bos < self._tokenizer.size else self._tokenizer.eos

  @property
  def tokenizer_name(self) -> str:
    """Tells tokenizers and chat templates apart."""
    return f'{self._tokenizer.fingerprint()}-{self._tokenizer.template_fingerprint()}'

  def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
    """The turns in the model's chat template, up to where the answer begins, or goes on that the last turn has begun.

    A model without a template, and one that refuses these turns, is an `InputError`.
    """
    if add_generation_prompt:
      return self._tokenizer.chat(chat_history)
    *before, begun = chat_history
    return self._tokenizer.chat(before) + begun['content']

  def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
    """Ids of a text, as a prompt begins and, before an encoder, ends; without special tokens where that is asked for."""
    ids = self._tokenizer.encode(string)
    if add_special_tokens is False or not (ids or self._tokenizer.bos is not None or self._tokenizer.appends_eos):
      return ids
    return self._tokenizer.as_prompt(ids)

  def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
    """Of each continuation in its context: its log-likelihood, and whether it is what greedy decoding would write."""
    return super().loglikelihood(requests, disable_tqdm=disable_tqdm)

  def _loglikelihood_tokens(self, requests: Sequence[tuple[Any, list[int], list[int]]],
                            **kwargs: Any) -> list[tuple[float, bool]]:
    """The same of ids; a context that several continuations share is read once.

    Raises:
      InputError: a log-likelihood is not finite.
    """
    asked = [(self._kept(context, continuation), tuple(continuation)) for _, context, continuation in requests]
    answers: dict[tuple[int, ...], dict[tuple[int, ...], None]] = {}
    for context, continuation in asked:
      answers.setdefault(context, {})[continuation] = None
    told_of_cuts(sum(len(kept) < len(context) for (kept, _), (_, context, _) in zip(asked, requests)), len(requests))
    read = [[*self._places, *context] for context in answers]
    variables, cut = shared_prefix.read(self._model, self._variables, read)
    documents = [batches.prompt_with_answers(ids[cut:], [*map(list, some)], self._model.config.decoder_start_id)
                 for ids, some in zip(read, answers.values())]
    losses = document_losses_and_hits(self._model, variables, documents, self._batch_size, 'lm_eval: log-likelihoods')
    found = {}
    for (context, some), of_targets in zip(answers.items(), losses):
      at = 0
      for continuation in some:
        loss, hit = of_targets[:, at:at + len(continuation)]
        at += len(continuation)
        if not math.isfinite(loss.sum()):
          raise InputError(f'the log-likelihood of {self._tokenizer.decode(continuation)!r:.60} is not finite (NaN or '
                           f'infinite), so nothing is scored; {harness.NOT_FINITE}')
        found[context, continuation] = -float(loss.sum()), bool(hit.all())
    return [found[one] for one in asked]

  def _kept(self, context: list[int], continuation: list[int]) -> tuple[int, ...]:
    """A context's end, as much as the model can read with the continuation, whose last token is not read.

    Raises:
      InputError: there is nothing to score, or more than the model can read at one time.
    """
    if not continuation or len(continuation) > self.max_length:
      raise InputError(f'a continuation of {len(continuation)} tokens: must have from 1 to {self.max_length}, the model\'s '
                       f'context; it begins with {self._tokenizer.decode(continuation[:20])!r}')
    room = self.max_length if self.backend == 'seq2seq' else self.max_length + 1 - len(continuation)
    return tuple(context[-room:])

  def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[float]:
    """The log-likelihood of each text, in windows of what the model reads at one time; each token is predicted once."""
    windows = [[utils.make_disjoint_window(window) for window in utils.get_rolling_token_windows(
        self.tok_encode(request.args[0]), self.prefix_token_id, self.max_length, 1)] for request in requests]
    found = iter(self._loglikelihood_tokens([('', *window) for of_text in windows for window in of_text]))
    return [sum(next(found)[0] for _ in of_text) for of_text in windows]

  def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[str]:
    """The greedy continuation of each context, up to where one of its stops begins."""
    groups: dict[str, list[int]] = {}
    for number, request in enumerate(requests):
      groups.setdefault(json.dumps(request.args[1], sort_keys=True, default=str), []).append(number)
    found = {}
    for numbers in groups.values():
      until, longest = greedy(requests[numbers[0]].args[1])
      for number, text in zip(numbers, self._written([requests[n].args[0] for n in numbers], until, longest)):
        found[number] = text
    return [found[number] for number in range(len(requests))]

  def _written(self, contexts: Sequence[str], until: Sequence[str], longest: int) -> list[str]:
    """Answers of at most `longest` tokens.

    Raises:
      InputError: they leave no room for a context, or there is none.
    """
    room = self.max_length if self.backend == 'seq2seq' else self.max_length - longest
    if room < 1:
      raise InputError(f'max_gen_toks={longest}: leaves no room for a context among the {self.max_length} tokens that the '
                       'model reads at one time; set generation_kwargs.max_gen_toks in the task\'s file')
    whole = [self.tok_encode(context) for context in contexts]
    if not all(whole):
      raise InputError('a context is empty, and the model has no token for a text to begin with')
    told_of_cuts(sum(len(ids) > room for ids in whole), len(whole))
    read = [[*self._places, *ids[-room:]] for ids in whole]
    variables, cut = shared_prefix.read(self._model, self._variables, read)
    ids = decode.generate(self._model, variables, [one[cut:] for one in read], longest, self._ends(until), self._batch_size,
                          label='lm_eval: answers')
    return [harness.cut(self._tokenizer.decode(one), until) for one in ids]

  def _ends(self, until: Sequence[str]) -> list[int]:
    """The tokens that end an answer: the tokenizer's, and stops that are one token, after which nothing is kept."""
    ends = dict.fromkeys(self._tokenizer.ends)
    for stop in until:
      ids = self._tokenizer.encode(stop)
      if len(ids) == 1 and (self._tokenizer.is_special(ids[0]) or self._tokenizer.decode(ids) == stop):
        ends[ids[0]] = None
    return [*ends]


def greedy(given: dict[str, Any]) -> tuple[list[str], int]:
  """(stops, the most tokens) of a task's generation_kwargs.

  Raises:
    InputError: they ask for something else than greedy decoding.
  """
  said = {name: value for name, value in given.items() if value is not None}
  until = said.pop('until', [])
  longest = [int(said.pop(name)) for name in LONGEST if name in said]
  temperature, draws = float(said.pop('temperature', 0.0)), said.pop('do_sample', None)
  if draws or (draws is None and temperature > 0):
    raise InputError(f'generation_kwargs: do_sample={draws}, temperature={temperature:g}: answers are decoded greedily here; '
                     'set do_sample: false in a copy of the task\'s file, in --include_path')
  other = [f'{name}={value!r}' for name, value in said.items() if name not in OF_SAMPLING and NEUTRAL.get(name) != value]
  if other:
    raise InputError(f'generation_kwargs: {other[0]}: not supported; answers are decoded greedily, by until and max_gen_toks')
  stops = [until] if isinstance(until, str) else until
  return [stop for stop in stops if stop], longest[0] if longest else LONGEST_ANSWER


def told_of_cuts(cut: int, count: int) -> None:
  """Says how many contexts lost their beginning, where some did."""
  if cut:
    say(f'lm_eval: {cut} of {count} contexts are longer than the model reads at one time, and lost their beginning')
