"""From what the engine tells to responses in OpenAI's form."""

import base64
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from research.data.tokenizer import Tokenizer
from research.runs.generate import HALF
from research.serving.asked import CHOICES, Asked
from research.serving.how import Refused
from research.serving.requests import CANCELLED, FAILED, TIME, Ended, Piece, Ranked, Token


class Answer:
  """One answer as far as it has come."""

  def __init__(self, index: int, prompt: int):
    """
    Args:
      index: its number among all answers to the request.
      prompt: the number of its prompt.
    """
    self.index, self.prompt = index, prompt
    self.text = ''
    self.tokens: list[Token] = []      # with those of the prompt where they are told
    self.echoed = 0                    # of them, how many are the prompt's
    self.ranked: dict[str, float] = {}
    self.ended = ''

  def add(self, event: Piece | Ranked | Ended, echoes: int) -> None:
    """Takes what was told.

    Args:
      event: of this answer.
      echoes: tokens of the prompt that are told before the answer's.
    Raises:
      Refused: it came to no end.
    """
    if isinstance(event, Piece):
      self.text += event.text
      self.tokens += event.tokens
      self.echoed = min(len(self.tokens), echoes)
    elif isinstance(event, Ranked):
      self.ranked = event.log_likelihoods
    elif event.how == FAILED:
      raise Refused(f'the model could not answer: {event.error}', status=500, code='model_failed')
    elif event.how == TIME:
      raise Refused('the request took longer than a request may', status=503, code='timeout')
    elif event.how == CANCELLED:
      raise Refused('the server is being stopped; try again later', status=503, code='stopping')
    else:
      self.ended = event.how

  @property
  def written(self) -> list[Token]:
    """The answer's own tokens."""
    return self.tokens[self.echoed:]

  @property
  def log_probability(self) -> float | None:
    """Of the answer, in nats."""
    if self.ranked:
      return max(self.ranked.values())
    return math.fsum(token.log_probability or 0.0 for token in self.written)

  @property
  def best(self) -> str:
    """The answer's text; of ranked choices the likeliest."""
    return max(self.ranked, key=self.ranked.__getitem__) if self.ranked else self.text


def token_text(tokenizer: Tokenizer, token: int) -> str:
  """How a single token reads; half a character as its bytes, so that no two tokens read the same for that."""
  if token < 0:
    return f'<soft prompt {-token}>'
  text = str(tokenizer.hf.decode([token], clean_up_tokenization_spaces=False))
  return f'bytes:{tokenizer.hf.convert_ids_to_tokens(token)}' if HALF in text else text


def of_chat(tokens: Sequence[Token], tokenizer: Tokenizer) -> dict[str, Any]:
  """Log-probabilities as chats have them."""
  def one(token: int, log_probability: float | None) -> dict[str, Any]:
    text = token_text(tokenizer, token)
    return {'token': text, 'logprob': log_probability, 'bytes': [*text.encode()]}
  return {'content': [{**one(t.id, t.log_probability), 'top_logprobs': [one(*top) for top in t.top]} for t in tokens],
          'refusal': None}


def of_completion(tokens: Sequence[Token], tokenizer: Tokenizer, offset: int = 0) -> dict[str, Any]:
  """Log-probabilities as completions have them.

  Args:
    tokens: those of the piece.
    tokenizer: of the model.
    offset: characters that stand before it.
  """
  texts = [token_text(tokenizer, t.id) for t in tokens]
  ends = np.cumsum([offset, *map(len, texts)]).tolist()
  tops = [{token_text(tokenizer, token): value for token, value in (*t.top, (t.id, t.log_probability))} for t in tokens]
  return {'tokens': texts, 'token_logprobs': [t.log_probability for t in tokens], 'text_offset': ends[:-1],
          'top_logprobs': [None if t.log_probability is None else top for t, top in zip(tokens, tops)]}


def usage(asked: Asked, answers: Sequence[Answer]) -> dict[str, int]:
  """The tokens that were read and written."""
  read, written = sum(len(r.prompt) for r in asked.requests), sum(len(a.written) for a in answers)
  return {'prompt_tokens': read, 'completion_tokens': written, 'total_tokens': read + written}


def _head(asked: Asked, name: str, created: int, chunk: bool) -> dict[str, Any]:
  kind = ('chat.completion.chunk' if chunk else 'chat.completion') if asked.chat else 'text_completion'
  return {'id': name, 'object': kind, 'created': created, 'model': asked.model}


