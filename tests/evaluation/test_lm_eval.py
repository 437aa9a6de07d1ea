"""lm-evaluation-harness asks our models what it asks its own backend of the exported folder, and gets the same answers."""

import json
import shutil
import sys

import helpers
import jax
import numpy as np
import pytest
from helpers import as_flags, config, scaled_up

from research import run_files, tree
from research.data import prompts, sources, tasks
from research.deployment import folder
from research.deployment.export import export_model
from research.evaluation.score import score
from research.runs.train import train_one
from research.strategies import table
from research.strategies.bind import bind

pytestmark = pytest.mark.parity

ROWS = [row for row in sources.sample('sentiment_sentences')['train'] if len(row['text']) < 60][:200]
PROMPT, TARGET = 'Review: {text}\nSentiment:', ' {label}'
LONG = 'One of many. ' * 45      # more than the 512 tokens that the models read
TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}, train: {rows}}}}}
training_split: train
test_split: test
output_type: {kind}
"""
ASKED = 'doc_to_text: "Review: {{text}}\\nSentiment:"\ndoc_to_target: label\n'
KINDS = {
    'choice': ('multiple_choice', ASKED + 'doc_to_choice: [negative, positive]\n'
               'metric_list: [{metric: acc}, {metric: acc_norm}, {metric: f1}]\n'),
    'answer': ('generate_until', ASKED + 'generation_kwargs: {until: ["e"], max_gen_toks: 6, do_sample: false}\n'
               'metric_list: [{metric: exact_match}]\n'),
    'text': ('loglikelihood_rolling', 'doc_to_text: ""\ndoc_to_target: text\n'
             'metric_list: [{metric: word_perplexity}, {metric: bits_per_byte}]\n'),
    'drawn': ('generate_until', ASKED + 'generation_kwargs: {until: [], do_sample: true, temperature: 0.7}\n'
              'metric_list: [{metric: exact_match}]\n'),
}


def written(at, **rows_of):
  """A folder of tasks, of which each has its rows."""
  at.mkdir(exist_ok=True)
  for name, rows in rows_of.items():
    run_files.write_jsonl(at / f'{name}.jsonl', rows)
    kind, rest = KINDS[name]
    (at / f'{name}.yaml').write_text(TASK.format(name=f'our_{name}', rows=at / f'{name}.jsonl', kind=kind) + rest)
  return at


def save(loaded, at):
  """A model's folder, as `export` writes it."""
  from research.models import names
  from research.models.families import FAMILIES
  tensors = names.export_params(FAMILIES[loaded.model.config.family], loaded.model.config, loaded.params)
  fill = lambda into: folder.model(into, loaded.hf, tensors, loaded.tokenizer, np.dtype('float32'), 10 ** 9, {})
  run_files.write_folder(at, fill)
  return str(at)


def their(model):
  """The harness's own backend on a folder."""
  from lm_eval.models.huggingface import HFLM
  return HFLM(pretrained=str(model), device='cpu', dtype='float32', batch_size=16)


def asked(lm, include_path, *names):
  """What the harness finds of tasks: (its results, its samples)."""
  from lm_eval import evaluator

  from research.runs.lm_evaluation import Asked, load
  found = evaluator.evaluate(lm, load(Asked(names, str(include_path))), bootstrap_iters=0)
  return found['results'], found['samples']


@pytest.fixture(scope='module')
def include_path(tmp_path_factory):
  return written(tmp_path_factory.mktemp('tasks'), choice=ROWS, answer=ROWS[:10],
                 text=[*ROWS[:6], {'text': LONG, 'label': 'positive'}], drawn=ROWS[:2])


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """(the workdir of a trained run, the folder that it was exported to): its base has large weights."""
  at = tmp_path_factory.mktemp('run')
  base = save(scaled_up('llama-tiny'), at / 'base')
  run_files.write_jsonl(at / 'rows.jsonl', ROWS)
  of_task = {'task__name': 'files', 'task__prompt': PROMPT, 'task__target': TARGET, 'task__choices': ('negative', 'positive'),
             **{f'task__{split}': str(at / 'rows.jsonl') for split in ('train', 'test')}}
  train_one(config(model__source=base, strategy__name='lora', training__learning_rate=1e-3, **of_task), at / 'run')
  export_model(at / 'run', at / 'exported', 'float32', '5GB')
  return at / 'run', at / 'exported'


def verb(*given):
  done = helpers.verb('evaluate', *given)
  assert done.returncode == 0, done.stderr
  return done.stderr


