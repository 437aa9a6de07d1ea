"""From what people said of a server's answers to rows of the task that a run has learned."""

import contextlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from research.data import chats, prompts
from research.data.rows import Row
from research.data.tasks import Task, answered, choices_of, label_column, references_of
from research.data.templates import fields_of, fill
from research.errors import InputError
from research.experiment.assemble import Experiment
from research.preparation import words
from research.refining.inverted import FORMATTED, NO_MATCH, SEVERAL, NoRow, columns_of
from research.serving.log import Traffic

CONVERSATION = 'conversation'      # column of rows from chats: those that begin alike are one conversation's
WHOLE = 'stop'                     # how an answer ended that was not cut off
UNRATED, RANGE = 'no right answer is known (a rating below 1 and no label)', 'its rating is not between 0 and 1'
CUT_OFF, UNKNOWN = 'it was rated right, but the answer was cut off', 'the log holds no request of that id'
OTHERS, AGAIN = "another model's answer", 'the same was said of later, and that counts'
CHOICE, TARGET = "its label is none of the task's choices", "its label does not fit the task's target"
LONG, COLUMNS = 'with its answer it is longer than the context', "its columns are not those of the task's template"


class Made(NamedTuple):
  """What a log came to."""
  rows: list[Row]                # the newest first
  labelled: int                  # of these, with a label that somebody gave
  left_out: dict[str, int]       # why other feedback gives no row -> how often


def from_log(traffic: Traffic, exp: Experiment, log: Path, called: Sequence[str]) -> Made:
  """A row for each answer of which it is known what was right.

  Args:
    traffic: what the log holds.
    exp: of the run that is to learn from it.
    log: of the traffic, for an error.
    called: names of the run as a model. Of a log of several models, one of which has such a name, the others are left out.
  Raises:
    InputError: nothing in the log can be learned from.
  """
  requests = {request['id']: request for request in traffic.requests}
  names = {request['model'] for request in traffic.requests}
  ours = names & {*called} or names
  left_out: Counter[str] = Counter()
  rows: dict[str, tuple[Row, bool]] = {}      # what is asked -> the row, and whether somebody gave its label
  in_turns = _end_in_turns(exp.task)
  for id, said in sorted(traffic.feedback.items(), key=lambda one: -one[1]['time']):
    request = requests.get(id)
    try:
      if request is None or request['model'] not in ours:
        left_out[OTHERS if request else UNKNOWN] += 1
        continue
      row = row_of(exp, request, right_answer(request, said), in_turns)
    except NoRow as why:
      left_out[str(why)] += 1
      continue
    key = ' '.join(_asked(exp.task, row).casefold().split())
    left_out[AGAIN] += key in rows
    rows.setdefault(key, (row, said.get('label') is not None))
  if not rows:
    told = f'none of the {len(traffic.feedback)} answers with feedback gives a row: {reasons(left_out)}' \
        if traffic.feedback else f'holds {len(traffic.requests)} requests, and no feedback on any'
    raise InputError(f'--log={log}: {told}; nothing can be learned from it')
  found = [*rows.values()]
  return Made([row for row, _ in found], sum(labelled for _, labelled in found), dict((+left_out).most_common()))


def reasons(left_out: Mapping[str, int]) -> str:
  """Why feedback gave no row, the commonest first."""
  return '; '.join(f'{count} {reason}' for reason, count in Counter(left_out).most_common())


def right_answer(request: Mapping[str, Any], said: Mapping[str, Any]) -> str:
  """What the answer to a request should have been: the label, or the answer itself where it was rated 1.

  Args:
    request: a line of a log.
    said: the feedback on it.
  Raises:
    NoRow: it is not known.
  """
  if said.get('label') is not None:
    return str(said['label'])
  rating = said.get('rating')
  if rating is not None and not 0 <= rating <= 1:
    raise NoRow(RANGE)
  if rating != 1:
    raise NoRow(UNRATED)
  if request['ended'] != WHOLE:
    raise NoRow(CUT_OFF)
  return str(request['answer'])


def row_of(exp: Experiment, request: Mapping[str, Any], label: str, ends_in_turn: bool) -> Row:
  """The row of a request with its right answer.

  Args:
    exp: says how a row is asked.
    request: a line of a log.
    label: the right answer.
    ends_in_turn: whether the answer of a chat is the assistant's last turn, and no column.

  Where none can be made, or it does not fit the model, that is a `NoRow`.
  """
  task = exp.task
  row: Row = dict(request.get('row') or {})
  if 'messages' in row or (row and not task.prompt):
    row = _conversation(row)
  elif not row:
    chat = request.get('messages') if _is_of_chats(task) else None
    row = _conversation({'messages': chat}) if chat else _inverted(exp, request['prompt'])
  if 'messages' in row and ends_in_turn:
    turns = row['messages'][:-1] if answered(task, row) else row['messages']
    row['messages'] = [*turns, {'role': 'assistant', 'content': label.strip()}]
  else:
    row |= _labelled(task, row, label)
  if task.cluster and task.cluster not in row:
    row[task.cluster] = row.get(CONVERSATION) or f'request {request["id"]}'
  _check(exp, row)
  return row


def _is_of_chats(task: Task) -> bool:
  return any('messages' in row for split in task.splits.values() for row in split)


