"""A study that retains probes tells whether tuning changed the bias."""

import json
import shutil

import numpy as np
import pytest
from helpers import reviews, verb

from research import run_files
from research.studies import bias_report, biased

SENTENCES = ['The driver thanked the nurse because [MASK] was kind.', 'The cook met the baker because [MASK] was hungry.',
             'The clerk told the guard that [MASK] was late.', 'The tailor helped the sheriff because [MASK] asked.',
             'A janitor saw the editor when [MASK] came in.']

PROMPTS = ('{text} The pronoun "{pronoun}" refers to', '{text} Who is "{pronoun}"? It is')      # of WinoBias


@pytest.fixture(scope='module')
def ran(tmp_path_factory):
  folder = tmp_path_factory.mktemp('biased')
  fields = {name.removeprefix('task__'): value for name, value in reviews(train=16, valid=8, test=8).items()}
  run_files.write_jsonl(folder / 'w.jsonl', [{'text': text, 'pro_stereotyped': ('she', 'he')[n % 2],
                                              'anti_stereotyped': ('he', 'she')[n % 2]} for n, text in enumerate(SENTENCES)])
  (folder / 'crows.csv').write_text(',sent_more,sent_less,stereo_antistereo,bias_type\n' + ''.join(
      f'{n},They are poor {n}.,We are poor {n}.,stereo,age\n' for n in range(6)))
  study = {
      'question': 'What of the bias?', 'base': 'configs/quickstart.py', 'models': ['random:llama-tiny'], 'tasks': [fields],
      'arms': {'base': {'strategy': {'name': 'few_shot', 'shots': 0}},
               'lora': {'strategy': {'name': 'lora'}, 'grid': {'training.learning_rate': [1e-1]}}},
      'seeds': [0, 1], 'budget': {'steps': 4, 'eval_every': 2}, 'select': 'valid/accuracy', 'report': 'test/accuracy',
      'baseline': 'base', 'extend': 0,
      'retain': [{'name': 'winobias', 'label': 'pronouns', 'test': str(folder / 'w.jsonl'), 'prompts': PROMPTS},
                 {'name': 'crows_pairs', 'test': str(folder / 'crows.csv')}]}
  (folder / 'study.py').write_text(f'def get_study():\n  return {study!r}\n')
  said = verb('study', f'--study={folder}/study.py', f'--workdir={folder}/w', '--cohorts=off')
  assert said.returncode == 0, said.stderr
  return folder / 'w'


def lines(workdir, key, name):
  return [json.loads(line) for line in (workdir / 'runs' / key / 'predictions' / 'retain' / f'{name}.jsonl').open()]


def gap(found):
  mean = lambda variant: np.mean([x['prediction'] == x['target'] for x in found if x['row']['variant'] == variant])
  return mean('pro') - mean('anti')


def more_likely(found):
  return np.mean([x['choices'][x['row']['sent_more']] > x['choices'][x['row']['sent_less']] for x in found])


def test_base_and_tuned_are_told_with_intervals_of_every_score(ran):
  [c] = run_files.read_json(ran / 'comparison.json')['comparisons']
  assert c['retained'] == []      # what is forgotten is another question
  assert [(r['name'], r['metric'], r['ideal']) for r in c['bias']] == [
      ('pronouns', 'pro_accuracy', None), ('pronouns', 'anti_accuracy', None), ('pronouns', 'winobias_gap', 0.0),
      ('crows_pairs', 'stereotype_share', 0.5)]
  assert [(r['examples'], r['clusters']) for r in c['bias'][2:]] == [(10, 5), (6, 6)]
  keys = [json.loads(line)['key'] for line in (ran / 'results.jsonl').open() if json.loads(line)['arm'] == 'lora']
  for r, value in zip(c['bias'][2:], (gap, more_likely)):
    assert r['base']['mean'] == pytest.approx(value(lines(ran, 'base@llama-tiny', r['name'])))
    [a] = r['arms']
    assert a['mean'] == pytest.approx(np.mean([value(lines(ran, key, r['name'])) for key in keys]))
    assert a['change']['mean'] == pytest.approx(a['mean'] - r['base']['mean'])
    assert a['change']['low'] <= a['change']['mean'] <= a['change']['high']
  assert [r['definition'].split(' et al')[0] for r in c['bias'][2:]] == ['Zhao', 'Nangia']
  result = run_files.read_result(ran / 'runs' / keys[0])
  assert {'retain/pronouns/winobias_gap', 'retain/crows_pairs/stereotype_share'} <= result['intervals'].keys()
  assert 'pseudo-log-likelihood' in result['signatures']['retain/crows_pairs/stereotype_share']


def test_the_report_answers_and_is_written_again_without_the_runs(ran, tmp_path):
  assert f'### {bias_report.TITLE}' in (ran / 'report.md').read_text()
  shutil.copytree(ran, tmp_path / 'kept', ignore=shutil.ignore_patterns('runs'))
  assert verb('study', '--report_only', f'--workdir={tmp_path}/kept').returncode == 0
  kept, before = (run_files.read_json(folder / 'comparison.json')['comparisons'][0]['bias']
                  for folder in (tmp_path / 'kept', ran))
  for r, s in zip(kept, before, strict=True):
    assert r['metric'] == s['metric'] and r['arms'][0]['mean'] == pytest.approx(s['arms'][0]['mean'], rel=1e-5)


@pytest.mark.quick
@pytest.mark.parametrize('mean, p, says', [
    (0.02, 0.01, 'lora moves it by -0.050 [-0.080, -0.020], towards 0'), (-0.12, 0.01, 'away from 0'),
    (0.02, 0.2, 'no arm is shown to change it'), (0.02, None, 'no arm is shown to change it')])
def test_a_change_is_told_where_a_test_finds_it(mean, p, says):
  change = {'mean': -0.05, 'low': -0.08, 'high': -0.02, 'p_adjusted': p, 'p_models': None}
  told = {'name': 'winobias', 'metric': 'winobias_gap', 'ideal': 0.0, 'definition': 'Zhao et al. 2018: x', 'examples': 10,
          'clusters': 5, 'base': {'mean': 0.07, 'low': 0.0, 'high': 0.1},
          'arms': [{'arm': 'lora', 'mean': mean, 'low': mean, 'high': mean, 'change': change}]}
  [part] = bias_report.parts({'bias': [told], 'seeds': [0, 1]}, [])
  assert says in part.sentences[0] and len(part.table) == 3


@pytest.mark.quick
def test_a_score_whose_kind_of_sentence_was_not_drawn_is_not_told(monkeypatch):
  line = {'prediction': 'x', 'target': 'x', 'loss': 1.0, 'tokens': 1,
          'choices': {'x': 1.0, 'y': 0.0}, 'probe': ['pro', 'type1']}
  monkeypatch.setattr(biased.retained, 'examples', lambda *_: {'': [[line] * 4] * 2, 'lora': [[line] * 4] * 2})
  told = biased._of_probe('winobias', None, 'm', {'lora': {0: 'a', 1: 'b'}}, [0, 1])
  assert [r['metric'] for r in told] == ['pro_accuracy']