def response(asked: Asked, name: str, created: int, answers: Sequence[Answer], tokenizer: Tokenizer) -> dict[str, Any]:
  """A whole response.

  Args:
    asked: the request.
    name: its id.
    created: seconds since 1970.
    answers: all of them.
    tokenizer: of the model.
  """
  choices = [_choice(asked, a, tokenizer, name, len(answers)) for a in answers]
  return {**_head(asked, name, created, chunk=False), 'choices': choices, 'usage': usage(asked, answers)}


def answer_id(name: str, index: int, count: int) -> str:
  """By which feedback on one of several answers comes back.

  Args:
    name: the request's id, which is the answer's where there is but one.
    index: the answer's number.
    count: of the answers.
  """
  return name if count == 1 else f'{name}-{index}'


def _choice(asked: Asked, answer: Answer, tokenizer: Tokenizer, name: str, count: int) -> dict[str, Any]:
  found: dict[str, Any] = {'index': answer.index, 'finish_reason': answer.ended, 'logprobs': None,
                           'id': answer_id(name, answer.index, count)}
  if asked.endpoint == CHOICES:
    total = np.logaddexp.reduce([*answer.ranked.values()])
    found['ranked'] = [{'text': text, 'logprob': value, 'probability': float(np.exp(value - total))}
                       for text, value in sorted(answer.ranked.items(), key=lambda one: -one[1])]
  if asked.chat:
    if asked.tells:
      found['logprobs'] = of_chat(answer.written, tokenizer)
    return found | {'message': {'role': 'assistant', 'content': answer.best, 'refusal': None}}
  echo = asked.requests[answer.prompt].echo
  before = asked.texts[answer.prompt] if echo else ''
  if asked.tells:
    found['logprobs'] = of_completion(answer.tokens if echo else answer.written, tokenizer)
  return found | {'text': before + answer.best}


def chunk(asked: Asked, name: str, created: int, index: int, text: str, tokens: Sequence[Token], tokenizer: Tokenizer,
          offset: int = 0, ended: str | None = None, first: bool = False) -> dict[str, Any]:
  """What one answer has grown by, as a stream tells it.

  Args:
    asked: the request.
    name: its id.
    created: seconds since 1970.
    index: of the answer.
    text: that it has grown by.
    tokens: that it has grown by.
    tokenizer: of the model.
    offset: characters that stand before them.
    ended: how it ended, in the last chunk of it.
    first: whether it is the first chunk of it.
  """
  if asked.chat:
    delta = ({'role': 'assistant'} if first else {}) | ({'content': text} if text or first else {})
    said = of_chat(tokens, tokenizer) if asked.tells and tokens else None
    choice: dict[str, Any] = {'index': index, 'delta': delta, 'finish_reason': ended, 'logprobs': said}
  else:
    said = of_completion(tokens, tokenizer, offset) if asked.tells and tokens else None
    choice = {'index': index, 'text': text, 'finish_reason': ended, 'logprobs': said}
  return {**_head(asked, name, created, chunk=True), 'choices': [choice]}


def last_chunk(asked: Asked, name: str, created: int, answers: Sequence[Answer]) -> dict[str, Any]:
  """The end of a stream that tells what was used.

  Args:
    asked: the request.
    name: its id.
    created: seconds since 1970.
    answers: all of them.
  """
  return {**_head(asked, name, created, chunk=True), 'choices': [], 'usage': usage(asked, answers)}


def embeddings(asked: Asked, vectors: Sequence[Sequence[float]]) -> dict[str, Any]:
  """The response to a request for vectors."""
  coded = lambda v: base64.b64encode(np.asarray(v, '<f4').tobytes()).decode() if asked.base64 else [*v]
  read = sum(len(r.prompt) for r in asked.requests)
  return {'object': 'list', 'model': asked.model, 'usage': {'prompt_tokens': read, 'total_tokens': read},
          'data': [{'object': 'embedding', 'index': i, 'embedding': coded(v)} for i, v in enumerate(vectors)]}


def error(refused: Refused) -> dict[str, Any]:
  """The body of a response that refuses."""
  kinds = {401: 'authentication_error', 404: 'not_found_error', 429: 'rate_limit_error'}
  kind = kinds.get(refused.status, 'invalid_request_error' if refused.status < 500 else 'server_error')
  return {'error': {'message': refused.message, 'type': kind, 'param': refused.param, 'code': refused.code}}
