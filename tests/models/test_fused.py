"""On an NVIDIA card a line attends by one kernel. There is none here: what stands in for it computes the same in plain
operations, so these are tests of what the kernel is given, of its gradient's rule and of its account."""

import dataclasses
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import FOR_TPUS, ROOT, scaled_up

from research import tree
from research.data.batch import Batch
from research.distributed import device
from research.models import fused, layers, splash
from research.models.config import Kind
from research.models.functions import build
from research.models.positions import Tokens
from research.planning import chips, compiled
from research.programs import flops, memory
from research.strategies import table
from research.strategies.bind import bind

LENGTHS = 50, 30, 48       # of the documents that share a line of 128
WINDOW = 9


def batch(lines=2, lengths=LENGTHS):
  rng = np.random.default_rng(0)
  row = lambda parts: np.stack([np.concatenate(parts)] * lines).astype(np.int32)
  return Batch(rng.integers(3, 250, (lines, sum(lengths))).astype(np.int32), row([np.arange(n) for n in lengths]),
               row([np.full(n, i + 1) for i, n in enumerate(lengths)]))


def model(name, windows=(0,), **fields):
  c = scaled_up(name).model.config
  kinds = tuple(Kind(window, c.layer_kinds[0].rope) for window in windows)
  pattern = tuple(i % len(kinds) for i in range(c.layers))
  return build(dataclasses.replace(c, **{'dtype': 'bfloat16', 'layer_kinds': kinds, 'layer_pattern': pattern, **fields}))


def kernels(model, variables, lines, kind='gpu'):
  """Those that the gradient of a line calls, and how often."""
  found = {}
  with device.compiling_for(kind, 9.0 if kind == 'gpu' else 0.0):
    total = lambda v: jnp.sum(model.hidden(v, lines).astype(jnp.float32))
    for eqn, times in flops.equations(jax.make_jaxpr(jax.grad(total))(variables).jaxpr):
      if fused.kernel(eqn):
        found[fused.kernel(eqn)] = found.get(fused.kernel(eqn), 0) + times
  return found


def of_a_line(model, variables, lines, kind):
  """What a line's hidden states are, and the gradient of a sum of them by all variables, on a kind of device."""
  g = np.random.default_rng(1).normal(size=(*lines.tokens.shape, model.config.width)).astype(np.float32)
  def total(v):
    x = model.hidden(v, lines).astype(jnp.float32)
    return jnp.sum(x * g), x
  with device.compiling_for(kind, 9.0 if kind == 'gpu' else 0.0):
    (_, x), gradient = jax.jit(lambda v: jax.value_and_grad(total, has_aux=True)(v))(variables)
  return [x, *jax.tree.leaves(gradient)]


def off(ours, expected):
  """The relative error of the states, or of the whole gradient: the larger one."""
  flat = lambda arrays: np.concatenate([np.asarray(x, np.float64).ravel() for x in arrays])
  error = lambda a, b: np.linalg.norm(flat(a) - flat(b)) / np.linalg.norm(flat(b))
  return max(error(ours[:1], expected[:1]), error(ours[1:], expected[1:]))


@pytest.mark.parametrize('name, windows, branches', [
    ('llama-tiny', (0,), False), ('llama-tiny', (WINDOW,), False), ('llama-tiny', (0, WINDOW), True),
    ('gpt2-tiny', (0,), True)])
def test_a_line_sees_what_it_sees_elsewhere(name, windows, branches):
  """No further from float32 than plain bfloat16 is."""
  made, lines, variables = model(name, windows), batch(), {'params': scaled_up(name).params}
  if branches:
    lines = lines._replace(branches=np.repeat([[0, 1, 2, 3]], 32, axis=1).repeat(2, axis=0).astype(np.int32))
  assert kernels(made, variables, lines) == dict.fromkeys(('fused_attention', 'fused_attention_gradient'), made.config.layers)
  exact = of_a_line(model(name, windows, dtype='float32'), variables, lines, 'cpu')
  ours, plain = (off(of_a_line(made, variables, lines, kind), exact) for kind in ('gpu', 'cpu'))
  assert ours < 1.5 * plain < 0.1


@pytest.mark.parametrize('windows, cap', [((0,), 0.0), ((0, WINDOW), 0.0), ((WINDOW,), 5.0)])
def test_on_a_tpu_a_line_sees_what_it_sees_elsewhere(windows, cap, monkeypatch):
  """The kernel is interpreted here; padding behind the documents is seen by nobody and its states are left out."""
  monkeypatch.setattr(splash, 'INTERPRET', True)
  made, lines = model('llama-tiny', windows, dtype='float32', attention_cap=cap), batch()
  lines = lines._replace(segments=np.where(lines.segments == 3, 0, lines.segments))
  variables = {'params': scaled_up('llama-tiny').params}

  def of(kind):
    def total(v):
      x = made.hidden(v, lines) * (lines.segments > 0)[..., None]
      return jnp.sum(jnp.sin(x)), x
    with device.compiling_for(kind):
      (_, x), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(variables)
    return [x, *jax.tree.leaves(gradient)]
  assert sum(kernels(made, variables, lines, 'tpu').values()) == 2 * made.config.layers
  assert off(of('tpu'), of('cpu')) < 1e-5


