"""A loss on each of the assistant's turns: the masks of transformers, with the template's tag and without it."""

import copy
import json
import re

import jax
import numpy as np
import pytest
from helpers import batch, config, scaled_up

from research import console
from research.data import batches, prompts, tasks, tokenizer, turns
from research.errors import InputError
from research.experiment.assemble import assemble
from research.training.objective import CROSS_ENTROPY

quick = pytest.mark.quick

# The text formats of models, with the tag around what the model writes.
CHATML = (      # SmolLM2's, which has a system turn of its own
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a "
    "helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}{{ '<|im_start|>' + message['role'] "
    "+ '\n' }}{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
LLAMA3 = (      # which strips what is said
    "{% for message in messages %}{% if loop.index0 == 0 %}{{ bos_token }}{% endif %}{{ '<|start_header_id|>' + "
    "message['role'] + '<|end_header_id|>\n\n' }}{% if message['role'] == 'assistant' %}{% generation %}"
    "{{ message['content'] | trim + '<|eot_id|>' }}{% endgeneration %}{% else %}{{ message['content'] | trim + '<|eot_id|>' }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}")
MISTRAL = (     # which has no words that ask for an answer, ends one with EOS, and puts the system turn into the first question
    "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] + '\n\n' %}{% set turns = messages[1:] %}"
    "{% else %}{% set system = '' %}{% set turns = messages %}{% endif %}{{ bos_token }}{% for message in turns %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate "
    "user/assistant/user/assistant/...') }}{% endif %}{% if message['role'] == 'user' %}{{ '[INST] ' + (system if loop.first "
    "else '') + message['content'] + ' [/INST]' }}{% else %}{% generation %}{{ ' ' + message['content'] + eos_token }}"
    "{% endgeneration %}{% endif %}{% endfor %}")
COHERE = (      # Aya's
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set turns = messages[1:] %}{{ '<|START_OF_TURN_TOKEN|>"
    "<|SYSTEM_TOKEN|>' + messages[0]['content'] + '<|END_OF_TURN_TOKEN|>' }}{% else %}{% set turns = messages %}{% endif %}"
    "{% for message in turns %}{% if message['role'] == 'user' %}{{ '<|START_OF_TURN_TOKEN|><|USER_TOKEN|>' + "
    "message['content'].strip() + '<|END_OF_TURN_TOKEN|>' }}{% else %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}"
    "{% generation %}{{ message['content'].strip() + '<|END_OF_TURN_TOKEN|>' }}{% endgeneration %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{% endif %}")
TEMPLATES = {'chatml': CHATML, 'llama3': LLAMA3, 'mistral': MISTRAL, 'cohere': COHERE}
# Qwen3's way with thoughts: those of earlier turns are left out, and the last turn always has some.
THOUGHTS = (
    "{% for message in messages %}{% set content = message['content'] %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' %}{% set thought = '' %}{% if '</think>' in content %}{% set thought = "
    "content.split('</think>')[0].split('<think>')[-1].strip('\n') %}{% set content = content.split('</think>')[-1].lstrip("
    "'\n') %}{% endif %}{% if loop.last %}{{ '<think>\n' + thought + '\n</think>\n\n' }}{% endif %}{% endif %}"
    "{{ content + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")


def chat(*said, system=None):
  """Questions and answers in turn."""
  first = [] if system is None else [{'role': 'system', 'content': system}]
  return [*first, *({'role': ('user', 'assistant')[i % 2], 'content': text} for i, text in enumerate(said))]


CHATS = {
    'two': chat('Hi', 'Hello.', 'Who are you?', 'I am a model.'),
    'one': chat('Hi', 'Hello.'),
    'system': chat('Hi', 'Hi', 'Hi', 'Hi', 'Hi', 'Hi', system='Be brief.'),
    'unicode': chat('Grüß Gott 🦊', 'Servus — wie geht\'s?\n\n瑞士🏙️', 'é', 'e\u0301\u200d!', system='Antworte "kurz" 🙂.'),
    'blanks': chat(' a ', 'b  \n', '\n\nc', 'd\te', '{{ f }}', '<b>g</b>', 'user', 'assistant'),
}


def untagged(template):
  return re.sub(r'{% (end)?generation %}', '', template)


def reader(template, kind='bytes'):
  """A tokenizer with the template and its special tokens; a learned one merges whatever stands side by side."""
  ours = tokenizer.of_bytes()
  if kind == 'learned':
    ours = tokenizer.learned([turn['content'] for one in CHATS.values() for turn in one] * 2 +
                             ['assistant\nHello', '\n\nHello.', '] Hello', '\nI am', 'a model.', ' Hi'] * 9, 320)
  ours.hf.add_special_tokens({'additional_special_tokens': sorted({*re.findall(r'<\|\w+\|>', template)})})
  ours.hf.chat_template = template
  return ours._replace(size=len(ours.hf))


def learn(messages, ours, **fields):
  """The one example, and what was told."""
  task = tasks.Task('own', {}, '', '', turns='all')
  [example], altered = turns.examples(task, [{'messages': messages, **fields}], ours)
  return example, turns.told(altered, 1, 'train', every_turn=True)


def mask(example):
  """The example's ids, and which are learned."""
  ids = [*example.prompt_ids, *example.target_ids]
  spans = [*example.learned, (len(example.prompt_ids), len(ids))]
  return ids, [int(any(first <= at < end for first, end in spans)) for at in range(len(ids))]


def their_mask(messages, ours, length):
  found = ours.hf.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
  ids, their = found['input_ids'], found['assistant_masks']
  if ids[:1] != [ours.bos]:
    ids, their = [ours.bos, *ids], [0, *their]
  assert not any(their[length:])      # nothing is learned from what follows the last turn
  return ids[:length], their[:length]


@quick
@pytest.mark.parametrize('kind', ['bytes', 'learned'])
@pytest.mark.parametrize('said', CHATS)
@pytest.mark.parametrize('name', TEMPLATES)
def test_ids_and_masks_are_those_of_transformers_and_the_same_without_the_tag(name, said, kind):
  tagged, bare = (reader(template, kind) for template in (TEMPLATES[name], untagged(TEMPLATES[name])))
  assert '{% generation' not in bare.hf.chat_template
  found, told = learn(CHATS[said], tagged)
  ids, ours = mask(found)
  assert (ids, ours) == their_mask(CHATS[said], tagged, len(ids)) and not told
  assert sum(b > a for a, b in zip([0, *ours], ours)) == sum(turn['role'] == 'assistant' for turn in CHATS[said])
  without, told = learn(CHATS[said], bare)
  assert mask(without) == (ids, ours) and not told


@quick
def test_tokens_that_stand_across_a_border_are_among_them():
  ours = reader(LLAMA3.replace('<|end_header_id|>', '>'), 'learned')
  example, _ = learn(CHATS['two'], ours)
  (first, end), *_ = example.learned
  assert ours.decode(example.prompt_ids[first:end]).startswith('\n\nHello.')
  assert mask(example) == their_mask(CHATS['two'], ours, len(mask(example)[0]))


@quick
@pytest.mark.parametrize('said', sorted(CHATS.keys() - {'blanks'}))
@pytest.mark.parametrize('name', ['chatml', 'llama3', 'cohere'])
def test_the_last_of_the_turns_is_what_is_learned_where_only_that_is(name, said):
  ours = reader(TEMPLATES[name])
  found, _ = learn(CHATS[said], ours)
  [last] = prompts.examples(tasks.Task('own', {}, '', ''), [{'messages': CHATS[said]}], ours)
  assert (found.prompt_ids, found.target_ids) == (last.prompt_ids, last.target_ids)
  assert (found.target, found.id, last.learned) == (last.target, 0, ())


@quick
def test_an_answer_in_a_column_of_its_own_is_a_turn():
  ours, task = reader(CHATML), tasks.Task('own', {}, '', '{a}', turns='all')
  rows = [{'messages': CHATS['two'][:3], 'a': 'I am a model.'}, {'messages': CHATS['one'], 'a': 'not this'}]
  found, _ = turns.examples(task, rows, ours)
  assert [mask(e) for e in found] == [mask(learn(CHATS[said], ours)[0]) for said in ('two', 'one')]


@quick
def test_rows_without_turns_are_learned_from_as_ever_among_those_with():
  ours = reader(CHATML)
  task = tasks.Task('own', {}, 'Q: {q}\nA:', ' {a}', turns='all')
  rows = [{'q': 'a', 'a': 'b'}, {'messages': CHATS['two']}, {'q': 'c', 'a': 'd'}]
  found, _ = turns.examples(task, rows, ours)
  assert found[0] == prompts.examples(task, rows[:1], ours)[0] and [e.id for e in found] == [0, 1, 2]
  assert found[1]._replace(id=0, row={}) == learn(CHATS['two'], ours)[0]._replace(row={})


@quick
def test_turns_end_where_a_template_has_no_token_for_that():
  ours = reader("{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
                "{% if add_generation_prompt %}[assistant] {% endif %}")
  example, told = learn(CHATS['two'], ours)
  [(first, end)] = example.learned
  assert ours.decode(example.prompt_ids[first:end]) == 'Hello.' and not told
  assert example.target_ids == [*b'I am a model.', ours.eos]      # as where the last turn alone is learned


@quick
def test_a_first_turn_of_the_assistants_is_learned_too():
  messages = [{'role': 'assistant', 'content': 'Welcome!'}, *CHATS['one']]
  for template in (CHATML, untagged(CHATML)):
    ours = reader(template)
    example, told = learn(messages, ours)
    ids, _ = mask(example)
    assert mask(example) == their_mask(messages, reader(CHATML), len(ids)) and len(example.learned) == 1 and not told


THOUGHT = '<think>\nHm.\n</think>\n\n'


@quick
def test_earlier_turns_that_a_template_rewrites_are_learned_as_it_writes_them_and_that_is_told():
  ours = reader(THOUGHTS)
  messages = chat('Hi', THOUGHT + 'Hello.', 'Who?', THOUGHT + 'Me.', system='Be kind.')
  example, told = learn(messages, ours)
  said = [ours.hf.decode(example.prompt_ids[a:b]) for a, b in example.learned] + [ours.hf.decode(example.target_ids)]
  assert said == ['Hello.<|im_end|>', f'{THOUGHT}Me.<|im_end|>']
  assert told == ('train: of 1 rows the chat template rewrites turns of 1 (first: row 0, turn 3, the assistant\'s); the '
                  'assistant\'s are learned as it writes them')


@quick
def test_words_that_a_template_puts_before_the_last_turn_are_the_models_to_write():
  example, told = learn(CHATS['two'], ours := reader(THOUGHTS))
  assert ours.hf.decode(example.target_ids) == '<think>\n\n</think>\n\nI am a model.<|im_end|>' and not told


@quick
def test_a_prompt_that_opens_a_thought_which_the_conversation_lacks_is_no_border():
  """DeepSeek-R1's: the words that ask for an answer are others than those that stand before one, and thoughts are left out."""
  ours = reader("{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '<|User|>' + m.content }}{% else %}"
                "{{ '<|Assistant|>' + m.content.split('</think>')[-1] + eos_token }}{% endif %}{% endfor %}"
                "{% if add_generation_prompt %}{{ '<|Assistant|><think>\n' }}{% endif %}")
  example, told = learn(chat('Hi', '<i>Hello.', 'Who?', 'Hm.</think>Me.'), ours)
  said = [ours.hf.decode(example.prompt_ids[a:b]) for a, b in example.learned] + [ours.hf.decode(example.target_ids)]
  assert said == ['<i>Hello.<eos>', 'Me.<eos>'] and 'rewrites turns of 1 (first: row 0, turn 4, the assistant\'s)' in told


@quick
@pytest.mark.parametrize('every', [True, False])
def test_turns_that_a_template_leaves_out_are_told(every):
  """One that keeps the last question and its answer, and knows no system turn."""
  ours = reader("{% for m in messages[-2:] %}{% if m.role != 'system' %}[{{ m.role }}]{{ m.content }}<eos>{% endif %}"
                "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}")
  first = 'train: of 1 rows the chat template leaves turns out of 1 (first: row 0, turn 1, the system\'s); '
  if every:
    example, told = learn(CHATS['system'], ours)
    assert example.learned == () and ours.hf.decode(example.target_ids) == 'Hi<eos>'
    assert told == (first + 'the assistant\'s are learned as it writes them, and 2 that it does not write, or not in a place '
                    'of their own, are not learned')
  else:
    task = tasks.Task('own', {}, '', '')
    found = prompts.examples(task, [{'messages': CHATS['system']}], ours)
    assert turns.told(turns.altered_prompts(task, found, ours), 1, 'train') == first + 'the model reads what it writes'


LEFT_OUT = 'leaves out, or does not mark, all that the assistant says'


@quick
@pytest.mark.parametrize('template, says', [
    ('{% for m in messages %}{% if m.role == "user" %}{{ m.content }}{% endif %}{% endfor %}', LEFT_OUT),
    ('{% for m in messages %}{% generation %}{% endgeneration %}{{ m.content }}{% endfor %}', LEFT_OUT),
    ('{% for m in messages %}{% generation %}<eos>{% endgeneration %}{% endfor %}', LEFT_OUT),
    ('{{ raise_exception("Only one turn") }}', r'refuses these turns \(user, assistant\): Only one turn'),
    (None, 'no chat template')])
def test_a_template_of_which_nothing_can_be_learned_is_refused_with_the_row(template, says):
  with pytest.raises(InputError, match=says):
    learn(CHATS['one'], reader(CHATML)._replace(hf=reader(template or '').hf))


def written(path, *rows):
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  return str(path)


@quick
@pytest.mark.parametrize('rows, fields, says', [
    ([{'messages': CHATS['one']}], {'turns': 'first'}, "task.turns='first': must be one of last, all"),
    ([{'q': 'a', 'a': 'b'}], {'prompt': '{q}', 'target': '{a}'}, 'task.turns=all: is of chats; no training row of task files'),
    ([{'q': 'a', 'a': 'b'}], {'prompt': '{q}', 'target': '{a}', 'choices': ('b', 'c')}, 'task.turns=all: is of chats; a row'),
    ([{'q': 'a', 'a': 'b', 'c': 'd'}], {'prompt': '{q}', 'target': '{a}', 'rejected': '{c}'},
     'task.turns=all: is of chats; a row'),
    ([{'messages': chat('a', ' ', 'c', 'd')}], {}, 'train row 1: messages, turn 2: the assistant says nothing, which'),
    ([{'messages': chat('a', 'b', 'c', ' ')}], {}, 'train row 1: messages, turn 4: the assistant says nothing$'),
    ([{'messages': CHATS['one']}, {'messages': chat('a', 'b', 'c')}], {},
     "train row 2: messages, turn 3: is the user's, and no turn answers it"),
    ([{'messages': [{'role': 'system', 'content': 'a'}]}], {}, "train row 1: messages, turn 1: is the system's, and no turn"),
])
def test_what_has_no_turns_to_learn_is_named(tmp_path, rows, fields, says):
  with pytest.raises(InputError, match=says):
    tasks.make('files', {'train': written(tmp_path / 'a.jsonl', *rows), 'turns': 'all', **fields})


@quick
@pytest.mark.parametrize('name', ['text', 'sentiment', 'translation'])
def test_tasks_without_chats_have_no_turns(name):
  with pytest.raises(InputError, match=r'task\.turns=all: is of chats'):
    tasks.make(name, {'turns': 'all'})


OF_BYTES = untagged(CHATML).replace('<|im_end|>', '<eos>').replace('<|im_start|>', '<bos>')      # in the tokens that there are


@pytest.fixture
def of_chats(tmp_path):
  """(fields) -> an experiment on the chats, read by bytes."""
  path = written(tmp_path / 'a.jsonl', *({'messages': messages} for messages in CHATS.values()))

  def made(**fields):
    exp = assemble(config(task__name='files', task__train=path, task__valid=path, task__turns='all', **fields), abstract=True)
    hf = copy.deepcopy(exp.tokenizer.hf)
    hf.chat_template = OF_BYTES
    return exp._replace(tokenizer=exp.tokenizer._replace(hf=hf))
  return made


@pytest.mark.parametrize('strategy', ['lora', 'prompt'])
def test_a_batch_asks_for_each_turn_and_validation_for_the_last(of_chats, strategy, capsys, monkeypatch):
  monkeypatch.setattr(console, '_SAID', set())
  exp = of_chats(strategy__name=strategy, training__batch_size=5, training__microbatches=5)
  found = exp.training_examples()
  assert found == exp.training_examples()
  said = capsys.readouterr().err
  assert said == 'train: a loss on 12 answers in 5 rows (task.turns=all); other splits measure the last of a row\n'
  one = exp.training_batches()(0)
  asked = {bytes(i for i in one.targets[m][one.weights[m] > 0] if i < 256).decode() for m in range(5)}
  assert asked == {''.join(turn['content'] for turn in said if turn['role'] == 'assistant') for said in CHATS.values()}
  assert one.weights.sum() == sum(len(e.target_ids) + sum(b - a for a, b in e.learned) for e in found)
  for m in range(5):      # each target is the token after the place where it is predicted; the last of all is no token
    index, targets = one.index[m][one.weights[m] > 0], one.targets[m][one.weights[m] > 0]
    assert (one.tokens[m, 0, index[:-1] + 1] == targets[:-1]).all() and index[-1] == (one.segments[m] > 0).sum() - 1
  assert all(e.learned == () for e in exp.examples('valid'))
  last = [messages[-1]['content'].strip() for messages in CHATS.values()]
  assert [bytes(e.target_ids[:-1]).decode() for e in exp.examples('valid')] == last


def test_a_config_says_so_only_where_turns_are_learned(of_chats, tmp_path):
  assert of_chats().settings.config()['task']['turns'] == 'all'
  path = written(tmp_path / 'b.jsonl', {'messages': CHATS['one']})
  for turns_ in (None, 'last'):
    exp = assemble(config(task__name='files', task__train=path, task__turns=turns_), abstract=True)
    assert exp.settings.config()['task']['turns'] is None


def test_an_encoder_reads_earlier_turns_and_learns_none(of_chats):
  with pytest.raises(InputError, match=r'task\.turns=all: an encoder reads the whole prompt'):
    of_chats(model__source='random:t5-tiny')


def test_a_conversation_that_is_too_long_is_refused(of_chats):
  exp = of_chats()
  longest = max(len(e.prompt_ids) + len(e.target_ids) for e in exp.training_examples())
  with pytest.raises(InputError, match=f'^1 of 5 train rows are longer than the context of {longest - 1} tokens'):
    of_chats(model__context=longest - 1).training_examples()


def test_the_gradient_of_all_turns_is_the_sum_of_each_ones():
  loaded = scaled_up('llama-tiny')
  hf = copy.deepcopy(loaded.tokenizer.hf)
  hf.chat_template = OF_BYTES
  ours = loaded.tokenizer._replace(hf=hf)
  messages = CHATS['system']
  whole = batches.prompt_with_answer(learn(messages, ours)[0])
  parts = [{'messages': messages[:end]} for end in (3, 5, 7)]
  each = [batches.prompt_with_answer(e) for e in prompts.examples(tasks.Task('own', {}, '', ''), parts, ours)]
  grad = jax.jit(jax.value_and_grad(lambda params, one: CROSS_ENTROPY(loaded.model, {'params': params}, one)[0]))
  of = lambda documents: grad(loaded.params, jax.tree.map(lambda x: x[0], batch(documents, 128)))
  (loss, all_turns), (losses, one_by_one) = of([whole]), of(each)
  assert loss == pytest.approx(float(losses), rel=1e-5) and len(whole.targets) == sum(len(d.targets) for d in each)
  largest = max(float(np.abs(x).max()) for x in jax.tree.leaves(one_by_one))
  assert largest > 1e-2
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * largest), all_turns, one_by_one)
