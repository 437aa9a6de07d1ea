"""From the body of a request, in OpenAI's form, to what the engine is asked; what is wrong with it has a status and a name."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from research.data import chats, prompts, templates
from research.data.tasks import choices_of
from research.errors import InputError
from research.experiment.assemble import Experiment
from research.serving import how
from research.serving.how import Refused, field
from research.serving.models import Served
from research.serving.requests import Request

CHAT, COMPLETIONS, EMBEDDINGS, CHOICES = 'chat', 'completions', 'embeddings', 'choices'
MOST_ANSWERS, MOST_PROMPTS, MOST_CHOICES = 16, 128, 256      # of a request
COMMON = ('model', 'stream', 'stream_options', 'max_tokens', 'temperature', 'top_p', 'top_k', 'min_p', 'n', 'stop', 'seed',
          'logit_bias', 'presence_penalty', 'frequency_penalty', 'user', 'choices', 'row')
FIELDS = {CHAT: (*COMMON, 'messages', 'max_completion_tokens', 'logprobs', 'top_logprobs', 'response_format', 'metadata',
                 'store'),
          COMPLETIONS: (*COMMON, 'prompt', 'logprobs', 'echo', 'suffix', 'best_of'),
          EMBEDDINGS: ('model', 'input', 'encoding_format', 'dimensions', 'user')}
TOOLS = ('tools', 'tool_choice', 'functions', 'function_call', 'parallel_tool_calls')


class Limits(NamedTuple):
  """What a request may ask for."""
  context: int           # tokens of a prompt with its answer, in a slot
  prompt: int            # tokens of a prompt
  answer: int            # tokens of an answer
  seconds: float         # that a request may take


class Asked(NamedTuple):
  """A request as it was understood."""
  endpoint: str                      # CHAT, COMPLETIONS, EMBEDDINGS, or CHOICES where some are ranked
  model: str
  requests: tuple[Request, ...]      # one for each prompt
  texts: tuple[str, ...]             # of the prompts, as the model reads them
  chat: bool                         # whether the answer is a message
  stream: bool = False
  usage: bool = False                # whether a stream ends with what was used
  tells: bool = False                # whether log-probabilities are told
  row: dict[str, Any] | None = None
  messages: list[dict[str, str]] | None = None
  base64: bool = False               # of embeddings


def read(endpoint: str, body: Any, models: Mapping[str, Served], limits: Limits) -> Asked:
  """What a request asks for.

  Args:
    endpoint: CHAT, COMPLETIONS or EMBEDDINGS.
    body: as JSON gave it.
    models: that are served, by name.
    limits: of a request.
  Raises:
    Refused: something is wrong with it; says what, where, and what would be right.
  """
  if not isinstance(body, dict):
    raise Refused('the body must be a JSON object')
  body = {name: value for name, value in body.items() if value is not None}
  if tool := next((name for name in TOOLS if body.get(name)), None):
    raise Refused(f'{tool}: tool calls are not supported; leave it out', tool)
  body = {name: value for name, value in body.items() if name not in TOOLS}
  if unknown := next((name for name in body if name not in FIELDS[endpoint]), None):
    raise Refused(f'{unknown[:60]}: no such field (fields: {", ".join(FIELDS[endpoint])})', unknown[:60])
  name = field(body, 'model', str, '')
  if name not in models:
    raise Refused(f'the model {name[:100]!r} is not served (models: {", ".join(models)})' if name else
                  f'model: is missing (models: {", ".join(models)})', 'model', 404, 'model_not_found')
  exp = models[name].exp
  return _embeddings(body, name, exp, limits) if endpoint == EMBEDDINGS else _answers(endpoint, body, name, exp, limits)


def _answers(endpoint: str, body: dict[str, Any], name: str, exp: Experiment, limits: Limits) -> Asked:
  chat = endpoint == CHAT
  for other, only in (('suffix', ''), ('presence_penalty', 0), ('frequency_penalty', 0), ('best_of', body.get('n', 1)),
                      ('response_format', {'type': 'text'})):
    if other in body and body[other] != only:
      raise Refused(f'{other}: is not supported; leave it out', other)
  options = field(body, 'stream_options', dict, {})
  row, messages = field(body, 'row', dict, None), None
  if row is not None and ('prompt' in body or 'messages' in body):
    raise Refused('row: gives the prompt, as the task of the run asks it; leave out prompt and messages', 'row')
  if row is not None:
    texts: Sequence[str | list[int]] = [_refusing('row', lambda: _rendered(exp, row))]
  elif chat:
    messages = _messages(body)
    texts = [_refusing('messages', lambda: exp.tokenizer.chat(messages))]
  else:
    texts = _prompts(body, 'prompt', exp)
  ids = [_ids(text, exp, limits, 'messages' if chat else 'prompt') for text in texts]
  choices = _choices(body, row, exp)
  tells, tops, echo = how.log_probabilities(body, chat)
  if echo and exp.model.config.has_encoder:
    raise Refused('echo: an encoder reads the prompt, and gives its tokens no probability; leave it out', 'echo')
  decode = how.decoding_of(body, exp)
  stops = how.stops(body) + (exp.task.stop if row is not None else ())
  ends = (*exp.tokenizer.ends, *([exp.tokenizer.end_of_turn()] if messages or (row is not None and exp.task.chat) else []))
  asked = field(body, 'max_tokens', int, None, 0 if echo else 1, limits.answer)
  asked = field(body, 'max_completion_tokens', int, asked, 1, limits.answer)
  longest = max((len(of_choice) for _, of_choice in choices), default=0)
  room = [_room(one, longest if choices else asked, exp, limits) for one in ids]
  n = field(body, 'n', int, 1, 1, 1 if choices else MOST_ANSWERS)
  bias = how.bias(body, exp.tokenizer.size)
  made = [Request(name, tuple(one), 0 if choices else min(exp.task.max_new_tokens, left) if asked is None else asked,
                  tuple(dict.fromkeys(ends)), stops, decode, bias, n, tops, echo, choices,
                  deadline=time.monotonic() + limits.seconds) for one, left in zip(ids, room)]
  stream = field(body, 'stream', bool, False)
  if stream and choices:
    raise Refused('stream: choices are ranked at one time, and not written; leave it out', 'stream')
  said = [text if isinstance(text, str) else str(exp.tokenizer.hf.decode(text)) for text in texts]
  return Asked(CHOICES if choices else endpoint, name, tuple(made), tuple(said), chat, stream,
               field(options, 'include_usage', bool, False), tells, row, messages)


def _embeddings(body: dict[str, Any], name: str, exp: Experiment, limits: Limits) -> Asked:
  if 'dimensions' in body and body['dimensions'] != exp.model.config.width:
    raise Refused(f'dimensions: the vectors of this model have {exp.model.config.width}; leave it out', 'dimensions')
  form = field(body, 'encoding_format', str, 'float')
  if form not in ('float', 'base64'):
    raise Refused(f'encoding_format={form!r:.40}: must be float or base64', 'encoding_format')
  texts = _prompts(body, 'input', exp)
  ids = [_ids(text, exp, limits, 'input') for text in texts]
  for one in ids:
    _room(one, 0, exp, limits)
  made = [Request(name, tuple(one), embeds=True, deadline=time.monotonic() + limits.seconds) for one in ids]
  return Asked(EMBEDDINGS, name, tuple(made), tuple(map(str, texts)), chat=False, base64=form == 'base64')


def _refusing(param: str, make: Callable[[], Any]) -> Any:
  """What `make` gives.

  Raises:
    Refused: with what it refuses, of this field.
  """
  try:
    return make()
  except InputError as e:
    raise Refused(f'{param}: {e}', param) from None


def _prompts(body: dict[str, Any], name: str, exp: Experiment) -> list[str | list[int]]:
  """The texts, or token ids, of a field that takes one of them or a list.

  Raises:
    Refused: it holds something else.
  """
  given = body.get(name)
  are_ids = lambda x: isinstance(x, list) and bool(x) and all(isinstance(i, int) and not isinstance(i, bool) for i in x)
  found = [given] if isinstance(given, str) or are_ids(given) else given
  if not isinstance(found, list) or not found or not all(isinstance(x, str) or are_ids(x) for x in found):
    raise Refused(f'{name}: must be a text, a list of texts, or token ids' if name in body else f'{name}: is missing', name)
  if len(found) > MOST_PROMPTS:
    raise Refused(f'{name}: {len(found)} are more than {MOST_PROMPTS} in one request', name)
  for one in found:
    if not isinstance(one, str) and not all(0 <= i < exp.tokenizer.size for i in one):
      raise Refused(f'{name}: token ids must be from 0 to {exp.tokenizer.size - 1}', name)
  return found


def _messages(body: dict[str, Any]) -> list[dict[str, str]]:
  """The turns of a chat.

  Raises:
    Refused: they are none, or hold something that is no text.
  """
  found = []
  for number, turn in enumerate(field(body, 'messages', list, []), 1):
    where = f'messages, turn {number}'
    if not isinstance(turn, dict) or not isinstance(turn.get('role'), str):
      raise Refused(f'{where}: must be an object with role and content', 'messages')
    if turn['role'] in ('tool', 'function') or turn.get('tool_calls'):
      raise Refused(f'{where}: tool calls are not supported', 'messages')
    parts = turn.get('content')
    if isinstance(parts, list) and all(isinstance(p, dict) and p.get('type') == 'text' and isinstance(p.get('text'), str)
                                       for p in parts):
      parts = ''.join(part['text'] for part in parts)
    if not isinstance(parts, str):
      raise Refused(f'{where}: content must be a text, or a list of parts of type text', 'messages')
    found.append({'role': 'system' if turn['role'] == 'developer' else turn['role'], 'content': parts})
  if not found:
    raise Refused('messages: must be a list of one turn or more', 'messages')
  _refusing('messages', lambda: chats.check(found))
  return found


def _rendered(exp: Experiment, row: dict[str, Any]) -> str:
  """The prompt of a row, as the task asks it; one that lacks a column, or holds what is no text, is refused (`InputError`)."""
  row = _row(exp, row)
  return prompts.render(exp.task, row, exp.tokenizer, exp.demonstrations(row))


def _row(exp: Experiment, row: dict[str, Any]) -> dict[str, Any]:
  """A row with the columns that the task's prompt names.

  Raises:
    InputError: it lacks one.
  """
  row = chats.as_messages(row) if 'messages' in row or not exp.task.prompt else row
  missing = [column for column in templates.fields_of(exp.task.prompt) if column not in row]
  if 'messages' not in row and (missing or not exp.task.prompt):
    raise InputError(f'lacks the column {missing[0]!r}' if missing else 'lacks `messages`')
  return row


def _ids(text: str | list[int], exp: Experiment, limits: Limits, name: str) -> list[int]:
  """The tokens of a prompt, with the places of the strategy's soft prompt before them.

  Raises:
    Refused: there are none, or too many.
  """
  ids = _refusing(name, lambda: exp.tokenizer.prompt(text)) if isinstance(text, str) else text
  if not ids:
    raise Refused(f'{name}: is empty, and the model has no token for a text to begin with', name)
  if len(ids) > limits.prompt:
    raise Refused(f'{name}: has {len(ids)} tokens; a prompt may have {limits.prompt}', name, code='context_length_exceeded')
  return [*prompts.placeholders(exp.strategy.slots), *ids]


def _room(ids: list[int], answer: int | None, exp: Experiment, limits: Limits) -> int:
  """How many tokens an answer to this prompt may have.

  Args:
    ids: the prompt.
    answer: its tokens as they are asked for; None: one or more.
    exp: of the run.
    limits: of a request.
  Raises:
    Refused: the prompt with that answer is over the context.
  """
  apart, least = exp.model.config.has_encoder, 1 if answer is None else answer
  context = min(limits.context, exp.context - exp.strategy.prefix_slots)
  if prompts.tokens_needed(len(ids), least, apart) > context:
    raise Refused(f'the prompt has {len(ids)} tokens and its answer {least} or more; together they may have {context}'
                  if not apart else f'the prompt has {len(ids)} tokens and its answer {least} or more; each may have {context}',
                  'max_tokens', code='context_length_exceeded')
  return min(limits.answer, context - (0 if apart else len(ids)))


def _choices(body: dict[str, Any], row: dict[str, Any] | None, exp: Experiment) -> tuple[tuple[str, tuple[int, ...]], ...]:
  """What is to be ranked: what the request gives, or what the task has for a row.

  Raises:
    Refused: it is no list of texts that differ.
  """
  if 'choices' in body:
    texts = field(body, 'choices', list, [])
    if not texts or not all(isinstance(text, str) and text for text in texts) or len({*texts}) < len(texts):
      raise Refused('choices: must be a list of different texts, none of them empty', 'choices')
    if len(texts) > MOST_CHOICES:
      raise Refused(f'choices: {len(texts)} are more than {MOST_CHOICES}', 'choices')
    named = {text: text for text in texts}
  elif row is not None and exp.task.choices:
    named = _refusing('row', lambda: {choice: prompts.answer(exp.task, row, choice) for choice in choices_of(exp.task, row)})
  else:
    return ()
  ids = _refusing('choices', lambda: exp.tokenizer.answers(named.values()))
  return tuple((choice, tuple(ids[text])) for choice, text in named.items())
