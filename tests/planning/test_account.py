"""What a step is said to take, before anything is compiled, against what the compiler says."""

import jax
import pytest
from small import AS_IN_A_RUN, config, start

from experiments.benchmarks import sides
from research import experiment, sharding, train, tree
from research.models import load
from research.models.config import Execution
from research.planning import account
from research.strategies import table
from research.training import memory
from research.training.steps import train_step

# No constant of `memory` was chosen with these: family/strategy, and tokens with what is computed again.
STEPS = ['llama-small/dora', 'llama-small/ia3', 'gpt2-small/lora', 'gpt2-small/full', 't5-small/lora', 't5-small/adapter']
SIZES = [(64, 'none'), (160, 'products'), (256, 'layer'), (384, 'none')]


def predicted_and_compiled(name, strategy, length, remat):
  """Bytes of arguments and of what exists beside them, as predicted; and as the compiler says."""
  loaded = load.load(f'random:{name}', Execution('float32', 'float32', True, 'none', remat))
  state, frozen, tx = start(loaded, table.make(strategy, {}))
  batch = sides.tokens(loaded, 4, length)
  traced = jax.jit(lambda *args: train_step(*args, model=loaded.model, tx=tx), donate_argnums=(0,)).trace(state, frozen, batch)
  predicted = memory.peak(traced.jaxpr, len(jax.tree.leaves(state)))
  found = traced.lower().compile(AS_IN_A_RUN).memory_analysis()
  said = found.argument_size_in_bytes + found.output_size_in_bytes + found.temp_size_in_bytes - found.alias_size_in_bytes
  return found.argument_size_in_bytes + predicted, said


@pytest.mark.diagonal('step', 'size', step=('llama-small/ia3', 'gpt2-small/lora', 'gpt2-small/full', 't5-small/adapter'))
@pytest.mark.parametrize('size', SIZES, ids=str)
@pytest.mark.parametrize('step', STEPS)
def test_predicted_bytes_are_within_a_quarter_of_the_compilers(step, size):
  jax.config.update('jax_disable_most_optimizations', False)      # for this test alone: conftest sets it before each
  predicted, compiled = predicted_and_compiled(*step.split('/'), *size)
  print(f'{step} {size}: predicted {predicted / 2 ** 20:.1f} MiB, compiled {compiled / 2 ** 20:.1f}, '
        f'ratio {predicted / compiled:.2f}')
  assert 0.75 < predicted / compiled < 1.25


@pytest.mark.parametrize('source, strategy, quantize', [
    ('random:llama-tiny', 'lora', 'nf4'), ('random:llama-tiny', 'last_layers', 'none'), ('random:t5-tiny', 'full', 'none'),
    ('random:gpt2-tiny', 'prefix', 'int8')])
def test_shapes_are_those_of_a_run(source, strategy, quantize):
  """What is planned without weights has the leaves, shapes and bytes of what is trained."""
  made = config(model__source=source, strategy__name=strategy, model__quantize=quantize)
  state, frozen = train._at_first(experiment.assemble(made))
  shapes = account.begun(experiment.assemble(made, abstract=True))
  describe = lambda x: {name: (leaf.shape, str(leaf.dtype)) for name, leaf in tree.leaves(x).items()}
  assert describe(shapes) == describe((state, frozen))


def test_parts_of_a_mesh_add_up():
  """Over fsdp and tensor each device has its part of weights and optimiser; over fsdp its part of the activations too."""
  made = config(model__source='random:llama-3-8b', task__name='text', task__subset='docstring_summary', strategy__name='full',
                training__batch_size=64, model__dtype='bfloat16', model__remat='layer')
  found = {}
  for name, sizes in {'one': (1, 1, 1), 'fsdp': (1, 16, 1), 'more': (1, 64, 1), 'mixed': (2, 4, 8)}.items():
    sizes = dict(zip(sharding.AXES, sizes))
    with sharding.planned(sizes):
      exp = experiment.assemble({**made, 'mesh': sizes}, abstract=True)
    found[name] = account.account(exp, sizes, tokens=2048)
  of = lambda name, *kinds: sum(found[name].kinds[kind] for kind in kinds)
  for name, parts in (('fsdp', 16), ('more', 64), ('mixed', 32)):
    assert of(name, 'trainables', 'optimizer') == pytest.approx(of('one', 'trainables', 'optimizer') / parts, rel=0.01), name
  assert found['one'].sent == 0 < found['fsdp'].sent
  for name, parts in (('fsdp', 16), ('mixed', 64)):
    assert found[name].flops == pytest.approx(found['one'].flops / parts, rel=0.05), name
  assert of('fsdp', 'activations') < of('one', 'activations') / 8