def lines(workdir, name):
  return [json.loads(line) for line in (workdir / 'lm_eval' / f'{name}.jsonl').read_text().splitlines()]


@pytest.fixture(scope='module')
def evaluated(run, include_path):
  """The run's answers to all tasks."""
  verb(f'--workdir={run[0]}', '--lm_eval=our_choice,our_answer,our_text', f'--include_path={include_path}')
  verb(f'--workdir={run[0]}', '--split=test')
  return run_files.read_json(run[0] / 'lm_eval' / 'results.json')['tasks']


def test_its_log_likelihoods_are_those_of_our_own_ranking(run, evaluated):
  own = [json.loads(line) for line in (run[0] / 'predictions' / 'test.jsonl').read_text().splitlines()]
  found = lines(run[0], 'our_choice')
  assert len(own) == len(found) == 200
  for one, other in zip(own, found):
    np.testing.assert_allclose(other['log_likelihoods'], [*one['choices'].values()], rtol=1e-6)
    assert (one['id'], one['row'], one['prompt'], one['prediction']) == (
        other['id'], other['row'], other['prompt'], other['prediction']) and one['target'] == other['target']
  result = run_files.read_result(run[0])
  assert evaluated['our_choice']['metrics']['acc'] == result['metrics']['test/accuracy']
  assert evaluated['our_choice']['intervals']['acc'] == result['intervals']['test/accuracy']


def test_a_run_scores_and_writes_what_the_hf_backend_does_with_its_export(run, evaluated, include_path):
  results, samples = asked(their(run[1]), include_path, 'our_choice', 'our_answer', 'our_text')
  theirs = lambda name: [[x[0] if isinstance(x, tuple) else x for [x] in one['resps']] for one in samples[name]]
  for name in ('our_choice', 'our_text'):
    ours = [one['log_likelihoods'] for one in lines(run[0], name)]
    np.testing.assert_allclose(ours, theirs(name), rtol=1e-4)
    assert np.ptp(ours) > 1
  assert [[one['prediction']] for one in lines(run[0], 'our_answer')] == theirs('our_answer')
  assert len({one['prediction'] for one in lines(run[0], 'our_answer')}) > 1
  for name, of_task in evaluated.items():
    for metric, value in of_task['metrics'].items():
      of_nats = {'rel': 1e-3} if name == 'our_text' else {'abs': 0}
      assert value == pytest.approx(results[name][f'{metric},none'], **of_nats), (name, metric)
      low, high = of_task['intervals'][metric]
      assert low <= value <= high and low < high


def model_of(loaded, variables=None, slots=0, max_length=None):
  from research.evaluation.lm_eval_model import HarnessModel
  return HarnessModel(loaded.model, variables or {'params': loaded.params}, loaded.tokenizer,
                      max_length or loaded.model.config.context, slots, 4)


def requests(kind, *arguments):
  from lm_eval.api.instance import Instance
  return [Instance(kind, {}, one, number) for number, one in enumerate(arguments)]


@pytest.mark.diagonal(preset=('llama-tiny', 't5-tiny'))
def test_each_kind_of_request_is_answered_as_by_the_hf_backend(preset, tmp_path, capfd):
  """Without context, with a blank at its end, with a context that is cut, of one token and of many."""
  pairs = [('', 'Fine.'), ('It was ', 'fine.'), ('It was', ' bad, all of it'), ('It was', '!'), (LONG, ' indeed'),
           ('It was', '!')]
  to_go_on = [('It was', {'until': ['e', 'zz'], 'max_gen_toks': 9}), (LONG[:520], {'until': 'q', 'max_gen_toks': 4}),
              ('<bos>It was', {'until': [], 'max_gen_toks': 4, 'temperature': 0.0, 'do_sample': False})]
  ours, theirs = model_of(preset), their(save(preset, tmp_path / 'model'))
  theirs._max_length = ours.max_length      # of T5 the harness has its own idea
  found, expected = (lm.loglikelihood(requests('loglikelihood', *pairs)) for lm in (ours, theirs))
  np.testing.assert_allclose([x for x, _ in found], [x for x, _ in expected], rtol=1e-4)
  assert [hit for _, hit in found] == [hit for _, hit in expected] and found[3] == found[5]
  assert '1 of 6 contexts are longer than the model reads at one time' in capfd.readouterr().err
  texts = [('Fine. It was fine.',), (LONG,), ('a',)]
  found, expected = (lm.loglikelihood_rolling(requests('loglikelihood_rolling', *texts)) for lm in (ours, theirs))
  np.testing.assert_allclose(found, expected, rtol=1e-4)
  if preset.model.config.has_encoder:      # the harness adds the context's length to max_gen_toks, and stops in <extra_id_1>
    to_go_on = [(context, {'until': [], 'max_gen_toks': 4}) for context, _ in to_go_on[::2]]
  found, expected = (lm.generate_until(requests('generate_until', *to_go_on)) for lm in (ours, theirs))
  assert all(found) and (found == expected or (preset.model.config.has_encoder and all(map(str.startswith, expected, found))))
  context = ours.tok_encode('It was')
  assert context == theirs.tok_encode('It was')
  ids = theirs.tokenizer('It was', return_tensors='pt')
  likeliest = theirs.model.generate(**ids, max_new_tokens=5, do_sample=False)[0][-5:].tolist()
  of_ids = [(('', ''), context, likeliest), (('', ''), context, [*likeliest[:-1], likeliest[-1] ^ 1])]
  assert [hit for _, hit in ours._loglikelihood_tokens(of_ids)] == [True, False]
  assert [hit for _, hit in theirs._loglikelihood_tokens(of_ids)] == [True, False]


