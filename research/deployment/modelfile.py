"""The Modelfile by which Ollama takes a GGUF file: how a prompt is put to the model, and where an answer ends."""

from research.data.tokenizer import Tokenizer
from research.errors import InputError

# Chat templates that are known here, as Go writes them: (a turn, what stands before an answer, where the answer ends).
_TURNS = {
    'chatml': ('<|im_start|>{role}\n{content}<|im_end|>\n', '<|im_start|>assistant\n', '<|im_end|>'),
    'llama3': ('<|start_header_id|>{role}<|end_header_id|>\n\n{content}<|eot_id|>',
               '<|start_header_id|>assistant<|end_header_id|>\n\n', '<|eot_id|>'),
}
_MESSAGES = [{'role': 'user', 'content': 'AB'}, {'role': 'assistant', 'content': 'CD'}, {'role': 'user', 'content': 'EF'}]


def modelfile(tokenizer: Tokenizer, chats: bool, stops: tuple[str, ...], file: str = 'model.gguf') -> str:
  """What `ollama create NAME -f Modelfile` reads.

  A run whose prompts are plain text is given the prompt as it is, whatever chat template the base has.

  Args:
    tokenizer: the model's, with its chat template.
    chats: whether the run's prompts are written by that template.
    stops: texts that end an answer.
    file: the GGUF file beside it.
  """
  lines, ends = [f'FROM ./{file}'], [*stops]
  form = known_form(tokenizer) if chats else None
  if not chats:
    lines.append(f'TEMPLATE {_quoted("{{ .Prompt }}")}')
  elif form:
    turn, begins, end = _TURNS[form[0]]
    one = turn.format(role='{{ .Role }}', content='{{ .Content }}')
    lines.append('TEMPLATE ' + _quoted(f'{{{{ range .Messages }}}}{one}{{{{ end }}}}{begins}'))
    lines += [f'SYSTEM {_quoted(form[1])}'] if form[1] else []
    ends.append(end)
  lines += [f'PARAMETER stop {_quoted(text)}' for text in dict.fromkeys(ends) if '"""' not in text]
  return '\n'.join(lines) + '\n'


def known_form(tokenizer: Tokenizer) -> tuple[str, str] | None:
  """The form in which a chat template writes turns, and the system's words that it adds by itself; None: another form."""
  try:
    written = tokenizer.chat(_MESSAGES)
  except InputError:      # a template that refuses plain turns has another form
    return None
  if tokenizer.hf.bos_token and written.startswith(tokenizer.hf.bos_token) and tokenizer.bos is not None:
    written = written.removeprefix(tokenizer.hf.bos_token)      # which llama.cpp puts there
  for name, (turn, begins, _) in _TURNS.items():
    turns = ''.join(turn.format(**one) for one in _MESSAGES) + begins
    before, found, rest = written.partition(turns)
    opening, closing = turn.format(role='system', content='\0').split('\0')
    if found and not rest and not before:
      return name, ''
    if found and not rest and before.startswith(opening) and before.endswith(closing):
      return name, before.removeprefix(opening).removesuffix(closing)
  return None


def _quoted(text: str) -> str:
  """A text as a Modelfile has it, which knows no escapes."""
  return f'"""{text}"""' if '"' in text or '\n' in text else f'"{text}"'
