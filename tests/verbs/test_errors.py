"""What a person can get wrong ends with status 2 and one line that says what would be right; nothing is written over."""

import json
import shutil

import pytest
from helpers import ROOT, as_flags, config, process, reviews, verb

from research.runs.train import train_one

TINY = ['--config=configs/default.py', '--config.model.source=random:llama-tiny']


def refused(said):
  """The one line that a verb ended with."""
  assert said.returncode == 2, said.stderr
  [line] = said.stderr.splitlines()
  assert line.startswith('error: ') and said.stdout == ''
  return line


def everything(folder):
  return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob('*') if f.is_file()}


@pytest.mark.parametrize('fields, says', [
    (['strategy.nam=lora'], ["'strategy.nam'", 'did you mean strategy.name?']),
    (['training.batchsize=4'], ['did you mean training.batch_size?']),
    (['training.steps=many'], ['training.steps', 'many']),
    (['strategy.name=lorra'], ["'lorra'", 'full, last_layers, bitfit, lora']),
    (['strategy.name=full', 'strategy.rank=4'], ['strategy.rank', 'full does not take it']),
    (['strategy.targets=attn/qq'], ["'attn/qq'", 'matches no site', 'layers/attn/q/kernel']),
    (['strategy.name=few_shot', 'strategy.shots=2201'], ['strategy.shots=2201', 'only 2200 rows']),
    (['task.name=sentimant'], ["'sentimant'", 'sentiment, domain']),
    (['task.name=files', 'task.train=no/such.jsonl', 'task.prompt={a}', 'task.target={b}'], ['no/such.jsonl: no such']),
    (['model.source=random:llama-huge'], ['llama-huge', 'llama-tiny, llama-small']),
    (['model.context=16'], ['context of 16 tokens', 'row 0']),
    (['training.batch_size=6', 'training.microbatches=4'], ['microbatches=4', 'divide batch_size=6']),
    (['training.learning_rate=0.0'], ['learning_rate=0.0: must be above 0']),
    (['training.learning_rate=-1e-3'], ['learning_rate=-0.001: must be above 0']),
    (['training.learning_rate=inf'], ['training.learning_rate=inf: must be a finite number']),
    (['training.weight_decay=nan'], ['training.weight_decay=nan: must be a finite number']),
    (['strategy.alpha=inf'], ['strategy.alpha=inf: must be a finite number']),
    (['training.b1=2.0'], ['training.b1=2.0: must be at least 0 and below 1']),
    (['training.b2=1.0'], ['training.b2=1.0: must be at least 0 and below 1']),
    (['training.eps=-1.0'], ['training.eps=-1.0: must be above 0']),
    (['training.seed=2147483648'], ['training.seed=2147483648', 'below 2^31']),
    (['training.order_seed=-1'], ['training.order_seed=-1: must be 0 or more']),
    (['training.steps=3000000000'], ['training.steps=3000000000: must be below 2^31']),
    (['strategy.rank=9999999999'], ['strategy.rank=9999999999: must be below 2^31']),
    (['model.context=99999999999'], ['model.context=99999999999: must be below 2^31']),
    (['training.optimizer=adam'], ["optimizer='adam'", 'adamw, adafactor'])])
def test_a_wrong_field_is_named_and_nothing_is_made(tmp_path, fields, says):
  given = [f'--config.{field}' for field in fields]
  tiny = [flag for flag in TINY if flag.split('=')[0] not in {flag.split('=')[0] for flag in given}]
  line = refused(verb('train', *tiny, *given, f'--workdir={tmp_path}/run'))
  for part in says:
    assert part in line
  assert not (tmp_path / 'run').exists()


def test_a_verb_in_a_process_of_its_own_ends_with_status_2(tmp_path):
  """The other tests here call the verb's own entry in this process."""
  given = [*TINY, f'--workdir={tmp_path}/run', '--config.training.learning_rate=0.0']
  assert refused(process('train', *given)) == refused(verb('train', *given))
  assert not (tmp_path / 'run').exists()


ROWS = reviews(train=8, valid=4)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('runs') / 'run'
  train_one(config(**ROWS), workdir)
  return workdir


def test_the_workdir_of_another_config_is_left_as_it_was(run):
  before = everything(run)
  line = refused(verb('train', *TINY, *as_flags(ROWS), f'--workdir={run}'))
  assert 'holds the run of another config' in line and 'training.batch_size=4 there, 16 here' in line
  assert everything(run) == before


@pytest.mark.parametrize('fields, says', [
    ({'model__source': 'random:llama-small'}, ['was trained on another base model', 'random:llama-tiny']),
    ({'strategy__rank': 4}, ['delta/layers/attn/k/kernel/a', '[3, 64, 8]', '[3, 64, 4]']),
    ({'strategy__name': 'adapter'}, ['lacks arrays: delta/layers/attn/output/down'])])