@pytest.mark.parametrize('name', ['prefix', 'prompt'])
def test_what_is_added_to_the_base_is_asked_too(tiny, name):
  """A prefix and a soft prompt, moved away from where they begin: log-likelihoods are those of our own ranking."""
  strategy = table.make(name, {})
  trainable, frozen = bind(jax.random.key(0), strategy, tiny.model, tiny.params)
  variables = tree.join(helpers.moved(trainable, 1), frozen)
  task = tasks.make('sentiment', {})
  examples = prompts.examples(task, ROWS[:5], tiny.tokenizer)
  places = prompts.placeholders(strategy.slots)
  own = score(tiny.model, variables, [e._replace(prompt_ids=[*places, *e.prompt_ids]) for e in examples], 4)
  pairs = [(e.prompt, f' {choice}') for e in examples for choice in task.choices]
  found = model_of(tiny, variables, strategy.slots).loglikelihood(requests('loglikelihood', *pairs))
  np.testing.assert_allclose([x for x, _ in found], [x for s in own for x in s.choices.values()], rtol=1e-6)


def test_a_chat_is_asked_in_the_models_template(tiny):
  tokenizer = tiny.tokenizer
  chat = model_of(tiny._replace(tokenizer=tokenizer))
  before = tokenizer.hf.chat_template
  tokenizer.hf.chat_template = '{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}<assistant>'
  try:
    turns = [{'role': 'user', 'content': 'Fine?'}]
    assert chat.apply_chat_template(turns) == '<user>Fine?\n<assistant>'
    assert chat.apply_chat_template([*turns, {'role': 'assistant', 'content': 'Y'}], False) == '<user>Fine?\n<assistant>Y'
    assert chat.chat_template(True) == tokenizer.hf.chat_template and chat.tokenizer_name
  finally:
    tokenizer.hf.chat_template = before


def test_two_runs_are_compared_example_by_example(run, evaluated, include_path, tmp_path):
  """By the tests of a study: of a share against itself nothing is found, and of another model what a paired test says."""
  base = run_files.read_config(run[0])['model']['source']
  given = ['--lm_eval=our_choice,our_text', f'--include_path={include_path}', f'--against={run[0]}']
  of_base = ['--config=configs/default.py', *as_flags({'model__source': base, 'strategy__name': 'few_shot',
                                                       'check_memory': False})]
  said = verb(f'--workdir={tmp_path / "base"}', *of_base, *given)
  assert 'our_choice/f1: is not compared' in said and 'our_choice/acc: ' in said and 'against' in said
  found = {one['metric']: one for one in run_files.read_json(tmp_path / 'base' / 'lm_eval' / 'against.json')['differences']}
  assert {*found} == {'acc', 'acc_norm', 'word_perplexity', 'bits_per_byte'}
  mine, theirs = (lines(at, 'our_choice') for at in (tmp_path / 'base', run[0]))
  differences = np.array([a['acc'] - b['acc'] for a, b in zip(mine, theirs)])
  acc = found['acc']
  assert acc['mean'] == pytest.approx(differences.mean()) and acc['low'] <= acc['mean'] <= acc['high'] and 0 <= acc['p'] <= 1
  assert all(one['p_adjusted'] >= one['p'] for one in found.values())
  verb(f'--workdir={run[0]}', *given)
  for one in run_files.read_json(run[0] / 'lm_eval' / 'against.json')['differences']:
    assert one['mean'] == 0 and one['p'] == pytest.approx(1)


