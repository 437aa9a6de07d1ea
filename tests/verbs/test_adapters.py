"""Adapters go out of a run and into another, and what does not fit is refused by name."""

import json
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy
from helpers import batch, config, documents, logits, moved, reviews, scaled_up
from strategies import rows
from strategies.rows import ROWS

from research import tree
from research.adapters import modules, reading, writing
from research.deployment import folder as deployed
from research.deployment.export import export_adapter, export_model
from research.errors import InputError
from research.evaluation import decode
from research.experiment import restore
from research.experiment.assemble import assemble
from research.models import names
from research.runs.evaluate import evaluate_one
from research.runs.train import train_one
from research.strategies import table, values
from research.strategies.bind import bind


@pytest.mark.parametrize('name', rows.ADDS)
def test_an_adapter_folder_gives_back_what_was_learned(name, tmp_path):
  """The same variables; where PEFT has another form of them, the same logits."""
  loaded, strategy = scaled_up('llama-tiny'), ROWS[name].make()
  trainable, frozen = bind(jax.random.key(0), strategy, loaded.model, loaded.params)
  trainable = moved(trainable, seed=0, by=ROWS[name].moved)
  learned = {n: np.asarray(x) for n, x in tree.leaves(trainable).items()} | values.fixed(frozen)
  said, tensors, row = writing.write(tree.join(trainable, frozen), strategy, loaded.model.config, 'base', learned)
  record = json.dumps({'strategy': row, 'base': {'sha256': '1'}})
  (tmp_path / 'adapter').mkdir()
  deployed.adapter(tmp_path / 'adapter', said, tensors, {modules.RECORD: record})
  found = reading.read(tmp_path / 'adapter', loaded.model.config, names.shapes(loaded.model.config))
  again = table.make(found.name, found.fields)
  here = values.placed_in(*bind(jax.random.key(1), again, loaded.model, loaded.params), found.values, 'here')
  if again.name == strategy.name and again.fields == strategy.fields:
    ours = tree.leaves(tree.join(*here))
    for path, x in tree.leaves(tree.join(trainable, frozen)).items():
      np.testing.assert_array_equal(ours[path], x, err_msg=path)
  else:
    [one] = [batch(documents(loaded, 2, longest=100), 128)]
    expected = logits(loaded.model, tree.join(trainable, frozen), one)
    np.testing.assert_allclose(logits(loaded.model, tree.join(*here), one), expected, atol=1e-5 * expected.std())


def fields(name, model='gpt2-tiny', **more):
  """Of a run of this row on short rows."""
  of_row = {f'strategy__{field}': value for field, value in ROWS[name].fields.items()}
  return {'model__source': f'random:{model}', 'strategy__name': ROWS[name].name, 'training__steps': 2,
          'training__learning_rate': 1e-2, 'model__context': 512, **reviews(train=12, valid=6), **of_row, **more}


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
  """(name, model) -> (a run, the adapter exported from it)"""
  root, found = tmp_path_factory.mktemp('adapters'), {}

  def of(name, model='gpt2-tiny'):
    if (name, model) not in found:
      run, folder = root / f'{model}-{name}-run', root / f'{model}-{name}'
      train_one(config(**fields(name, model)), run)
      export_adapter(run, folder)
      found[name, model] = run, folder
    return found[name, model]
  return of


@pytest.mark.parity
@pytest.mark.parametrize('name', ['lora', 'ia3'])
def test_an_adapters_snippet_loads_the_base_that_was_written_and_says_what_the_run_says(folders, name):
  import peft as theirs
  from test_export import said_by
  run, folder = folders(name)
  base = folder.resolve() / 'base'
  assert json.loads((folder / modules.CONFIG).read_text())['base_model_name_or_path'] == str(base)
  text = (folder / 'README.md').read_text()
  assert 'lies in the folder `base`' in text and 'library_name: peft' in text and 'license: unknown' in text
  exp = restore.of_run(run)
  ids = exp.tokenizer.prompt('Review: ...\nSentiment:')
  [expected] = decode.generate(exp.model, restore.learned(run, exp), [ids], exp.task.max_new_tokens, exp.tokenizer.ends,
                               batch_size=1)
  assert said_by(text, folder) == exp.tokenizer.decode(expected) + '\n'
  assert theirs.AutoPeftModelForCausalLM.from_pretrained(str(folder)) is not None


