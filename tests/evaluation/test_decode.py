"""Generation: each prompt's continuation is its own."""

import numpy as np
import pytest

from research.evaluation.decode import generate

NEVER = 258   # a token that ends nothing here
TEXTS = ['Review: good\nSentiment:', 'x', 'English: Turn on the light in the kitchen\nGerman:', 'yes', 'A much ' * 9,
         'x', 'Documentation: gives the square root\nSummary:']


@pytest.fixture(scope='module')
def prompts(tiny):
  return [tiny.tokenizer.prompt(text) for text in TEXTS]


@pytest.fixture(scope='module')
def alone(tiny, prompts):
  return [generate(tiny.model, {'params': tiny.params}, [p], 24, NEVER, batch_size=1)[0] for p in prompts]


def test_greedy_takes_the_likeliest_token_of_the_full_forward(tiny, prompts, alone):
  for prompt, continuation in zip(prompts[:3], alone):
    text = [*prompt, *continuation]
    ids = np.zeros((1, 128), np.int32)
    ids[0, :len(text)] = text
    batch = {'tokens': ids, 'positions': np.arange(128)[None], 'segments': np.ones_like(ids),
             'branches': np.zeros_like(ids)}
    variables = {'params': tiny.params}
    logits = np.asarray(tiny.model.logits(variables, tiny.model.hidden(variables, batch)))[0]
    assert logits[len(prompt) - 1:len(text) - 1].argmax(-1).tolist() == continuation


def test_continuations_differ_enough_to_tell_prompts_apart(alone):
  assert len({tuple(a) for a in alone}) == len({*TEXTS}) and sum(len({*a}) > 4 for a in alone) >= 5


@pytest.mark.parametrize('batch_size', [2, 3, 16])
def test_batched_equals_one_by_one_in_the_prompts_order(tiny, prompts, alone, batch_size):
  assert generate(tiny.model, {'params': tiny.params}, prompts, 24, NEVER, batch_size) == alone
  backwards = generate(tiny.model, {'params': tiny.params}, prompts[::-1], 24, NEVER, batch_size)
  assert backwards == alone[::-1]


def test_an_answer_ends_at_eos_and_without_it_at_its_longest(tiny, prompts, alone):
  eos = alone[2][10]                                         # a token that the third prompt's answer comes to
  found = generate(tiny.model, {'params': tiny.params}, prompts, 24, eos, batch_size=4)
  expected = [a[:a.index(eos)] if eos in a else a for a in alone]
  assert found == expected
  assert len(found[2]) <= 10 and max(len(f) for f in found) == 24


def test_sampling_is_given_by_its_seed_and_close_to_greedy_when_cold(tiny, prompts, alone):
  variables = {'params': tiny.params}
  draw = lambda temperature, seed: generate(tiny.model, variables, prompts, 24, NEVER, 4, temperature, seed)
  assert draw(1.0, 1) == draw(1.0, 1) != draw(1.0, 2)
  assert draw(1.0, 1)[1] != draw(1.0, 1)[5]                  # two equal prompts draw apart
  assert draw(1e-4, 1) == alone