def refused(*given):
  done = helpers.verb('evaluate', *given)
  assert done.returncode == 2 and 'Traceback' not in done.stderr
  return done.stderr.strip().splitlines()[-1]


def test_what_a_person_can_get_wrong_is_one_line(run, include_path, tmp_path, monkeypatch):
  workdir, own = f'--workdir={run[0]}', f'--include_path={include_path}'
  assert '--num_fewshot goes with --lm_eval' in refused(workdir, '--num_fewshot=2')
  assert '--split: a task of --lm_eval' in refused(workdir, '--lm_eval=our_choice', own, '--split=test')
  assert 'no such folder' in refused(workdir, '--lm_eval=our_choice', f'--include_path={tmp_path / "none"}')
  assert 'holds no lm_eval/results.json' in refused(workdir, '--lm_eval=our_choice', own, f'--against={tmp_path}')
  assert 'do_sample=True, temperature=0.7' in refused(workdir, '--lm_eval=our_drawn', own)
  (tmp_path / 'hub.yaml').write_text(TASK.format(name='our_hub', rows='x.jsonl', kind='generate_until').replace(
      'dataset_path: json', 'dataset_path: nobody/nothing') + KINDS['answer'][1])
  assert '--lm_eval=our_hub: cannot be loaded' in refused(workdir, '--lm_eval=our_hub', f'--include_path={tmp_path}')
  assert 'is not finished' in refused(f'--workdir={written_config(run[0], tmp_path / "begun")}', '--lm_eval=our_choice', own)
  monkeypatch.setitem(sys.modules, 'lm_eval.tasks', None)
  assert "pip install 'flaxtune[harness]'" in refused(workdir, '--lm_eval=our_choice', own)


def written_config(workdir, begun):
  """A run that has begun, and no more."""
  run_files.write_json(begun / run_files.CONFIG, run_files.read_config(workdir))
  return begun


@pytest.mark.matrix
def test_a_task_that_is_not_there_is_refused_by_name(run, include_path):
  """The harness's own tasks are read too, which takes it seconds."""
  said = refused(f'--workdir={run[0]}', '--lm_eval=our_choise', f'--include_path={include_path}')
  assert '--lm_eval=our_choise: no such task; did you mean our_choice?' in said and 'our_answer' in said


def test_few_shot_and_limit_are_the_harnesss(run, evaluated, include_path, tmp_path):
  workdir = tmp_path / 'run'
  shutil.copytree(run[0], workdir)
  verb(f'--workdir={workdir}', '--lm_eval=our_answer', f'--include_path={include_path}', '--num_fewshot=2', '--lm_eval_limit=3')
  found = run_files.read_json(workdir / 'lm_eval' / 'results.json')['tasks']
  assert (found['our_answer']['num_fewshot'], found['our_answer']['limit'], found['our_answer']['examples']) == (2, 3, 3)
  assert found['our_choice']['examples'] == 200
  assert all(one['prompt'].count('Sentiment:') == 3 for one in lines(workdir, 'our_answer'))


def test_over_http_they_are_the_same(run, evaluated, include_path):
  """A server of the run, asked by the harness's own client of OpenAI's interface."""
  from lm_eval.models.openai_completions import LocalCompletionsAPI
  from serving.listening import listening

  from research.serving import models
  from research.serving.engine import Engine
  served, groups = models.group(models.load([('run', run[0])]))
  with listening(Engine(served, groups, slots=8, context=256)) as (_, client):
    lm = LocalCompletionsAPI(base_url=f'{client.base_url}completions', model='run', tokenizer=str(run[1]), num_concurrent=4,
                             tokenizer_backend='huggingface', add_bos_token=True, max_length=256, seed=1)
    results, samples = asked(lm, include_path, 'our_choice', 'our_answer')
  for name in ('acc', 'acc_norm', 'f1'):
    assert results['our_choice'][f'{name},none'] == evaluated['our_choice']['metrics'][name], name
  ours = {line['id']: line for line in lines(run[0], 'our_choice')}
  for sample in samples['our_choice']:
    theirs = [float(one[0][0] if isinstance(one[0], (list, tuple)) else one[0]) for one in sample['resps']]
    np.testing.assert_allclose(theirs, ours[sample['doc_id']]['log_likelihoods'], rtol=1e-6, atol=1e-6)
  assert results['our_answer']['exact_match,none'] == evaluated['our_answer']['metrics']['exact_match']