def test_an_adapter_names_its_base_as_it_is_told_and_then_writes_none(folders, tmp_path):
  run, _ = folders('lora')
  export_adapter(run, tmp_path / 'adapter', base='someone/gpt2-tiny')
  assert json.loads((tmp_path / 'adapter' / modules.CONFIG).read_text())['base_model_name_or_path'] == 'someone/gpt2-tiny'
  assert not (tmp_path / 'adapter' / 'base').exists()
  assert "from_pretrained('someone/gpt2-tiny')" in (tmp_path / 'adapter' / 'README.md').read_text()


@pytest.mark.diagonal(name=('lora', 'vera', 'prefix by an mlp', 'prefix+lora+adapter'))
@pytest.mark.parametrize('name', rows.ADDS)
def test_a_run_goes_on_from_an_exported_adapter_and_from_a_run(folders, name, tmp_path):
  run, folder = folders(name, 'llama-tiny')
  record = json.loads((folder / modules.RECORD).read_text())
  assert record['base']['sha256'] == 'random:llama-tiny' and record['trained_as']['name'] == ROWS[name].name
  there = restore.learned(run, restore.of_run(run))
  sites = json.loads((run / 'sites.json').read_text())
  result = json.loads((run / 'result.json').read_text())
  assert sum(line['trainable'] for line in sites) == result['cost']['trainable_params'] > 0
  row = record['strategy']['name']
  made = config(**{k: v for k, v in fields(name, 'llama-tiny').items() if not k.startswith('strategy')}, strategy__name=row,
                strategy__init_from=str(folder))
  # The same predictions from the folder alone, without a step.
  found = evaluate_one(tmp_path / 'evaluated', 'valid', made)
  assert found['metrics']['valid/loss'] == pytest.approx(result['metrics']['valid/loss'], abs=1e-4)
  # Learning goes on from either, and what it came to is found again.
  same = record['strategy'] == {'name': ROWS[name].name, **ROWS[name].make().fields}      # PEFT has no other form of it
  for source in [folder, run] if same else [folder]:
    made['strategy']['init_from'] = str(source)
    first = restore.variables(assemble(made))[0]
    for path, x in tree.leaves(first).items():
      if same:
        np.testing.assert_allclose(x, tree.leaves(there)[path], atol=1e-6)
    on = train_one(made, tmp_path / f'on-{source.name}')
    again = evaluate_one(tmp_path / f'on-{source.name}', 'valid')
    assert again['metrics']['valid/loss'] == pytest.approx(on['metrics']['valid/loss'], abs=1e-6)


@pytest.mark.parametrize('name', ['vera', 'prefix+vera', 'pissa'])
def test_what_is_drawn_or_decomposed_goes_along_whatever_the_seed(folders, name, tmp_path):
  of = fields(name, 'llama-tiny')
  run, folder = folders(name, 'llama-tiny')
  result = json.loads((run / 'result.json').read_text())
  sources = [run] if name == 'pissa' else [run, folder]      # which goes out as LoRA
  for source in sources:
    made = config(**of, strategy__init_from=str(source), training__seed=7)
    made['training'] |= {'steps': 0}
    found = train_one(made, tmp_path / f'on-{source.name}')
    assert found['metrics']['valid/loss'] == pytest.approx(result['metrics']['valid/loss'], abs=1e-4)
  made = config(**of, training__init_from=str(run), training__seed=7)
  begun = assemble(made)
  there, here = restore.learned(run, restore.of_run(run)), restore.continued(run, begun, *restore.variables(begun))
  for path, x in tree.leaves(tree.join(*here)).items():
    np.testing.assert_array_equal(x, tree.leaves(there)[path])


def test_an_evaluation_is_no_training(folders, tmp_path):
  made = config(**fields('lora') | {'strategy__rank': None, 'strategy__init_from': str(folders('lora')[1])})
  first = evaluate_one(tmp_path / 'here', 'valid', made)
  with pytest.raises(InputError, match=r'training.steps=0 there, 2 here'):
    train_one(made, tmp_path / 'here')
  assert evaluate_one(tmp_path / 'here', 'valid')['metrics'] == pytest.approx(first['metrics'])


