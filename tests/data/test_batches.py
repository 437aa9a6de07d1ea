"""Documents share lines, prompts and beginnings, and no loss depends on it."""

import itertools

import jax
import numpy as np
import pytest

from research.data import batches, demonstrations, prompts, tasks
from research.data.batch import Batch
from research.data.batches import (
  LineCapacity,
  TrainingBatches,
  first_fit_decreasing,
  order,
  pack,
  prompt_with_answer,
  prompt_with_choices,
)
from research.evaluation import shared_prefix
from research.evaluation.score import document_losses, score
from research.training.steps import eval_step

LENGTH = 512


@pytest.fixture(scope='module')
def naive(tiny):
  """(prompt, answer) -> the answer's losses, from the logits of the one sequence, in NumPy."""
  @jax.jit
  def forward(variables, tokens):
    batch = Batch(tokens, np.arange(LENGTH)[None], np.ones((1, LENGTH), np.int32))
    return tiny.model.logits(variables, tiny.model.hidden(variables, batch))[0]

  def losses(prompt, answer):
    tokens = np.zeros((1, LENGTH), np.int32)
    tokens[0, :len(prompt) + len(answer)] = [*prompt, *answer]
    logits = np.asarray(forward({'params': tiny.params}, tokens), np.float64)
    at = np.arange(len(prompt) - 1, len(prompt) + len(answer) - 1)
    return np.log(np.exp(logits[at]).sum(-1)) - logits[at, answer]
  return losses


def made(tiny, name, count, shots=0, split='test'):
  task = tasks.make(name, {})
  shown = demonstrations.choose(task, shots, 'random', seed=0)
  found = prompts.examples(task, task.rows(split), tiny.tokenizer, shown)
  return [e for e in found if len(e.prompt_ids) + len(e.target_ids) < LENGTH - 20][:count]


@pytest.mark.parametrize('shots', [0, 2], ids=['apart', 'after shared demonstrations'])
def test_packed_losses_equal_one_by_one_losses(tiny, naive, shots):
  found = made(tiny, 'translation', 24, shots)
  variables, cut = shared_prefix.read(tiny.model, {'params': tiny.params}, [e.prompt_ids for e in found])
  assert (cut > 50) == (shots > 0)                                               # the demonstrations are read once
  documents = [prompt_with_answer(e._replace(prompt_ids=e.prompt_ids[cut:])) for e in found]
  [batch, *_] = (batch for batch, _ in batches.evaluation_batches(documents, 4))
  assert batch.segments.max() > 1                                             # documents do share lines
  for example, losses in zip(found, document_losses(tiny.model, variables, documents, 4)):
    np.testing.assert_allclose(losses, naive(example.prompt_ids, example.target_ids), rtol=0, atol=1e-5)


def test_choices_side_by_side_equal_each_choice_alone(tiny, naive):
  found = made(tiny, 'domain', 12)
  eos = tiny.tokenizer.eos
  for example, scores in zip(found, score(tiny.model, {'params': tiny.params}, found, 4)):
    assert list(scores.choices) == ['amazon', 'imdb', 'yelp']
    for choice, ids in example.choices.items():
      alone = naive(example.prompt_ids, [*ids, eos])
      np.testing.assert_allclose(scores.choices[choice], -alone[:-1].sum(), rtol=0, atol=1e-5)
      if choice == example.row['domain']:
        np.testing.assert_allclose(scores.loss, alone.sum(), rtol=0, atol=1e-5)
        assert scores.tokens == len(ids) + 1


@pytest.fixture(scope='module')
def compiled(tiny):
  return jax.jit(lambda batch: eval_step({'params': tiny.params}, batch, model=tiny.model))


def lines_losses(tiny, documents, lines, step=None):
  """The losses of every document, laid out in these lines."""
  batch, layout = pack(documents, lines, LineCapacity(LENGTH), 256)
  step = step or jax.jit(lambda batch: eval_step({'params': tiny.params}, batch, model=tiny.model))
  losses, found = np.asarray(step(batch)), [None] * len(documents)
  for place in layout:
    found[place.document] = losses[place.line, place.start:place.start + place.count]
  return found


def other_tokens(document, where):
  """The document with other tokens at the places that `where` (bool per token) marks; its targets stay."""
  return document._replace(tokens=[(t + 1) % 256 if w else t for t, w in zip(document.tokens, where)])


@pytest.mark.parametrize('changed, kept', [(0, 1), (1, 0)])
def test_changing_one_document_cannot_change_its_neighbours_loss_by_a_bit(tiny, compiled, changed, kept):
  documents = [prompt_with_answer(e) for e in made(tiny, 'translation', 2)]
  before = lines_losses(tiny, documents, [[0, 1]], step=compiled)
  documents[changed] = other_tokens(documents[changed], [True] * len(documents[changed].tokens))
  after = lines_losses(tiny, documents, [[0, 1]], step=compiled)
  np.testing.assert_array_equal(after[kept], before[kept])
  assert (np.abs(after[changed] - before[changed]) > 1e-3).any()


