"""Documents of an encoder-decoder, and of a model with learned positions: packed, branched and redrawn, and no loss depends
on it."""

import itertools

import jax
import numpy as np
import pytest
from helpers import scaled_up, torch_twin

from research.data import batches, prompts, sources, tasks
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
from research.data.texts import Corrupted
from research.evaluation.score import document_losses, score
from research.training.steps import eval_step


@pytest.fixture(scope='module', params=['t5-tiny', 'gpt2-tiny'])
def loaded(request):
  return scaled_up(request.param)


@pytest.fixture(scope='module')
def t5():
  return scaled_up('t5-tiny')


def made(loaded, name, count, split='test', longest=160):
  task = tasks.make(name, {})
  found = prompts.examples(task, task.rows(split), loaded.tokenizer)
  return [e for e in found if len(e.prompt_ids) + len(e.target_ids) < longest][:count]


def documents_of(loaded, examples):
  return [prompt_with_answer(e, loaded.model.config.decoder_start_id) for e in examples]


LENGTH = 192


@pytest.fixture(scope='module')
def alone(loaded):
  """(prompt, answer) -> the answer's losses, from the logits of arrays that hold this one document, in NumPy."""
  start = loaded.model.config.decoder_start_id
  forward = jax.jit(lambda variables, batch: loaded.model.logits(variables, loaded.model.hidden(variables, batch))[0])

  def line(ids):
    pad = lambda x: np.pad(np.asarray(x, np.int32), (0, LENGTH - len(ids)))[None]
    return Batch(pad(ids), pad(range(len(ids))), pad([1] * len(ids)))

  def losses(prompt, answer):
    read = prompt if start is None else [start]
    batch = line([*read, *answer])
    if start is not None:
      batch = batch.with_source(line(prompt))
    logits = np.asarray(forward({'params': loaded.params}, batch), np.float64)
    at = np.arange(len(read) - 1, len(read) + len(answer) - 1)
    return np.log(np.exp(logits[at]).sum(-1)) - logits[at, answer]
  return losses


def test_an_encoder_reads_the_prompt_and_eos_and_the_decoder_goes_on_from_its_start(t5):
  for example in made(t5, 'translation', 9):
    assert example.prompt_ids == t5.tokenizer.hf(example.prompt)['input_ids'] == [*example.prompt.encode(), t5.tokenizer.eos]
    document = prompt_with_answer(example, 258)
    assert document.source == example.prompt_ids and document.targets == example.target_ids
    assert document.tokens == [t5.tokenizer.hf.pad_token_id, *example.target_ids[:-1]]
    assert document.index == document.positions == list(range(len(document.tokens)))
    assert document.branches == [0] + [1] * (len(document.tokens) - 1)


def test_packed_losses_equal_each_documents_alone(loaded, alone):
  found = made(loaded, 'translation', 40)
  documents = documents_of(loaded, found)
  side = 'segments' if loaded.model.config.decoder_start_id is None else 'source_segments'
  assert max(getattr(batch, side).max() for batch, _ in batches.evaluation_batches(documents, 4)) > 2     # they do share lines
  losses = document_losses(loaded.model, {'params': loaded.params}, documents, 4)
  assert np.concatenate(losses).std() > 0.5
  for example, own in zip(found, losses):
    np.testing.assert_allclose(own, alone(example.prompt_ids, example.target_ids), rtol=0, atol=1e-5)


def test_choices_side_by_side_equal_each_choice_alone(loaded, alone):
  found, eos = made(loaded, 'domain', 8), loaded.tokenizer.eos
  for example, scores in zip(found, score(loaded.model, {'params': loaded.params}, found, 2)):
    for choice, ids in example.choices.items():
      expected = alone(example.prompt_ids, [*ids, eos])
      np.testing.assert_allclose(scores.choices[choice], -expected[:-1].sum(), rtol=0, atol=1e-5)
      if choice == example.row['domain']:
        np.testing.assert_allclose(scores.loss, expected.sum(), rtol=0, atol=1e-5)
    assert len({round(s, 2) for s in scores.choices.values()}) == 3


def line_losses(loaded, documents, step):
  """The losses of every document, all on one line."""
  batch, layout = pack(documents, [list(range(len(documents)))], LineCapacity(512, 512 if documents[0].source else 0), 256)
  losses = np.asarray(step(batch))
  return [losses[place.line, place.start:place.start + place.count] for place in layout]


def other(ids):
  return [(i + 1) % 256 if i < 256 else i for i in ids]


def test_another_source_or_target_changes_no_neighbours_loss_by_a_bit_and_its_own_by_much(loaded):
  step = jax.jit(lambda batch: eval_step({'params': loaded.params}, batch, model=loaded.model))
  found = made(loaded, 'translation', 3)
  before = line_losses(loaded, documents_of(loaded, found), step)
  for changed in range(3):
    for field in ('prompt_ids', 'target_ids'):
      again = list(found)
      again[changed] = found[changed]._replace(**{field: other(getattr(found[changed], field))})
      after = line_losses(loaded, documents_of(loaded, again), step)
      for kept in {0, 1, 2} - {changed}:
        np.testing.assert_array_equal(after[kept], before[kept])
      assert np.abs(after[changed] - before[changed]).max() > 1e-2
      if field == 'prompt_ids':                          # what is predicted first has read the prompt and nothing else
        assert abs(after[changed][0] - before[changed][0]) > 1e-3