def test_lora_plus_goes_on_from_a_run_of_lora_and_a_setting_said_again_is_no_other(folders):
  run, folder = folders('lora')
  for source in (run, folder):
    starting(source, 'lora_plus', strategy__ratio=4.0)
  starting(run, strategy__rank=ROWS['lora'].fields['rank'], strategy__rank_pattern=())
  with pytest.raises(InputError, match='are both given'):
    train_one(config(**fields('lora'), strategy__init_from=str(run), training__init_from=str(run)), run.parent / 'both')


def starting(folder, name='lora', **more):
  given = {k: v for k, v in fields('lora').items() if not k.startswith('strategy')}
  made = config(**{**given, 'strategy__name': name, 'strategy__init_from': str(folder), **more})
  return restore.variables(assemble(made))


@pytest.fixture
def folder(folders, tmp_path):
  return shutil.copytree(folders('lora')[1], tmp_path / 'adapter')


def change(folder, **said):
  file = folder / modules.CONFIG
  file.write_text(json.dumps(json.loads(file.read_text()) | said))


@pytest.mark.parametrize('said, says', [
    ({'peft_type': 'LOHA'}, "peft_type='LOHA' is not supported"), ({'use_qalora': True}, 'use_qalora=True is not supported'),
    ({'lora_bias': True}, 'lora_bias=True'), ({'modules_to_save': ['lm_head']}, "modules_to_save names 'lm_head', of which it"),
    ({'bias': 'all'}, 'bias=all, but it lacks biases'), ({'bias': 'some'}, "bias='some'"),
    ({'ensure_weight_tying': 1}, 'ensure_weight_tying=1 is of the wrong type'),
    ({'layer_replication': [[0, 2]]}, 'layer_replication'),
    ({'eva_config': {'rho': 2}}, 'eva_config'),
    ({'r': '4'}, "r='4' is of the wrong type"), ({'lora_alpha': 'x'}, "lora_alpha='x'"),
    ({'lora_alpha': 0}, 'lora_alpha=0: must be above 0'),
    ({'lora_alpha': 1e39}, 'lora_alpha=1e\\+39: must be above 0, and what a float32 holds'),
    ({'alpha_pattern': []}, 'alpha_pattern'), ({'alpha_pattern': {'(': 3}}, 'alpha_pattern'),
    ({'peft_type': ['LORA']}, 'peft_type'),
    ({'init_lora_weights': 'pissa', 'use_dora': True}, 'at a time'),
    ({'init_lora_weights': 'olora'}, 'path_initial_model_for_weight_conversion=INITIAL'),
    ({'init_lora_weights': 'corda'}, "init_lora_weights='corda' is not supported"),
    ({'use_dora': True}, 'stand the tensors .lora_A.weight, .lora_B.weight, not')])
def test_a_setting_that_is_not_implemented_is_refused_by_name(folder, said, says):
  change(folder, **said)
  with pytest.raises(InputError, match=says):
    starting(folder)


def test_another_base_is_refused_until_it_is_allowed_and_none_is_a_warning(folder, capsys):
  record = json.loads((folder / modules.RECORD).read_text())
  (folder / modules.RECORD).write_text(json.dumps(record | {'base': {'sha256': 'another'}}))
  with pytest.raises(InputError, match=r'another base model \(another, not random:gpt2-tiny\).*allow_other_base=True'):
    starting(folder)
  starting(folder, strategy__allow_other_base=True)
  (folder / modules.RECORD).unlink()
  starting(folder)
  assert 'does not say which base model' in ''.join(capsys.readouterr())


def test_a_run_of_another_base_is_refused_until_it_is_allowed(folders):
  run, _ = folders('lora')
  with pytest.raises(InputError, match='another base model'):
    starting(run, model__vocab=300)
  with pytest.raises(InputError, match=r'set strategy\.name=lora'):
    starting(run, 'adapter')