@pytest.mark.parametrize('changed, kept', [(1, 2), (2, 1)])
def test_changing_one_choice_cannot_change_another_choices_loss_by_a_bit(tiny, compiled, changed, kept):
  [example] = made(tiny, 'sentiment', 1)
  document = prompt_with_choices(example)
  [before] = lines_losses(tiny, [document], [[0]], step=compiled)
  [after] = lines_losses(tiny, [other_tokens(document, [b == changed for b in document.branches])], [[0]],
                         step=compiled)
  first = len(example.choices['negative']) + 1
  parts = {1: slice(0, first), 2: slice(first, None)}
  np.testing.assert_array_equal(after[parts[kept]], before[parts[kept]])
  assert (np.abs(after[parts[changed]] - before[parts[changed]]) > 1e-3).any()


def test_loss_is_on_target_tokens_alone_and_every_one_of_them(tiny):
  found = made(tiny, 'translation', 30, split='train')
  documents = [prompt_with_answer(e) for e in found]
  capacity = LineCapacity(LENGTH)
  batch, layout = pack(documents, first_fit_decreasing([(len(d.tokens), 0) for d in documents], capacity), capacity, 512)
  assert batch.weights.sum() == sum(len(e.target_ids) for e in found)
  assert sorted(place.document for place in layout) == list(range(30))
  for place in layout:
    own = np.s_[place.line, place.start:place.start + place.count]
    assert batch.targets[own].tolist() == found[place.document].target_ids
    assert batch.targets[own][-1] == tiny.tokenizer.eos and (batch.weights[own] == 1).all()
    index = batch.index[own]                                     # the target's token is the next one in the line
    assert batch.tokens[place.line, index[:-1] + 1].tolist() == found[place.document].target_ids[:-1]
    [segment] = {*batch.segments[place.line, index]}
    assert batch.tokens[place.line][batch.segments[place.line] == segment].tolist() == [
        *found[place.document].prompt_ids, *found[place.document].target_ids[:-1]]


@pytest.mark.quick
def test_fit_puts_every_document_in_one_line_that_holds_it():
  sizes = np.random.default_rng(0).integers(1, 100, 200).tolist()
  pairs = [(size, 0) for size in sizes]
  lines = first_fit_decreasing(pairs, LineCapacity(128))
  assert sorted(itertools.chain(*lines)) == list(range(200))
  assert max(sum(sizes[i] for i in line) for line in lines) <= 128
  assert len(lines) <= 11 / 9 * sum(sizes) / 128 + 1          # first-fit decreasing's bound, here above the volume's
  assert lines == first_fit_decreasing(pairs, LineCapacity(128))


@pytest.mark.quick
def test_every_epoch_is_another_permutation():
  draws = list(itertools.islice(order(17, seed=3, start=0), 4 * 17))
  epochs = [tuple(draws[i:i + 17]) for i in range(0, 68, 17)]
  assert all(sorted(epoch) == list(range(17)) for epoch in epochs)
  assert len(set(epochs)) == 4
  assert draws != list(itertools.islice(order(17, seed=4, start=0), 68))


@pytest.mark.quick
@pytest.mark.parametrize('start', [1, 16, 17, 18, 40])
def test_order_is_a_pure_function_of_seed_and_start(start):
  whole = list(itertools.islice(order(17, seed=3, start=0), 100))
  assert list(itertools.islice(order(17, seed=3, start=start), 30)) == whole[start:start + 30]


def test_a_batch_is_a_pure_function_of_its_step(tiny):
  documents = [prompt_with_answer(e) for e in made(tiny, 'sentiment', 20, split='train')]
  run = TrainingBatches(documents, 8, 2, seed=1, steps=12)
  walked = [run(step) for step in range(12)]
  again = TrainingBatches(documents, 8, 2, seed=1, steps=12)
  for step in (11, 4, 0):
    jax.tree.map(np.testing.assert_array_equal, again(step), walked[step])
  assert len({str(jax.tree.map(np.shape, batch)) for batch in walked}) == 1      # one shape, one compilation
  other = TrainingBatches(documents, 8, 2, seed=2, steps=12)(0)
  assert other.tokens.shape != walked[0].tokens.shape or (other.tokens != walked[0].tokens).any()


@pytest.mark.parametrize('microbatches', [1, 2, 4])
def test_batches_hold_the_rows_that_order_draws(tiny, microbatches):
  documents = [prompt_with_answer(e) for e in made(tiny, 'sentiment', 20, split='train')]
  run, numbers = TrainingBatches(documents, 8, microbatches, seed=1, steps=5), order(20, 1, 0)
  for step in range(5):
    batch = run(step)
    assert batch.tokens.shape[0] == microbatches
    expected = sorted(tuple(documents[next(numbers)].tokens) for _ in range(8))
    held = [tuple(tokens[segments == s].tolist())
            for tokens, segments in zip(batch.tokens.reshape(-1, batch.tokens.shape[-1]),
                                        batch.segments.reshape(-1, batch.tokens.shape[-1]))
            for s in range(1, segments.max() + 1)]
    assert sorted(held) == expected