@pytest.mark.skipif(not compiled.available(), reason='needs libtpu: pip install -e \'.[tpu]\'')
@pytest.mark.parametrize('slice', ['v5e:2x2', 'v6e:2x2'])
def test_the_kernel_and_its_gradient_compile_for_tpus(slice):
  """What is there beside arguments and results is a small part of what the scores would take."""
  code = f'''
from research.planning import compiled
compiled.prepare()
import jax, jax.numpy as jnp
from research.models import splash
place = jax.sharding.SingleDeviceSharding(compiled.devices("{slice}")[0])
shaped = lambda *shape, dtype=jnp.bfloat16: jax.ShapeDtypeStruct(shape, dtype, sharding=place)
total = lambda q, k, v, segments: jnp.sum(splash.attend(q, k, v, segments, 0.125, 0, 0.0).astype(jnp.float32))
q, k = shaped(2, 4096, 8, 64), shaped(2, 4096, 2, 64)
made = jax.jit(jax.grad(total, (0, 1, 2))).lower(q, k, k, shaped(2, 4096, dtype=jnp.int32)).compile()
print(made.memory_analysis().temp_size_in_bytes)
'''
  done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT, env=FOR_TPUS)
  assert done.returncode == 0, done.stderr[-2000:]
  scores = 2 * 8 * 4096 ** 2 * 2
  assert int(done.stdout) < scores / 20


def test_behind_a_prefix_and_in_front_of_a_cache_a_line_attends_plainly():
  """There a line sees more than itself, which the kernel was not compared on."""
  loaded, lines = scaled_up('llama-tiny'), batch()
  trainable, frozen = bind(jax.random.key(0), table.make('prefix', {'slots': 128}), loaded.model, loaded.params)
  made = model('llama-tiny')
  assert kernels(made, tree.join(trainable, frozen), lines) == {}
  with device.compiling_for('gpu', 9.0):
    read = jax.make_jaxpr(made.prefill, static_argnums=2)({'params': loaded.params}, lines, 256)
  assert not any(fused.kernel(eqn) for eqn, _ in flops.equations(read.jaxpr))


@pytest.mark.parametrize('why, name, fields, lengths', [
    ('float32', 'llama-tiny', {'dtype': 'float32'}, LENGTHS), ('capped scores', 'llama-tiny', {'attention_cap': 50.0}, LENGTHS),
    ('relative biases', 't5-tiny', {}, LENGTHS), ('no whole blocks', 'llama-tiny', {}, (128, 32)),
    ('long', 'llama-tiny', {}, (4096, 128)), ('wished', 'llama-tiny', {'attention': 'plain'}, LENGTHS)])
def test_what_the_kernel_cannot_do_is_done_without_it(why, name, fields, lengths):
  lines = batch(1, lengths)
  if name == 't5-tiny':
    lines = lines.with_source(lines)
  assert kernels(model(name, **fields), {'params': scaled_up(name).params}, lines) == {}, why


def attention(length, members=()):
  """Queries, keys and values of 4 heads on 2, and the mask of a line of two documents."""
  keys = jax.random.split(jax.random.key(0), 3)
  q, k, v = (jax.random.normal(key, (*members, 2, length, heads, 16), jnp.bfloat16) for key, heads in zip(keys, (4, 2, 2)))
  slots = jnp.arange(length)[None]
  side = Tokens(jnp.where(slots < length // 3, 1, 2), slots, slots, 0 * slots)
  return q, k, v, jnp.broadcast_to(layers.attention_mask(side, side), (2, length, length))


def test_members_of_a_cohort_attend_as_each_would_alone():
  *given, mask = attention(128, members=(3,))
  total = lambda *x: jnp.sum(jnp.sin(fused.attend(*x, mask, 0.25).astype(jnp.float32)))
  gradient = jax.grad(total, (0, 1, 2))
  together = jax.jit(jax.vmap(gradient))(*given)
  for number in range(3):
    alone = jax.jit(gradient)(*[x[number] for x in given])
    for a, b in zip(together, alone):
      np.testing.assert_array_equal(np.asarray(a[number], np.float32), np.asarray(b, np.float32))


def test_its_account_counts_half_of_all_pairs_and_keeps_no_scores():
  def of(length):
    total = lambda *x: jnp.sum(fused.attend(*x, 0.25).astype(jnp.float32))
    traced = jax.jit(jax.grad(total, (0, 1, 2))).trace(*attention(length))
    return flops.count(traced.jaxpr), memory.peak(traced.jaxpr, 0)
  (flops_1, bytes_1), (flops_2, bytes_2) = of(256), of(512)
  assert flops_1 == (2 + 7) * 2 * 4 * 256 ** 2 * 16 and flops_2 == 4 * flops_1
  assert bytes_2 == pytest.approx(2 * bytes_1, rel=1e-3)


@pytest.mark.quick
@pytest.mark.parametrize('capability, expected', [('9.0', 9.0), ('7.5', 7.5), ('gfx942', 0.0), (None, 0.0)])
def test_only_nvidias_cards_have_a_capability(monkeypatch, capability, expected):
  card = type('Device', (), {} if capability is None else {'compute_capability': capability})
  monkeypatch.setattr(jax, 'devices', lambda: [card])
  assert device.compute_capability() == expected
  with device.compiling_for('tpu'):
    assert device.compute_capability() == 0


@pytest.mark.parametrize('chip', chips.table())
def test_a_plan_counts_the_kernel_on_the_cards_that_have_it(chip):
  made, lines, variables = model('llama-tiny'), batch(), {'params': scaled_up('llama-tiny').params}
  kind = 'tpu' if chip in chips.TPU_SLICES else 'gpu'
  with device.compiling_for(kind, chips.table()[chip].capability):
    jaxpr = jax.make_jaxpr(lambda v: made.hidden(v, lines))(variables).jaxpr
  has_it = any(fused.kernel(eqn) for eqn, _ in flops.equations(jaxpr))
  assert has_it == (kind == 'tpu' or chip in ('L4', 'A10G', 'L40S', 'A100-40', 'A100-80', 'H100', 'H200'))
