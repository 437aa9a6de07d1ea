"""Rows on a terminal: every token that a batch holds, and marks around those with a loss, for every task and family."""

import json
import re

import pytest
from helpers import config, reviews, verb
from rich.cells import cell_len

from research.data import shown, tasks, tokenizer
from research.data.batches import prompt_with_answer
from research.data.prompts import Example
from research.experiment.assemble import assemble
from research.runs import show

BYTES = tokenizer.of_bytes()
KINDS = {
    'choices': {'task__name': 'sentiment'}, 'generated': {'task__name': 'translation'}, 'text': {'task__name': 'text'},
    'shots': {'task__name': 'sentiment', 'strategy__name': 'few_shot', 'strategy__shots': 1},
    'soft': {'task__name': 'translation', 'strategy__name': 'prompt+lora'},
}


def texts(lines):
  """The rows that lines show, each as label -> text, put together again."""
  rows = []
  for line in lines[1:]:
    label = re.fullmatch(r'  (the encoder reads|the decoder|choice \w+, \d+ tokens?):', line)
    if line.startswith('row '):
      rows.append({'': ''})
      at = ''
    elif label:
      at = label[1]
      rows[-1][at] = ''
    elif line:
      line = line[4 if at else 2:]
      rows[-1][at] += line[:-1] + '\n' if line.endswith('↵') else line
  return rows


def ids(text, ours):
  """What a text is in tokens, without the marks."""
  text = re.sub('[⟦⟧]', '', text)
  slots = int((re.match(r'<soft prompt: (\d+)>', text) or [0, 0])[1])
  return [*range(-1, -1 - slots, -1), *ours.encode(re.sub(r'^<soft prompt: \d+>', '', text))]


def marked(text, ours):
  return [i for part in re.findall('⟦(.*?)⟧', text, re.S) for i in ours.encode(part)]


@pytest.mark.parametrize('model', ['llama-tiny', 't5-tiny'])
@pytest.mark.parametrize('kind', KINDS)
def test_what_is_shown_is_what_a_batch_holds(kind, model):
  exp = assemble(config(**KINDS[kind], model__source=f'random:{model}'), abstract=True)
  lines = show.training_rows(exp, 3, colour=False)
  assert max(map(cell_len, lines)) <= 80
  rows, examples = texts(lines), exp.examples('train')[:3]
  assert len(rows) == 3
  for row, example in zip(rows, examples):
    document = exp.document(example)
    whole = row['the decoder'] if model == 't5-tiny' else row['']
    assert ids(whole, exp.tokenizer) == [*document.tokens, document.targets[-1]]
    assert marked(whole, exp.tokenizer) == document.targets
    if model == 't5-tiny':
      assert ids(row['the encoder reads'], exp.tokenizer) == document.source
      assert '⟦' not in row['the encoder reads']
    for choice, tokens in example.choices.items():
      assert ids(row[f'choice {choice}, {len(tokens)} tokens'], exp.tokenizer) == tokens
  head = next(line for line in lines if line.startswith('row 0'))
  document = exp.document(examples[0])
  word = 'scored' if kind == 'shots' else 'learned'
  if model == 't5-tiny':
    assert head == (f'row 0: the encoder reads {len(document.source)} tokens of 512, the decoder {len(document.targets)}; '
                    f'{len(document.targets)} {word}')
  else:
    assert head == f'row 0: {len(document.tokens) + 1} tokens of 512; {len(document.targets)} {word}'


def test_both_answers_of_a_pair_stand_apart(tmp_path):
  (tmp_path / 'a.jsonl').write_text(json.dumps({'q': 'Is it?', 'a': ' Yes.', 'b': ' No, never.'}))
  exp = assemble(config(task__name='files', task__train=str(tmp_path / 'a.jsonl'), task__prompt='{q}', task__target='{a}',
                        task__rejected='{b}', training__loss='dpo'), abstract=True)
  assert show.training_rows(exp, 1, colour=False)[2:] == [
      'row 0: 19 tokens of 512 with the longer answer; 18 learned', '  prompt:', '    <bos>Is it?',
      '  chosen:', '    ⟦ Yes.<eos>⟧', '  rejected:', '    ⟦ No, never.<eos>⟧']