def _end_in_turns(task: Task) -> bool:
  """Whether the task's chats end with the assistant's right answer."""
  return any(answered(task, row) for split in task.splits.values() for row in split)


def _conversation(row: Row) -> Row:
  """A row of a chat, in whichever form, with a column that is the same for all that begin with one question.

  Raises:
    NoRow: its messages are no conversation.
  """
  try:
    row = chats.as_messages(row)
    chats.check(row.get('messages'))
  except InputError as e:
    raise NoRow(f'its messages are no conversation that is read ({e})') from None
  first = next((number for number, turn in enumerate(row['messages']) if turn['role'] == 'user'), 0)
  begins = '\n'.join(turn['content'] for turn in row['messages'][:first + 1])
  return {**row, CONVERSATION: f'{int(words.hashes([begins]).exact[0]):016x}'}


def _inverted(exp: Experiment, prompt: str) -> Row:
  """The columns of which one of the task's templates makes a prompt, as the model read it.

  Raises:
    NoRow: there are none, or several.
  """
  found: list[Row] = []
  why = NO_MATCH
  said = _bare(exp, prompt)
  for template in exp.task.prompts or (exp.task.prompt,):
    try:
      row = columns_of(_in_chat(exp, template) if exp.task.chat else template, said) if template else None
    except NoRow as e:
      why = str(e)
      if why == SEVERAL:
        raise
      continue
    if row is not None and row not in found:
      found.append(row)
  if len(found) > 1:
    raise NoRow(SEVERAL)
  if not found:
    raise NoRow(why if why == FORMATTED else NO_MATCH)
  return found[0]


def _bare(exp: Experiment, text: str) -> str:
  """A prompt without the tokens that the tokenizer puts around it, should they be written out."""
  tokenizer = exp.tokenizer
  begins = tokenizer.hf.convert_ids_to_tokens(tokenizer.bos) if tokenizer.bos is not None else None
  text = text.removeprefix(begins) if isinstance(begins, str) else text
  ends = tokenizer.hf.convert_ids_to_tokens(tokenizer.eos) if tokenizer.appends_eos else None
  return text.removesuffix(ends) if isinstance(ends, str) else text


def _in_chat(exp: Experiment, template: str) -> str:
  """A template as the chat template puts it to the model, as a template itself.

  Raises:
    NoRow: the chat template does other than put something before and after a turn.
  """
  mark = '\u2063asked\u2063'      # that no chat template holds
  parts = _bare(exp, exp.tokenizer.chat([{'role': 'user', 'content': mark}])).split(mark)
  if len(parts) != 2:
    raise NoRow(FORMATTED)
  before, after = (part.replace('{', '{{').replace('}', '}}') for part in parts)
  return before + template + after


def _labelled(task: Task, row: Row, label: str) -> Row:
  """The column or columns of the right answer.

  Raises:
    NoRow: the label is none of the choices, or fits the target in no way or in several.
  """
  if task.choices:
    return {label_column(task): _chosen(task, row, label)}
  fields = [*dict.fromkeys(fields_of(task.target))]
  try:
    return columns_of(task.target.strip(), label.strip())
  except NoRow:
    if len(fields) != 1:
      raise NoRow(TARGET) from None
  return {fields[0]: label.strip()}


def _chosen(task: Task, row: Row, label: str) -> Any:
  """What the label's column says where this is the right choice: its text or, where other rows' are numbers, its number.

  Raises:
    NoRow: it is none of the choices.
  """
  try:
    texts = choices_of(task, row)
  except InputError:
    raise NoRow(COLUMNS) from None
  said = {label.strip()}
  with contextlib.suppress(NoRow):      # as the target writes it, such as `Answer: yes`
    said |= {str(value).strip() for value in columns_of(task.target.strip(), label.strip()).values()}
  found = [number for number, text in enumerate(texts) if text.strip() in said]
  if len(found) != 1:
    raise NoRow(CHOICE)
  if task.numbered is None:
    return texts[found[0]]
  like = next(row[label_column(task)] for rows in task.splits.values() for row in rows if label_column(task) in row)
  number = found[0] + task.numbered
  if isinstance(like, str) and like.isalpha():
    return chr(ord('A') + found[0])
  return number if isinstance(like, int) else str(number)


def _asked(task: Task, row: Row) -> str:
  """What a row asks: its turns before the answer, or its prompt."""
  if 'messages' in row:
    turns = row['messages'][:-1] if answered(task, row) else row['messages']
    return '\n'.join(turn['content'] for turn in turns)
  return fill(task.prompt, row)


def _check(exp: Experiment, row: Row) -> None:
  """Refuses a row that the task cannot ask, or that does not fit the context, as it is and cleaned as `prepare` does.

  Raises:
    NoRow: says why.
  """
  try:
    found = [exp.prepared(e) for e in prompts.examples(exp.task, [row], exp.tokenizer)]
    empty = not all(map(str.strip, references_of(exp.task, row)))
  except InputError:
    raise NoRow(COLUMNS) from None
  if empty:
    raise NoRow(TARGET)
  try:
    prompts.check_lengths(found, exp.context - exp.strategy.prefix_slots, 'new', exp.task.max_new_tokens * exp.task.writes,
                          apart=exp.model.config.has_encoder)
  except InputError:
    raise NoRow(LONG) from None
