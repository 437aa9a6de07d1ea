"""One step: how a batch becomes an update."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import batch, documents, scaled_up, start, take

from research import tree
from research.data.batches import TrainingBatches
from research.distributed import device
from research.models import functions
from research.models.config import REMAT
from research.programs import flops
from research.programs.compile import compiled
from research.strategies import table
from research.strategies.bind import bind
from research.training import losses
from research.training.objective import CROSS_ENTROPY, CrossEntropy
from research.training.steps import TrainState, eval_step, train_step


def test_microbatches_change_no_update(tiny):
  docs = documents(tiny, 8, longest=120)
  assert len({len(d.targets) for d in docs}) > 4       # parts of uneven target counts
  trainable, frozen = bind(jax.random.key(0), table.full(), tiny.model, tiny.params)
  tx = optax.sgd(1.0)                                  # the update is the gradient
  found = []
  for parts in (1, 2, 4):
    one = TrainingBatches(docs, 8, parts, seed=0, steps=1)(0)
    assert one.tokens.shape[0] == parts
    state = TrainState(jnp.int32(0), jax.random.key(0), trainable, tx.init(trainable))
    step = jax.jit(functools.partial(train_step, model=tiny.model, tx=tx, objective=CrossEntropy(0.1)))
    after, metrics = step(state, frozen, one)
    found.append((metrics, jax.tree.map(jnp.subtract, after.trainable, trainable)))
  (metrics, update), *others = found
  largest = max(jnp.abs(x).max() for x in jax.tree.leaves(update))
  assert largest > 1e-2
  for other_metrics, other in others:
    for name in metrics:
      np.testing.assert_allclose(other_metrics[name], metrics[name], rtol=1e-5)
    for name, x in tree.leaves(other).items():
      np.testing.assert_allclose(x, tree.leaves(update)[name], atol=1e-6 * float(largest), rtol=1e-5, err_msg=name)


def test_a_step_reads_its_key_and_number_and_nothing_else(tiny):
  state, frozen, tx = start(tiny, table.lora(dropout=0.5))
  docs = documents(tiny, 2, longest=120)
  state, _ = take(tiny, state, frozen, tx, [batch(docs, 128)])       # B = 0 hides the dropout at step 0
  loss = lambda state: take(tiny, state, frozen, tx, [batch(docs, 128)])[1]
  assert loss(state) == loss(state)
  assert loss(state) != loss(state._replace(key=jax.random.key(1)))
  assert loss(state) != loss(state._replace(step=state.step + 1))


def test_evaluation_knows_no_dropout(tiny):
  one = batch(documents(tiny, 2, longest=120), 128)
  first = jax.tree.map(lambda x: x[0], one)
  of_rate = []
  for rate in (0.0, 0.5):
    state, frozen, _ = start(tiny, table.lora(dropout=rate))
    trainable = jax.tree.map(lambda x: x + 0.01, state.trainable)
    of_rate.append(np.asarray(eval_step(tree.join(trainable, frozen), first, model=tiny.model)))
  np.testing.assert_array_equal(*of_rate)


def test_runs_that_differ_in_rate_decay_or_seed_share_one_compilation(tiny):
  one = batch(documents(tiny, 2, longest=120), 128)

  def step(objective=CROSS_ENTROPY, **settings):
    state, frozen, tx = start(tiny, table.lora(rank=2), **settings)
    return compiled(train_step, state, frozen, one, donate=(0,), model=tiny.model, tx=tx,
                    objective=objective)

  first = step(learning_rate=1e-2, weight_decay=0.0, seed=0)
  assert step(learning_rate=1e-3, weight_decay=0.1, seed=1) is first
  assert step(objective=CrossEntropy(0.1)) is not first


@pytest.mark.parametrize('optimizer', ['adamw', 'adafactor'])
def test_an_optimiser_lowers_the_loss(tiny, optimizer):
  state, frozen, tx = start(tiny, table.lora(), optimizer=optimizer)
  _, found = take(tiny, state, frozen, tx, [batch(documents(tiny, 2, longest=120), 128)] * 8)
  assert found[-1] < 0.9 * found[0]


def test_the_loss_of_many_targets_is_that_of_few_at_a_time(tiny):
  docs = documents(tiny, 12)
  one = jax.tree.map(lambda x: x[0], batch(docs, 512))
  assert one.targets.size > 2 * device.targets_at_once()

  def plain(params):
    hidden = tiny.model.hidden({'params': params}, one)
    logits = tiny.model.logits({'params': params}, hidden)                     # every position's at one time
    scores = jnp.take_along_axis(logits, one.index[..., None], axis=1)
    each = optax.softmax_cross_entropy_with_integer_labels(scores, one.targets)
    return jnp.sum(each * one.weights), each

  def ours(params):
    each = losses.target_losses(tiny.model, {'params': params}, one)
    return losses.cross_entropy(tiny.model, {'params': params}, one)[0], each

  grads, each = jax.jit(jax.grad(plain, has_aux=True))(tiny.params)
  our_grads, our_each = jax.jit(jax.grad(ours, has_aux=True))(tiny.params)
  np.testing.assert_allclose(our_each, each, rtol=1e-4, atol=1e-5)
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-5 * np.abs(y).max(), rtol=1e-3), our_grads, grads)


@pytest.mark.parity
def test_label_smoothing_is_torchs(tiny):
  import torch
  one = jax.tree.map(lambda x: x[0], batch(documents(tiny, 2, longest=120), 128))
  variables = {'params': tiny.params}
  ours = losses.target_losses(tiny.model, variables, one, label_smoothing=0.2)
  logits = np.array(tiny.model.logits(variables, tiny.model.hidden(variables, one)))
  logits = np.take_along_axis(logits, one.index[..., None], axis=1)
  theirs = torch.nn.functional.cross_entropy(
      torch.tensor(logits).flatten(0, 1), torch.tensor(one.targets).long().flatten(), label_smoothing=0.2,
      reduction='none')
  np.testing.assert_allclose(ours.reshape(-1), theirs, rtol=1e-5)


@pytest.mark.diagonal('row', 'name')
@pytest.mark.parametrize('row', ['full', 'lora'])
@pytest.mark.parametrize('name', ['t5-tiny', 'llama-tiny'])
def test_computing_again_takes_less_memory_and_learns_the_same(name, row):
  loaded, of = scaled_up(name), {}
  for remat in REMAT:
    config = dataclasses.replace(loaded.model.config, remat=remat)
    model = loaded._replace(model=functions.build(config))
    state, frozen, tx = start(model, table.make(row, {}))
    one = batch(documents(model, 6), 256)
    step = compiled(train_step, state, frozen, one, model=model.model, tx=tx)
    of[remat] = take(model, state, frozen, tx, [one] * 3)[1], step.peak_bytes, step.flops
  losses, peaks, flops = ([found[i] for found in of.values()] for i in range(3))
  np.testing.assert_allclose(losses[1:], [losses[0]] * 2, rtol=1e-5)
  assert peaks[0] > peaks[1] > peaks[2]
  assert flops[0] < flops[1] < flops[2]          # attention's products again, then all


@pytest.mark.parametrize('name, of_mlp', [('llama-tiny', 3), ('gpt2-tiny', 2)])
def test_the_backward_pass_keeps_what_kernels_read_and_gave_and_attentions_weights_once(name, of_mlp):
  loaded = scaled_up(name)
  one, c = jax.tree.map(lambda x: x[0], batch(documents(loaded, 6), 256)), loaded.model.config
  _, backward = jax.vjp(lambda params: jnp.sum(loaded.model.hidden({'params': params}, one)), loaded.params)
  kept = [x.shape for x in jax.tree.leaves(backward) if jnp.issubdtype(x.dtype, jnp.floating) and x.shape[:1] == (c.layers,)]
  rows, length = one.tokens.shape
  assert kept.count((c.layers, rows, length, c.hidden)) == of_mlp      # gate, up, their product; or up and its activation
  scores = rows * c.heads * length * length
  assert sum(math.prod(shape[1:]) == scores for shape in kept) == 1


@pytest.mark.parametrize('row', ['full', 'lora'])
@pytest.mark.parametrize('name', ['llama-tiny', 't5-tiny'])
def test_the_gradient_made_on_the_way_forward_is_that_of_finite_differences(name, row):
  """Along the steepest direction of what learns, where the slope is the gradient's norm; the head learns or does not."""
  loaded, step = scaled_up(name), 2e-3
  one = jax.tree.map(lambda x: x[0], batch(documents(loaded, 6), 256))
  assert one.targets.size > device.targets_at_once()
  trainable, frozen = bind(jax.random.key(0), table.make(row, {}), loaded.model, loaded.params)
  total = jax.jit(lambda x: losses.cross_entropy(loaded.model, tree.join(x, frozen), one)[0])
  grads = jax.jit(jax.grad(total))(trainable)
  norm = float(optax.tree.norm(grads))
  ahead, behind = (total(jax.tree.map(lambda x, g, by=by: x + by * g / norm, trainable, grads)) for by in (step, -step))
  assert (ahead - behind) / (2 * step) == pytest.approx(norm, rel=2e-2)


def test_a_step_multiplies_by_the_head_three_times_where_it_learns_and_twice_where_not(tiny):
  """Logits, their gradient by what the head read, and by the head: once each, for every chunk."""
  one = batch(documents(tiny, 12), 512)
  vocab, chunks = tiny.model.config.vocab, -(-one.targets.size // device.targets_at_once())
  assert chunks > 1
  for row, expected in (('full', 3), ('lora', 2)):
    state, frozen, tx = start(tiny, table.make(row, {}))
    jaxpr = jax.make_jaxpr(functools.partial(train_step, model=tiny.model, tx=tx))(state, frozen, one)
    with_vocab = sum(times for eqn, times in flops.equations(jaxpr.jaxpr) if eqn.primitive.name == 'dot_general'
                     and any(vocab in v.aval.shape for v in (*eqn.invars, *eqn.outvars)))
    assert with_vocab == expected * chunks
    assert not any(v.aval.shape[-1:] == (vocab,) and v.aval.size > device.targets_at_once() * vocab
                   for eqn, _ in flops.equations(jaxpr.jaxpr) for v in eqn.outvars)