def test_an_adapter_of_other_shapes_or_modules_is_refused(folder, tmp_path):
  with pytest.raises(InputError, match='belongs to no module of this model'):
    starting(folder, model__source='random:llama-tiny')
  tensors = safetensors.numpy.load_file(folder / modules.TENSORS)
  name = next(n for n in tensors if 'mlp.c_fc.lora_B' in n)
  for changed, says in (({name: tensors[name][:-1]}, 'is for 255 outputs; this model has 256'),
                        ({name.replace('h.0', 'h.7'): tensors[name]}, 'belongs to no module')):
    safetensors.numpy.save_file(tensors | changed, folder / modules.TENSORS)
    with pytest.raises(InputError, match=says):
      starting(folder)
  safetensors.numpy.save_file({n: x for n, x in tensors.items() if '.h.2.' not in n}, folder / modules.TENSORS)
  assert not np.any(starting(folder)[0]['delta']['layers']['mlp']['up']['kernel'].a[2])
  (folder / modules.TENSORS).write_bytes(b'nonsense')
  with pytest.raises(InputError, match='cannot be read'):
    starting(folder)
  (folder / modules.TENSORS).unlink()
  (folder / 'adapter_model.bin').write_bytes(b'')
  with pytest.raises(InputError, match='a pickle, which is not opened'):
    starting(folder)


def test_a_setting_that_contradicts_the_folder_is_refused(folder):
  with pytest.raises(InputError, match=r'strategy\.rank=3: .* says'):
    starting(folder, strategy__rank=3)


def test_what_adds_nothing_to_the_model_has_no_adapter(tmp_path):
  train_one(config(**fields('full')), tmp_path / 'run')
  with pytest.raises(InputError, match='strategy full adds nothing to the model; use --format=hf'):
    export_adapter(tmp_path / 'run', tmp_path / 'adapter')
  assert not (tmp_path / 'adapter').exists()


@pytest.mark.parametrize('given, says', [
    ({'strategy__name': 'lora', 'strategy__targets': 'attention,mpl'}, "'mpl' matches no site"),
    ({'strategy__name': 'lora', 'strategy__targets': 'head'}, 'the head is the embedding'),
    ({'strategy__name': 'lora', 'strategy__rank': 65}, 'rank=65: above the smaller side of a 64 x'),
    ({'strategy__name': 'lora', 'strategy__rank_pattern': (('down', 200),)}, 'rank=200: above the smaller side'),
    ({'strategy__name': 'lora', 'strategy__rank_pattern': ('down',)}, 'must be pairs'),
    ({'strategy__name': 'lora', 'strategy__rank_pattern': (('(', 2),)}, 'must be pairs'),
    ({'strategy__name': 'lora', 'strategy__rank_pattern': (('mlp/dwon', 2),)}, "'mlp/dwon' matches none of the sites"),
    ({'strategy__name': 'lora', 'strategy__also': 'head'}, r"also='head': matches no parameter .the head is the embedding"),
    ({'strategy__name': 'dora', 'strategy__also': 'biases'}, "also='biases': matches no parameter"),
    ({'strategy__name': 'lora', 'strategy__also': 'embed,mlp/up'}, "also='mlp/up': matches params/layers/mlp/up/kernel"),
    ({'strategy__name': 'lora', 'strategy__also': '('}, 'not a regular expression'),
    ({'strategy__name': 'lora', 'strategy__also': 'embed,'}, 'a part is empty'),
    ({'strategy__name': 'ia3', 'strategy__also': 'embed'}, 'does not take it'),
    ({'strategy__name': 'lora', 'strategy__targets': 'attn/qkv$,attention'}, 'two deltas meet at'),
    ({'strategy__name': 'lora', 'strategy__targets': 'mlp,'}, 'a part is empty'),
    ({'strategy__name': 'lora', 'strategy__alpha': -1.0}, 'alpha=-1.0: must be above 0'),
    ({'strategy__name': 'dora', 'strategy__dropout': 1.0}, 'dropout=1.0: must be at least 0 and below 1'),
    ({'strategy__name': 'lora_plus', 'strategy__ratio': 0.0}, 'ratio=0.0'),
    ({'strategy__name': 'prefix', 'strategy__slots': 0}, 'slots=0: must be 1 or more'),
    ({'strategy__name': 'prompt', 'strategy__slots': 600}, 'leave no room in the context of 512'),
    ({'strategy__name': 'prompt', 'strategy__slots': 450}, 'rows are longer than the context of 512'),
    ({'strategy__name': 'prefix', 'strategy__slots': 450}, 'rows are longer than the context of 62'),
    ({'strategy__name': 'prompt', 'strategy__init': 'text'}, 'init_text: is given with init=text'),
    ({'strategy__name': 'adapter', 'strategy__placement': 'under'}, "placement='under'"),
    ({'strategy__name': 'last_layers', 'strategy__layers': 4}, 'layers=4: the model has only 3'),
    ({'strategy__name': 'lora+ia3', 'strategy__targets': 'attention'}, 'two deltas meet at layers/attn/k/kernel'),
    ({'strategy__name': 'lora+ia3'}, 'targets: lora.ia3 take it with different defaults'),
    ({'strategy__name': 'full+lora'}, 'stand alone'), ({'strategy__name': 'lora+lora'}, 'no row twice'),
    ({'strategy__name': 'few_shot', 'strategy__selection': 'best'}, "selection='best'"),
    ({'strategy__name': 'few_shot', 'strategy__calibrate': True, 'task__name': 'translation'}, 'needs a task with choices'),
    ({'strategy__name': 'lora', 'model__quantize': 'int3'}, "model.quantize='int3': must be one of none, int8, nf4")])
