"""From rows to prompts: targets, demonstrations, choices, chat, lengths."""

import itertools

import pytest

from research.data import demonstrations, prompts, tasks, tokenizer
from research.errors import InputError

pytestmark = pytest.mark.quick

BYTES = tokenizer.of_bytes()
ROWS = [{'text': f'text {i}', 'label': ('no', 'yes')[i % 2]} for i in range(9)]
TASK = tasks.Task('own', {'train': ROWS, 'test': ROWS[:3]}, 'Q: {text}\nA:', ' {label}', ('no', 'yes'), ('accuracy',))


def test_a_prompt_and_its_target_are_the_templates_filled_in_and_the_target_ends_with_eos():
  example = prompts.examples(TASK, ROWS, BYTES)[1]
  assert (example.id, example.row, example.prompt, example.target) == (1, ROWS[1], 'Q: text 1\nA:', ' yes')
  assert example.prompt_ids == [BYTES.bos, *b'Q: text 1\nA:']
  assert example.target_ids == [*b' yes', BYTES.eos]
  assert example.choices == {'no': [*b' no'], 'yes': [*b' yes']}


@pytest.mark.parametrize('name', tasks.BUILT_IN)
def test_every_target_of_a_built_in_task_ends_with_eos_and_nothing_else_does(name):
  task = tasks.make(name, {})
  for example in prompts.examples(task, task.rows('test'), BYTES):
    assert example.target_ids == [*example.target.encode(), BYTES.eos]
    assert BYTES.eos not in example.prompt_ids and example.target[0] == ' ' != example.target[1]


def test_demonstrations_are_answered_training_rows_before_the_prompt():
  shown = demonstrations.choose(TASK, 2, 'random', seed=5)({'text': 'new'})
  [example] = prompts.examples(TASK, ROWS[:1], BYTES, lambda row: shown)
  assert example.prompt == (f'Q: {shown[0]["text"]}\nA: {shown[0]["label"]}\n\n'
                            f'Q: {shown[1]["text"]}\nA: {shown[1]["label"]}\n\nQ: text 0\nA:')
  assert example.prompt_ids.count(BYTES.bos) == 1 and BYTES.eos not in example.prompt_ids


def test_more_demonstrations_extend_fewer():
  drawn = [[*demonstrations.choose(TASK, shots, 'random', seed=5)({'text': 'new'})] for shots in range(10)]
  for fewer, more in itertools.pairwise(drawn):
    assert more[:-1] == fewer
  assert sorted(row['text'] for row in drawn[9]) == [row['text'] for row in ROWS]
  assert drawn[4] != demonstrations.choose(TASK, 4, 'random', seed=6)({'text': 'new'})


def test_more_demonstrations_than_training_rows_are_refused():
  with pytest.raises(InputError, match=r'strategy.shots=10: the training split has only 9 rows'):
    demonstrations.choose(TASK, 10, 'random', seed=0)


def test_demonstrations_without_a_training_split_are_refused():
  with pytest.raises(InputError, match='task own has no train split'):
    demonstrations.choose(TASK._replace(splits={'test': ROWS}), 1, 'random', seed=0)


def test_a_choice_that_begins_another_is_refused():
  with pytest.raises(InputError, match=r"task\.choices: 'no' is the beginning of 'not sure'"):
    prompts.examples(TASK._replace(choices=('no', 'yes', 'not sure')), ROWS, BYTES)


def test_chat_without_a_template_is_refused():
  with pytest.raises(InputError, match='chat template'):
    prompts.examples(TASK._replace(chat=True), ROWS, BYTES)


def test_messages_go_through_the_chat_template_with_demonstrations_as_turns():
  hf = tokenizer.of_bytes().hf
  hf.chat_template = ('{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}'
                      '{% if add_generation_prompt %}[assistant]{% endif %}')
  row = {'messages': [{'role': 'system', 'content': 'Brief.'}, {'role': 'user', 'content': 'Hi?'}], 'answer': 'Hi!'}
  task = TASK._replace(target=' {answer}', choices=(), prompt='')
  [example] = prompts.examples(task, [row], BYTES._replace(hf=hf), lambda _: [row])
  turns = '[system] Brief.\n[user] Hi?\n'
  assert example.prompt == f'{turns}[assistant] Hi!\n{turns}[assistant]'
  assert example.target == 'Hi!' and example.target_ids[-1] == BYTES.eos