def test_a_checkpoint_of_another_model_or_shape_is_not_loaded(run, tmp_path, fields, says):
  other = tmp_path / 'other'
  shutil.copytree(run, other)
  made = config(**ROWS, **fields)
  (other / 'config.json').write_text(json.dumps(made))
  before = everything(other)
  refused(verb('evaluate', f'--workdir={other}', '--split=valid'))                           # it is the run of another config
  assert everything(other) == before
  said = verb('evaluate', f'--workdir={other}', '--split=valid', '--allow_changed')
  for part in says:
    assert said.returncode == 2 and part in said.stderr.splitlines()[-1]
  del before['provenance.json']                                                              # where the change is recorded
  assert {name: data for name, data in everything(other).items() if name in before} == before


@pytest.mark.quick
@pytest.mark.parametrize('name, flags, says', [
    ('train', ['--config=configs/defalt.py', '--workdir=nowhere'], 'configs/defalt.py: no such file'),
    ('train', ['--config=configs/default.py'], '--workdir is missing'),
    ('train', ['--config=configs/default.py', '--workdir=nowhere', '--confg=x'], "Unknown command line flag 'confg'"),
    ('evaluate', ['--workdir=nowhere'], 'is nowhere the workdir of a run?'),
    ('generate', ['--workdir=nowhere'], '--prompt'),
    ('generate', ['--workdir=nowhere', '--config=default', '--prompt=x'], '--workdir and --config are both given'),
    ('generate', ['--workdir=nowhere', '--prompt=x', '--output=y'], '--output goes with --input'),
    ('generate', ['--workdir=nowhere', '--prompt=x', '--temperature=nan'], '--temperature=nan: must be 0'),
    ('generate', ['--workdir=nowhere', '--prompt=x', '--temperature=1e-45'], 'must be 0 (the likeliest token'),
    ('generate', ['--workdir=nowhere', '--prompt=x', f'--seed={2 ** 70}'], 'seed'),
    ('generate', ['--workdir=nowhere', '--prompt=x', '--seed=-5'], 'seed'),
    ('plan', ['--config=default', f'--tokens={10 ** 16}'], 'tokens'),
    ('plan', ['--config=default', '--output=tests'], '--output=tests: is a folder'),
    ('train', ['--config=default', '--workdir=nowhere', '--config.training.epochs=1e308'], 'epochs=1e+308: is beyond'),
    ('train', ['--config=default', '--workdir=nowhere', '--config.training.eps=1e-300'], 'training.eps=1e-300: is beyond'),
    ('train', ['--config=default', '--workdir=nowhere', '--config.task.prompt={text:>2000000000}'], 'is wider than 1000'),
    ('study', ['--study=quickstart', '--dry_run', '--report_only', '--workdir=nowhere'], 'give one of them')])
def test_a_wrong_flag_is_named(name, flags, says):
  assert says in refused(verb(name, *flags))
  assert not (ROOT / 'nowhere').exists()


IMPORT = 'from configs.default import get_config as get'


@pytest.mark.quick
@pytest.mark.parametrize('code', ['assert False, "why"', 'return 1 / 0', 'return [][1]', 'c = get(); del c.mesh; return c',
                                  'c = get(); del c.training.clip; return c', 'c = get(); c.trainng = {}; return c',
                                  'return 5'])
def test_a_config_file_of_a_persons_own_that_is_wrong_is_one_line(tmp_path, code):
  (tmp_path / 'mine.py').write_text(f'{IMPORT}\n\ndef get_config():\n  {code}\n')
  assert 'error: ' in refused(verb('train', f'--config={tmp_path}/mine.py', f'--workdir={tmp_path}/run'))
  assert not (tmp_path / 'run').exists()


def test_more_steps_than_can_be_counted_are_refused(tmp_path):
  line = refused(verb('train', '--config=default', '--config.model.source=random:llama-tiny', '--config.training.epochs=1e12',
                      '--config.check_memory=False', f'--workdir={tmp_path}/run'))
  assert 'training.epochs=1e+12: comes to' in line and not (tmp_path / 'run').exists()


@pytest.mark.quick
def test_a_study_that_a_cluster_starts_several_times_over_needs_its_part(tmp_path, monkeypatch):
  monkeypatch.setenv('SLURM_STEP_NUM_TASKS', '4')
  line = refused(verb('study', '--study=experiments/quickstart.py', f'--workdir={tmp_path}/study'))
  assert '--shard: a cluster started several processes' in line and not (tmp_path / 'study').exists()