def test_a_strategy_that_cannot_be_is_refused(given, says):
  with pytest.raises(InputError, match=says):
    made = assemble(config(**given))
    restore.variables(made)
    made.examples('train')


@pytest.mark.parametrize('quantize', ['none', 'int8'])
def test_what_learns_beside_a_delta_is_trained_resumed_and_exported_with_it(tmp_path, quantize):
  made = config(**fields('lora'), strategy__also='embed,bias', strategy__fused=True, model__quantize=quantize)
  result = train_one(made, tmp_path / 'run')
  lines = {line['site'] for line in json.loads((tmp_path / 'run' / 'sites.json').read_text()) if line['kind'] == 'params'}
  assert {'embed/embedding', 'layers/mlp/up/bias', 'norm/bias'} <= lines and not any('kernel' in site for site in lines)
  assert export_model(tmp_path / 'run', tmp_path / 'model', 'float32', '5GB')['merged']
  export_adapter(tmp_path / 'run', tmp_path / 'adapter')
  said = json.loads((tmp_path / 'adapter' / modules.CONFIG).read_text())
  assert said['modules_to_save'] == ['transformer.wte'] and said['bias'] == 'all' and said['ensure_weight_tying']
  of_run = restore.of_run(tmp_path / 'run')
  learned = tree.leaves(restore.learned_and_frozen(tmp_path / 'run', of_run)[0])
  assert np.abs(learned['params/embed/embedding'] - of_run.params['embed']['embedding']).max() > 1e-4
  for path, x in tree.leaves(starting(tmp_path / 'adapter')[0]).items():
    np.testing.assert_array_equal(x, learned[path], err_msg=path)
  assert result['cost']['trainable_params'] == sum(x.size for x in learned.values())


@pytest.mark.quick
@pytest.mark.parametrize('text', ['{"r": ' + '1' * 5000 + '}', '[' * 100_000, '{"peft_type": "LORA", '])
def test_an_adapter_config_that_cannot_be_read_is_one_line(tmp_path, text):
  (tmp_path / modules.CONFIG).write_text(text)
  with pytest.raises(InputError, match=r'adapter_config\.json: cannot be read'):
    reading.read(tmp_path, None, {})


def test_modules_that_an_adapter_names_and_holds_no_tensors_of_are_told(folder, tmp_path, capsys):
  shutil.copytree(folder, tmp_path / 'some')
  tensors = safetensors.numpy.load_file(tmp_path / 'some' / modules.TENSORS)
  some = {name: x for name, x in tensors.items() if 'mlp.c_fc' not in name}
  safetensors.numpy.save_file(some, tmp_path / 'some' / modules.TENSORS)
  capsys.readouterr()
  starting(folder)
  assert 'target_modules' not in capsys.readouterr().err
  pattern = json.loads((folder / modules.CONFIG).read_text())['target_modules']
  for named in (pattern, ['c_attn', 'c_fc']):
    change(tmp_path / 'some', target_modules=named)
    starting(tmp_path / 'some')
    assert 'target_modules names layers/mlp/up/kernel, for which there are no tensors' in capsys.readouterr().err