def test_a_chats_answer_ends_as_the_template_ends_it():
  hf = tokenizer.of_bytes(sentinels=2).hf
  hf.chat_template = ('{% for m in messages %}[{{ m.role }}] {{ m.content }}<extra_id_1>\n{% endfor %}'
                      '{% if add_generation_prompt %}[assistant]{% endif %}')
  task = TASK._replace(chat=True)
  found = prompts.examples(task, ROWS[:2], BYTES._replace(hf=hf, size=261))
  assert {e.target_ids[-1] for e in found} == {260} and BYTES.ends == (BYTES.eos,)


def test_an_empty_prompt_begins_with_bos_where_there_is_one_and_is_refused_where_there_is_none():
  task, rows = TASK._replace(prompt='{text}'), [*ROWS[:2], {'text': '', 'label': 'no'}]
  assert prompts.examples(task, rows, BYTES._replace(bos=None))[2].prompt_ids == [BYTES.bos]
  hf = tokenizer.of_bytes().hf
  hf.bos_token = None
  with pytest.raises(InputError, match='row 2: its prompt is empty'):
    prompts.examples(task, rows, BYTES._replace(bos=None, hf=hf))


def test_an_answer_has_the_tokens_that_it_has_in_a_demonstration():
  """Of a vocabulary that puts a blank before each text, as Llama's."""
  from tokenizers import Tokenizer, models, normalizers
  from transformers import PreTrainedTokenizerFast
  pieces = ['▁', 'n', 'o', 'A', ':', '\n', '▁n', 'no', '▁no', '</s>']
  rust = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[('▁', 'n'), ('n', 'o'), ('▁n', 'o')]))
  rust.normalizer = normalizers.Sequence([normalizers.Prepend('▁'), normalizers.Replace(' ', '▁')])
  ours = tokenizer.Tokenizer(PreTrainedTokenizerFast(tokenizer_object=rust, eos_token='</s>'), 9, None, 10)
  assert [pieces[i] for i in ours.encode('A: no')] == ['▁', 'A', ':', '▁no']
  assert [pieces[i] for i in ours.encode(' no')] == ['▁', '▁no']
  assert [pieces[i] for i in ours.answers([' no'])[' no']] == ['▁no']
  [example] = prompts.examples(TASK._replace(prompt='{text}:'), [{'text': 'A', 'label': 'no'}], ours)
  assert [*example.prompt_ids, *example.target_ids] == [*ours.encode('A: no'), 9] and example.choices['no'] == [8]


def test_prompts_that_are_too_long_are_counted_and_named():
  rows = [*ROWS[:2], {'text': 'x' * 50, 'label': 'no'}, {'text': 'y' * 60, 'label': 'yes'}]
  found = prompts.examples(TASK, rows, BYTES)
  longest = len(found[3].prompt_ids) + 5
  prompts.check_lengths(found, longest, 'test')
  with pytest.raises(InputError, match=rf'^1 of 4 test rows .* context of {longest - 1} .*row 3; longest: {longest} '):
    prompts.check_lengths(found, longest - 1, 'test')
  with pytest.raises(InputError, match=r'^2 of 4 valid rows .*first: row 2'):
    prompts.check_lengths(found, 40, 'valid')
  with pytest.raises(InputError, match=r'^4 of 4 test rows'):
    prompts.check_lengths(found, longest, 'test', answer=60)


def test_prompt_and_answer_have_the_context_each_to_themselves_where_an_encoder_reads_the_prompt():
  found = prompts.examples(TASK, [*ROWS[:2], {'text': 'x' * 50, 'label': 'no'}], BYTES)
  longest = len(found[2].prompt_ids)
  prompts.check_lengths(found, longest, 'test', answer=longest, apart=True)
  for context, answer in ((longest - 1, 0), (longest, longest + 1)):
    with pytest.raises(InputError, match=rf'of 3 test rows are longer than the context of {context} .*longest: {context + 1} '):
      prompts.check_lengths(found, context, 'test', answer, apart=True)
