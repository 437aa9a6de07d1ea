"""Several templates of one prompt: what is refused, what each row becomes, and which template a step learns from."""

from collections import Counter

import numpy as np
import pytest
from helpers import reviews

from research.data import demonstrations, paraphrases, prompts, tasks
from research.data.batches import TrainingBatches, prompt_with_answer
from research.data.tokenizer import of_bytes
from research.errors import InputError

pytestmark = pytest.mark.quick
PROMPTS = ('Review: {text}\nSentiment:', '{text} I find this', 'Is "{text}" good or bad? It is')
FIELDS = {name.removeprefix('task__'): value for name, value in reviews(train=8, valid=4, test=4).items()
          if name != 'task__name'}


def made(**fields):
  return tasks.make('files', {**FIELDS, 'prompt': None, 'prompts': PROMPTS, **fields})


@pytest.mark.parametrize('fields, says', [
    ({'prompts': PROMPTS[:1]}, 'two templates or more, each once; one template is task.prompt'),
    ({'prompts': PROMPTS[:1] * 2}, 'two templates or more, each once'),
    ({'prompts': (PROMPTS[0], ' ')}, 'must be templates, each a text'),
    ({'prompts': (PROMPTS[0], '{label} it is')}, 'template 2 names the columns label, and the first text'),
    ({'prompts': (PROMPTS[0], '{text')}, 'braces'),
    ({'prompts': (PROMPTS[0], '{text:9d}')}, 'train row 1: template'),
    ({'prompt': PROMPTS[1]}, 'leave it out, or give the first of these'),
    ({'turns': 'all', 'chat': True, 'choices': (), 'metrics': ('exact_match',)}, 'leave task.prompts out')])
def test_templates_that_cannot_be_are_refused(fields, says):
  with pytest.raises(InputError, match=says.replace('(', r'\(')):
    made(**fields)


def test_plain_text_and_chats_have_no_templates(tmp_path):
  with pytest.raises(InputError, match='task text has no prompt'):
    tasks.make('text', {'prompts': PROMPTS})
  chat = tmp_path / 'chat.jsonl'
  chat.write_text('{"text": "x", "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n')
  with pytest.raises(InputError, match='rows with `messages` bring their prompts themselves'):
    tasks.make('files', {'train': str(chat), 'prompts': PROMPTS})


def test_the_first_of_them_is_the_tasks_own_and_may_be_said():
  assert made().prompt == PROMPTS[0] == made(prompt=PROMPTS[0]).prompt
  assert tasks.make('files', {**FIELDS, 'prompts': ()}).prompts == ()


def test_every_row_stands_under_every_template_as_it_would_under_that_one_alone():
  task, tokenizer = made(), of_bytes()
  shown = demonstrations.choose(task, 2, 'random', seed=0)
  found = prompts.examples(task, task.rows('test'), tokenizer, shown)
  assert [(e.template, e.id) for e in found] == [(t, n) for t in range(3) for n in range(4)]
  for template, text in enumerate(PROMPTS):
    alone = tasks.make('files', {**FIELDS, 'prompt': text})
    expected = prompts.examples(alone, alone.rows('test'), tokenizer, demonstrations.choose(alone, 2, 'random', seed=0))
    assert [e._replace(template=0) for e in found[4 * template:4 * template + 4]] == expected
    assert prompts.under(task, template).prompt == text


def test_a_context_is_too_short_for_rows_not_for_their_prompts():
  task = made()
  found = prompts.examples(task, task.rows('test'), of_bytes())
  with pytest.raises(InputError, match='4 of 4 test rows are longer than the context of 10 tokens'):
    prompts.check_lengths(found, 10, 'test')


@pytest.mark.parametrize('count', [1, 2, 3])
def test_templates_take_turns_by_row_and_by_epoch(count):
  table = np.array([[paraphrases.turn(row, epoch, 5, count) for row in range(6)] for epoch in range(count)])
  assert all({*of_row} == {*range(count)} for of_row in table.T)        # each row under each, in as many epochs
  assert all(Counter(of_epoch.tolist()) == dict.fromkeys(range(count), 6 // count) for of_epoch in table)      # evenly in each


def test_training_learns_each_row_under_each_template_once_in_as_many_epochs():
  task, tokenizer = made(), of_bytes()
  examples = prompts.examples(task, task.rows('train'), tokenizer)
  documents = [prompt_with_answer(e) for e in examples]
  batches = TrainingBatches(documents, 4, 2, seed=7, steps=6, templates=3)

  def learned(step):
    batch = batches(step)
    for tokens, segments in zip(*(x.reshape(-1, x.shape[-1]) for x in (batch.tokens, batch.segments))):
      for segment in range(1, segments.max() + 1):
        yield tuple(tokens[segments == segment].tolist())
  seen = Counter(tokens for step in range(6) for tokens in learned(step))
  assert seen == Counter(tuple(d.tokens) for d in documents) and {*seen.values()} == {1}
  first = Counter(tokens for step in range(2) for tokens in learned(step))
  rows = {tuple(d.tokens): e for d, e in zip(documents, examples)}
  assert sorted(rows[tokens].id for tokens in first) == [*range(8)]      # an epoch is one pass over the rows
  assert Counter(rows[tokens].template for tokens in first).most_common()[0][1] == 3
  again = TrainingBatches(documents, 4, 2, seed=7, steps=1, templates=3)
  assert all((x == y).all() for x, y in zip(again(5)[:3], batches(5)[:3]))      # of the seed and the step alone