def test_another_choice_changes_no_choices_loss_by_a_bit(loaded):
  step = jax.jit(lambda batch: eval_step({'params': loaded.params}, batch, model=loaded.model))
  [example] = made(loaded, 'sentiment', 1)
  first = len(example.choices['negative']) + 1
  parts = {'negative': slice(0, first), 'positive': slice(first, None)}
  begins = loaded.model.config.decoder_start_id
  whole = lambda e: line_losses(loaded, [prompt_with_choices(e, begins)], step)[0]
  before = whole(example)
  for changed, kept in (parts, reversed(parts)):
    after = whole(example._replace(choices={**example.choices, changed: other(example.choices[changed])}))
    np.testing.assert_array_equal(after[parts[kept]], before[parts[kept]])
    assert np.abs(after[parts[changed]] - before[parts[changed]]).max() > 1e-2


def test_no_loss_depends_on_the_evaluation_batch_size(loaded):
  documents = documents_of(loaded, made(loaded, 'translation', 60))
  assert len(list(batches.evaluation_batches(documents, 1))) > 4
  one, *others = (document_losses(loaded.model, {'params': loaded.params}, documents, size) for size in (1, 4, 16))
  for found in others:
    for x, y in zip(one, found):
      np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5)


def test_every_documents_targets_weigh_once_in_an_evaluation(loaded):
  found = made(loaded, 'translation', 50)
  documents = documents_of(loaded, found)
  seen = []
  for batch, layout in batches.evaluation_batches(documents, 3):
    for place in layout:
      own = np.s_[place.line, place.start:place.start + place.count]
      assert batch.targets[own].tolist() == found[place.document].target_ids
      batch.weights[own] -= 1
      seen.append(place.document)
    assert not batch.weights.any()                    # 1 at every target, 0 everywhere else
  assert sorted(seen) == list(range(50))


def test_every_documents_targets_weigh_once_in_an_epoch(loaded):
  documents = documents_of(loaded, made(loaded, 'translation', 24))
  run = TrainingBatches(documents, 8, 2, seed=1, steps=3)
  drawn = [run(step) for step in range(3)]
  held = np.concatenate([batch.targets[batch.weights == 1] for batch in drawn])
  assert {*np.unique(np.concatenate([batch.weights.ravel() for batch in drawn]))} == {0, 1}
  assert sorted(held) == sorted(itertools.chain(*(d.targets for d in documents)))


def held(batch):
  """(source, targets) of every document of a training batch, in no order."""
  found = []
  for part in range(len(batch.tokens)):
    b = jax.tree.map(lambda x, part=part: x[part], batch)
    for line in range(len(b.tokens)):
      of_target = b.segments[line, b.index[line]]
      for segment in range(1, b.source_segments[line].max() + 1):
        source = b.source_tokens[line, b.source_segments[line] == segment]
        found.append((tuple(source.tolist()), tuple(b.targets[line, (of_target == segment) & (b.weights[line] == 1)])))
  return sorted(found)


@pytest.fixture(scope='module')
def corrupted(t5):
  return Corrupted(sources.sample_texts()['valid'][::20], t5.tokenizer, 512, 0.15, 3.0, seed=5)


@pytest.mark.parametrize('microbatches', [1, 4])
def test_a_batch_holds_what_its_epoch_redraws_and_is_a_pure_function_of_its_step(t5, corrupted, microbatches):
  start, count, steps = t5.model.config.decoder_start_id, len(corrupted), 3 * len(corrupted) // 8
  redraw = lambda number, epoch: prompt_with_answer(corrupted.example(number, epoch), start)
  first = [redraw(number, 0) for number in range(count)]
  make = lambda: TrainingBatches(first, 8, microbatches, seed=3, steps=steps, redraw=redraw)
  run, numbers = make(), order(count, 3, 0)
  walked = [run(step) for step in range(steps)]
  assert len({str(jax.tree.map(np.shape, batch)) for batch in walked}) == 1     # so one compilation
  for step, batch in enumerate(walked):
    expected = [redraw(next(numbers), draw // count) for draw in range(8 * step, 8 * step + 8)]
    assert held(batch) == sorted((tuple(d.source), tuple(d.targets)) for d in expected)
  for step in (steps - 1, 0, steps // 2):
    jax.tree.map(np.testing.assert_array_equal, make()(step), walked[step])


def test_fit_leaves_no_line_too_full_on_either_side(t5):
  documents = documents_of(t5, made(t5, 'translation', 300, 'train', longest=500))
  room = batches.room_for(documents, 256)
  lines = first_fit_decreasing([(len(d.tokens), len(d.source)) for d in documents], room)
  assert sorted(itertools.chain(*lines)) == list(range(len(documents)))
  fullest = {side: max(sum(len(getattr(documents[i], side)) for i in line) for line in lines) for side in ('tokens', 'source')}
  assert fullest['tokens'] <= room.tokens and fullest['source'] <= room.source
  used = sum(len(d.source) for d in documents) / (len(lines) * room.source)
  assert used > 0.85


@pytest.mark.parity
def test_losses_equal_transformers_cross_entropy(loaded):
  import torch
  from torch.nn.functional import cross_entropy
  twin, found = torch_twin(loaded), made(loaded, 'translation', 24)
  documents = documents_of(loaded, found)
  for example, losses in zip(found, document_losses(loaded.model, {'params': loaded.params}, documents, 4)):
    prompt, target = torch.tensor([example.prompt_ids]), torch.tensor([example.target_ids])
    with torch.no_grad():
      if loaded.model.config.decoder_start_id is None:
        out = twin(torch.cat([prompt, target], 1), labels=torch.cat([torch.full_like(prompt, -100), target], 1))
        logits = out.logits[0, prompt.shape[1] - 1:-1]
      else:
        out = twin(prompt, labels=target)
        logits = out.logits[0]
    np.testing.assert_allclose(losses, cross_entropy(logits, target[0], reduction='none'), rtol=0, atol=1e-4)
    np.testing.assert_allclose(losses.mean(), out.loss, rtol=0, atol=1e-5)
