"""Generation: each prompt's continuation is its own."""

import json

import jax
import numpy as np
import pytest
from helpers import torch_twin, verb

from research.data.batch import Batch
from research.evaluation.decode import generate
from research.evaluation.decoding import Decoding

NEVER = 257   # a token that none of these answers comes to
TEXTS = ['Review: good\nSentiment:', 'x', 'English: Turn on the light in the kitchen\nGerman:', 'yes', 'A much ' * 9,
         'x', 'Documentation: gives the square root\nSummary:']


@pytest.fixture(scope='module')
def prompts(preset):
  return [preset.tokenizer.prompt(text) for text in TEXTS]


@pytest.fixture(scope='module')
def alone(preset, prompts):
  return [generate(preset.model, {'params': preset.params}, [p], 24, [NEVER], batch_size=1)[0] for p in prompts]


def line(ids, length=128):
  """Arrays of one line that hold these ids and padding after them."""
  pad = lambda x: np.pad(np.asarray(x, np.int32), (0, length - len(ids)))[None]
  return Batch(pad(ids), pad(range(len(ids))), pad([1] * len(ids)))


def test_greedy_takes_the_likeliest_token_of_the_full_forward(preset, prompts, alone):
  model, start = preset.model, preset.model.config.decoder_start_id
  forward = jax.jit(lambda variables, batch: model.logits(variables, model.hidden(variables, batch))[0])
  for prompt, continuation in zip(prompts, alone):
    read = prompt if start is None else [start]
    batch = line([*read, *continuation])
    if start is not None:
      batch = batch.with_source(line(prompt))
    logits = np.asarray(forward({'params': preset.params}, batch))
    assert logits[len(read) - 1:len(read) + 23].argmax(-1).tolist() == continuation


def test_continuations_differ_enough_to_tell_prompts_apart(alone):
  assert len({tuple(a) for a in alone}) == len({*TEXTS}) and sum(len({*a}) > 2 for a in alone) >= 6


@pytest.mark.parametrize('batch_size', [3, 16])
def test_batched_equals_one_by_one_in_the_prompts_order(preset, prompts, alone, batch_size):
  assert generate(preset.model, {'params': preset.params}, prompts, 24, [NEVER], batch_size) == alone
  backwards = generate(preset.model, {'params': preset.params}, prompts[::-1], 24, [NEVER], batch_size)
  assert backwards == alone[::-1]


@pytest.mark.parity
def test_greedy_equals_transformers_generate(preset, prompts, alone):
  import torch
  twin = torch_twin(preset)
  for prompt, continuation in zip(prompts, alone):
    ids = torch.tensor([prompt])
    found = twin.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False, eos_token_id=NEVER,
                          pad_token_id=NEVER)[0].tolist()
    assert found[1 if twin.config.is_encoder_decoder else len(prompt):] == continuation


def test_an_answer_ends_at_eos_and_without_it_at_its_longest(preset, prompts, alone):
  eos = alone[2][10]                                         # a token that the third prompt's answer comes to
  found = generate(preset.model, {'params': preset.params}, prompts, 24, [eos], batch_size=4)
  expected = [a[:a.index(eos)] if eos in a else a for a in alone]
  assert found == expected
  assert len(found[2]) <= 10 and max(len(f) for f in found) == 24
  ends = [NEVER, eos, alone[0][4]]                           # any of several
  first = lambda answer: next((n for n, token in enumerate(answer) if token in ends), None)
  assert generate(preset.model, {'params': preset.params}, prompts, 24, ends, batch_size=4) == [a[:first(a)] for a in alone]


def test_sampling_is_given_by_its_seed_and_close_to_greedy_when_cold(preset, prompts, alone):
  variables = {'params': preset.params}
  draw = lambda temperature, seed, size=4: generate(preset.model, variables, prompts, 24, [NEVER], size,
                                              Decoding(temperature, seed=seed))
  assert draw(1.0, 1) == draw(1.0, 1) != draw(1.0, 2)
  assert draw(1.0, 1)[1] != draw(1.0, 1)[5]                  # two equal prompts draw apart
  assert draw(1.0, 1, 3) == draw(1.0, 1, 16) == draw(1.0, 1)  # whoever shares the batch
  assert draw(1e-6, 1) == alone


def test_an_answer_to_a_tasks_own_prompt_ends_at_its_stop_and_to_another_prompt_does_not(tmp_path):
  rows = [{'source': 'Open the door'}, {'prompt': 'English: Open the door\nGerman:'}]
  (tmp_path / 'in.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))

  def answers(stop):
    done = verb('generate', '--config=configs/default.py', '--config.model.source=random:llama-tiny',
                '--config.strategy.name=few_shot', '--config.strategy.shots=0', '--config.task.name=translation',
                f'--config.task.stop=({stop!r},)', f'--input={tmp_path}/in.jsonl', f'--output={tmp_path}/out.jsonl',
                '--max_new_tokens=12')
    assert done.returncode == 0, done.stderr
    return [json.loads(line)['prediction'] for line in (tmp_path / 'out.jsonl').read_text().splitlines()]
  whole, same = answers('nowhere')
  assert whole == same and len(whole) > 3
  assert answers(whole[2]) == [whole[:whole.index(whole[2])], whole]