def chats():
  hf = tokenizer.of_bytes().hf
  hf.chat_template = ('{% for m in messages %}[{{ m.role }}] {{ m.content }}<eos>\n{% endfor %}'
                      '{% if add_generation_prompt %}[assistant] {% endif %}')
  turns = [{'role': role, 'content': content} for role, content in (
      ('system', 'Brief.'), ('user', 'Hi'), ('assistant', 'Hey\nyou.'), ('user', 'So?'), ('assistant', 'So.'))]
  return tasks.Task('own', {}, '', '', turns='all'), [{'messages': turns}], BYTES._replace(hf=hf)


@pytest.mark.quick
def test_each_turn_of_a_chat_is_marked_without_a_model():
  assert shown.of_task(*chats()) == [
      'in ⟦ ⟧: what is learned; ↵ ends a line of the text', '', 'row 0: 79 tokens; 13 learned', '  <bos>[system] Brief.<eos>↵',
      '  [user] Hi<eos>↵', '  [assistant] ⟦Hey↵', '  you.<eos>⟧↵', '  [user] So?<eos>↵', '  [assistant] ⟦So.<eos>⟧']


@pytest.mark.quick
def test_colour_stands_where_marks_stood_and_ends_with_its_line():
  task, rows, ours = chats()
  found = shown.of_task(task, rows, ours, colour=True)
  plain = [re.sub('[⟦⟧]', '', line) for line in shown.of_task(task, rows, ours)][2:]
  assert [re.sub(r'\x1b\[[\d;]*m', '', line) for line in found][2:] == plain
  assert all(line.count('\x1b[0m') * 2 == line.count('\x1b[') for line in found)
  green = ''.join(text for line in found for style, text in re.findall(r'\x1b\[([\d;]+)m(.*?)\x1b\[0m', line) if '32' in style)
  assert green == 'Hey↵you.<eos>So.<eos>' and '\x1b[2m<bos>\x1b[0m[system]' in found[3]


def row_of(prompt, target=(1,)):
  example = Example(7, {}, '', '', prompt, [*target], {})
  return shown.lines([example], [prompt_with_answer(example)], BYTES, colour=False)[2:]


@pytest.mark.quick
def test_what_would_move_a_cursor_is_written_out_and_half_a_character_is_none():
  head, *rest = row_of([*'a\x1b[31m\tb\u202e瑞'.encode(), 0xe7], (0x91, tokenizer.PAD))
  assert head == 'row 7: 17 tokens; 2 learned' and rest == ['  a\\x1b[31m\\tb\\u202e瑞�⟦�<pad>⟧']


@pytest.mark.quick
def test_wide_characters_are_folded_at_80_columns():
  _, *rest = row_of([*('瑞' * 50).encode()])
  assert [cell_len(line) for line in rest] == [78, 32] and ''.join(line.strip() for line in rest) == '瑞' * 50 + '⟦\\x01⟧'


@pytest.mark.quick
def test_blanks_of_a_vocabulary_that_hides_the_first_are_seen():
  """SentencePiece's, as Llama's and T5's are."""
  from tokenizers import Tokenizer, decoders, models, pre_tokenizers
  from transformers import PreTrainedTokenizerFast
  pieces = ['▁', 'a', '▁a', 'b', '</s>']
  rust = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[('▁', 'a')]))
  rust.pre_tokenizer, rust.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
  ours = tokenizer.Tokenizer(PreTrainedTokenizerFast(tokenizer_object=rust, eos_token='</s>'), 4, None, 5)
  example = Example(0, {}, '', '', [4, 2, 2], [2, 4], {})
  assert shown.lines([example], [prompt_with_answer(example)], ours, colour=False)[3] == '  </s> a a⟦ a</s>⟧'


def test_train_shows_rows_and_writes_nothing(tmp_path):
  given = [f'--config.{name.replace("__", ".")}={value}' for name, value in reviews(train=12).items()]
  said = verb('train', '--config=default', '--show=2', '--config.model.source=random:llama-tiny', *given, cwd=tmp_path)
  assert said.returncode == 0 and said.stdout.count('\nrow ') == 2 and said.stdout.count('⟦') == 3 and not said.stderr
  assert not [*tmp_path.iterdir()]
  said = verb('train', '--config=default', '--show=0', cwd=tmp_path)
  assert said.returncode == 2 and said.stderr.startswith('error: ') and '--show' in said.stderr
