"""Chat logs in the forms that people have them in, as rows with `messages`: OpenAI's, ShareGPT's and Alpaca's."""

from typing import Any

from research.data.rows import Row
from research.data.templates import not_text
from research.errors import InputError

# Who speaks in ShareGPT's `from`, as a chat template calls them.
ROLES = {'human': 'user', 'user': 'user', 'gpt': 'assistant', 'chatgpt': 'assistant', 'model': 'assistant',
         'assistant': 'assistant', 'system': 'system'}


def converted(rows: list[Row], has_prompt: bool, where: str) -> list[Row]:
  """Rows of a chat log with their turns in `messages`; others as they are.

  Args:
    rows: of one split.
    has_prompt: whether a template makes the prompt, so that only a row's own `messages` are turns.
    where: what an error calls the rows.
  Raises:
    InputError: a turn is of a kind that is not read; the row is named.
  """
  found = []
  for number, row in enumerate(rows, 1):
    try:
      found.append(as_messages(row) if 'messages' in row or not has_prompt else row)
    except InputError as e:
      raise InputError(f'{where} row {number}: {e}') from None
  return found


def as_messages(row: Row) -> Row:
  """The row with its turns in `messages`: each {role, content}, where the content is text.

  OpenAI's `messages` may hold content in parts; ShareGPT has `conversations` of {from, value}; Alpaca has `instruction`,
  perhaps `input`, and `output`; the last two may have `system`. Other rows are given back as they are.

  Args:
    row: of a chat log.
  Raises:
    InputError: something in it is of a kind that is not read.
  """
  if isinstance(row.get('messages'), list):
    return {**row, 'messages': [_turn(turn, number) for number, turn in enumerate(row['messages'], 1)]}
  if isinstance(row.get('conversations'), list):
    if row.get('tools'):
      raise InputError('tools are not read; leave the row out')
    rest = {column: value for column, value in row.items() if column not in ('conversations', 'system', 'tools')}
    turns = [_sharegpt(turn, number) for number, turn in enumerate(row['conversations'], 1)]
    return {**rest, 'messages': [*_system(row), *turns]}
  if isinstance(row.get('instruction'), str) and isinstance(row.get('output'), str):
    if not isinstance(row.get('input') or '', str):
      raise InputError('input is not text')
    if row.get('history'):
      raise InputError('history holds earlier turns, which are not read; give the row as messages')
    asked = '\n\n'.join(row[column] for column in ('instruction', 'input') if row.get(column))
    rest = {column: value for column, value in row.items() if column not in ('instruction', 'input', 'output', 'system')}
    turns = [{'role': 'user', 'content': asked}, {'role': 'assistant', 'content': row['output']}]
    return {**rest, 'messages': [*_system(row), *turns]}
  return row


def _system(row: Row) -> list[dict[str, Any]]:
  """The turn that a column `system` stands for."""
  return [{'role': 'system', 'content': row['system']}] if row.get('system') else []


def _turn(turn: Any, number: int) -> Any:
  """One of OpenAI's turns, its content in one piece; what is no turn is left to be refused where turns are checked.

  Raises:
    InputError: it calls a tool or is a tool's answer, or a part of it is no text.
  """
  if not isinstance(turn, dict):
    return turn
  if turn.get('role') in ('tool', 'function') or turn.get('tool_calls') or turn.get('function_call'):
    raise InputError(f'messages, turn {number}: calls a tool or is a tool\'s answer, which is not read; leave the row out')
  parts = turn.get('content')
  if not isinstance(parts, list):
    return turn
  for part in parts:
    if not isinstance(part, dict) or part.get('type') != 'text' or not isinstance(part.get('text'), str):
      kind = part.get('type', 'unknown') if isinstance(part, dict) else type(part).__name__
      raise InputError(f'messages, turn {number}: holds a part of type {kind}; only text is read')
  return {**turn, 'content': ''.join(part['text'] for part in parts)}


def _sharegpt(turn: Any, number: int) -> dict[str, Any]:
  """One of ShareGPT's turns.

  Raises:
    InputError: it is no {from, value}, or nobody knows who speaks.
  """
  if not isinstance(turn, dict) or not {'from', 'value'} <= turn.keys():
    raise InputError(f'conversations, turn {number}: is not an object with `from` and `value`')
  if not isinstance(turn['from'], str) or turn['from'] not in ROLES:
    raise InputError(f'conversations, turn {number}: from={turn["from"]!r:.40}: must be one of {", ".join(ROLES)}')
  return {'role': ROLES[turn['from']], 'content': turn['value']}


def check(messages: Any) -> None:
  """Refuses messages that are no conversation.

  Raises:
    InputError: says which turn is wrong, and how.
  """
  if not isinstance(messages, list) or not messages:
    raise InputError('messages is not a list of turns, each an object with `role` and `content`')
  for number, turn in enumerate(messages, 1):
    if not isinstance(turn, dict):
      raise InputError(f'messages, turn {number}: is not an object with `role` and `content`')
    for field in ('role', 'content'):
      wrong = not_text(turn.get(field)) if field in turn else 'is missing'
      if wrong or not isinstance(turn[field], str):
        raise InputError(f'messages, turn {number}: {field} {wrong or "is not text"}')
