"""README and docs: every command runs, every link leads somewhere, and every measured number stands in the file it names."""

import csv
import json
import random
import re
import shlex
from unittest import mock

import pytest
from helpers import ROOT, reviews, verb

from research import __main__ as command
from research import run_files
from research.data import sources
from research.serving import log
from research.studies import study_file

PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))]
BLOCK = re.compile(r'^```(\w+)\n(.*?)^```', re.M | re.S)
NUMBER = re.compile(r'(?<![\w./-])[+-]?\d+\.\d+(?![\w.])|(?<![\w.,-])\d{1,3}(?:,\d{3})+(?![\d,])')
TINY = {'model.source': 'random:llama-tiny', 'training.steps': '2', 'training.batch_size': '4', 'training.eval_every': '1',
        'training.checkpoint_every': '1', 'check_memory': 'False'}
page = pytest.mark.parametrize('page', PAGES, ids=lambda path: path.name)


def commands(page, kind):
  """The lines of a page's blocks of a kind that call a verb of ours, as arguments."""
  for language, text in BLOCK.findall(page.read_text(encoding='utf-8')):
    for line in text.replace('\\\n', '').splitlines() if language == kind else ():
      for part in line.split(' && '):
        if found := re.search(r'(?:flaxtune|-m research\.) ?(\w+) (--.*)', part):
          yield found[1], found[2]


@pytest.mark.quick
@page
def test_links_lead_somewhere(page):
  for link in re.findall(r'\]\(([^)#]+)\)', page.read_text(encoding='utf-8')):
    assert link.startswith('https://') or (page.parent / link).exists(), link


@pytest.mark.quick
@page
def test_every_measured_number_stands_in_the_file_that_it_names(page):
  """A table or paragraph with decimals says where they come from, or that they are settings or stated elsewhere."""
  text = BLOCK.sub('', page.read_text(encoding='utf-8'))
  said = None
  for block in re.split(r'\n\s*\n', text):
    said = re.search(r'<!-- (from|stated): (.*?) -->', block)
    found = NUMBER.findall(re.sub(r'<!--.*?-->|`[^`]*`|\]\([^)]*\)|arXiv \S+', '', block))
    if not found or (said and said[1] == 'stated'):
      continue
    found = [x for x in found if x not in SETTINGS]
    assert not found or said, f'{found}: <!-- from: FILE --> or <!-- stated: WHERE --> must stand above them'
    there = {x for file in (said[2].split() if said else ()) for x in numbers(ROOT / file)}
    missing = [x for x in found if not any(same(x, number) for number in there)]
    assert not missing, f'{missing} are not in {said[2]}'


# Sizes, and what stands in the names of versions and models.
SETTINGS = {'0.01', '0.1', '0.8', '0.02', '1,000', '1,024', '2,048', '4,096', '3.11', '1.0', '1.1', '2.5', '3.2'}


def numbers(file):
  """All numbers of a JSON or JSON-lines file."""
  def walk(value):
    if isinstance(value, dict):
      for one in value.values():
        yield from walk(one)
    elif isinstance(value, list):
      for one in value:
        yield from walk(one)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
      yield value
  text = file.read_text(encoding='utf-8')
  for line in text.splitlines() if file.suffix == '.jsonl' else [text]:
    yield from walk(json.loads(line))


def same(said, number):
  """Whether a number is what is said of it: rounded as it stands there, perhaps in millions or GiB."""
  value, digits = float(said.replace(',', '')), len(said.partition('.')[2])
  return any(abs(abs(number) / unit - abs(value)) <= 0.5000001 * 10 ** -digits for unit in (1, 1e6, 2 ** 30))


@page
def test_every_command_runs(page, tmp_path, monkeypatch):
  """With a tiny model and few rows and steps, in the order of the page."""
  fields = {name.removeprefix('task__'): value for name, value in reviews(train=12, valid=6, test=6).items()}
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'reviews').mkdir()
  for split in ('train', 'valid', 'test'):
    (tmp_path / 'reviews' / f'{split}.jsonl').symlink_to(fields[split])
  (tmp_path / 'experiments').symlink_to(ROOT / 'experiments')
  (tmp_path / 'exports').mkdir()
  short = [row for row in sources.sample('sentiment_sentences')['train'] if len(row['text']) < 40][:40]
  later = [row for row in sources.sample('sentiment_sentences')['train'] if 40 <= len(row['text']) < 48][:30]
  with open(tmp_path / 'exports' / 'a.csv', 'w', newline='') as f:
    csv.writer(f).writerows([('question', 'topic'), *((row['text'], row['label']) for row in short)])
  traffic = log.Writer(tmp_path / 'traffic.jsonl')
  for number, row in enumerate(later):
    traffic.request(id=f'r{number}', time=0.0, model='lora', workdir='runs/lora', endpoint='choices', ended='stop',
                    prompt=f'{row["text"]}\nTopic:', answer='negative', tokens={'prompt': 1, 'answer': 1},
                    seconds={'queued': 0, 'first': 0, 'total': 0})
    traffic.feedback(id=f'r{number}', label=row['label'])
  traffic.close()
  (tmp_path / 'pairs').mkdir()
  for split in ('train', 'valid'):
    run_files.write_jsonl(tmp_path / 'pairs' / f'{split}.jsonl', [{'text': 'Is it?', 'good': 'Yes.', 'bad': 'No.'}] * 8)
  run_files.write_jsonl(tmp_path / 'winobias.jsonl', sources.read_jsonl(sources.SAMPLES / 'winobias' / 'test.jsonl')[:6])
  load = study_file.load

  def small(path, function):
    made = load(path, function)
    if function == 'get_study':
      made |= {'models': ('random:llama-tiny',), 'tasks': (fields,), 'budget': {'steps': 2, 'eval_every': 1}, 'extend': 0,
               'margin': None, 'baseline': 'few_shot',
               'retain': [{'name': one, 'test': 'winobias.jsonl'} if one == 'winobias' else one
                          for one in made.get('retain', ())],
               'arms': {'few_shot': {'strategy': {'name': 'few_shot', 'shots': 1}}, 'lora': {'strategy': {'name': 'lora'}}}}
    return made
  for name, text in commands(page, 'console'):
    given = shlex.split(text)
    with mock.patch.object(study_file, 'load', small):
      tiny = with_tiny(name, given, fields) if any(x.startswith('--config=') for x in given) else given
      said = verb(name, *tiny, cwd=tmp_path)
    assert said.returncode == 0, f'{name} {text}\n{said.stderr}'


def test_from_a_csv_of_questions_to_a_score_in_three_commands(tmp_path, monkeypatch):
  """The README's, on 2,000 rows with duplicates, parts of test rows in training rows, and phone numbers."""
  monkeypatch.chdir(tmp_path)
  rng = random.Random(0)
  samples = sources.sample('sentiment_sentences')
  rows = [(row['text'], row['domain']) for split in sources.SPLITS for row in samples[split]][:1700]
  rows += [(text, label.upper()) for text, label in rng.sample(rows, 100)]
  rows += [(f'{text} Really', label) for text, label in rng.sample([row for row in rows if len(row[0]) > 60], 100)]
  long = ' '.join(f'word{i}' for i in range(20))
  rows += [(f'{text} {long} +49 30 2093{number:04}', label) for number, (text, label) in enumerate(rng.sample(rows, 100))]
  (tmp_path / 'exports').mkdir()
  with open(tmp_path / 'exports' / 'a.csv', 'w', newline='') as f:
    csv.writer(f).writerows([('question', 'topic'), *rows])
  for name, text in [*commands(ROOT / 'README.md', 'console')][1:4]:
    given = with_tiny(name, shlex.split(text), {}) if '--config=' in text else shlex.split(text)
    said = verb(name, *given, cwd=tmp_path)
    assert said.returncode == 0, said.stderr
  report = run_files.read_json(tmp_path / 'data' / 'tickets' / 'report.json')
  dropped = report['rows']['dropped']
  assert report['rows']['read'] == 2000 == report['rows']['kept'] + sum(dropped.values())
  assert dropped['exact_duplicate'] >= 100 and dropped['near_duplicate'] >= 60 and dropped['leak'] >= 60
  assert report['personal']['phone'] >= 90 and report['labels']['splits']['train'].keys() == {'amazon', 'imdb', 'yelp'}
  texts = {split: (tmp_path / 'data' / 'tickets' / f'{split}.jsonl').read_text() for split in sources.SPLITS}
  assert all('+49 30' not in text for text in texts.values()) and '[PHONE]' in texts['test']
  assert long not in texts['train'] and long in texts['test']
  result = run_files.read_result(tmp_path / 'runs' / 'tickets')
  assert 0 <= result['metrics']['test/accuracy'] <= 1 and 'test/accuracy' in result['intervals']
  predictions = (tmp_path / 'runs' / 'tickets' / 'predictions' / 'test.jsonl').read_text().splitlines()
  assert len(predictions) == report['splits']['test'] == len(texts['test'].splitlines())


def with_tiny(name, given, fields):
  """The arguments of a command, on a tiny model and a few rows, but for what it names itself."""
  own = {x.removeprefix('--config.').partition('=')[0] for x in given if x.startswith('--config.')}
  if name in ('plan', 'prepare'):
    return given
  pretrains = any('pretrain' in x for x in given)
  changes = {**TINY, **({} if 'task.name' in own or pretrains else {f'task.{k}': v for k, v in fields.items()})}
  if pretrains:
    changes |= {'model.vocab': '0', 'task.rows': '8'}
  changes |= {'model.quantize': 'none'} if 'model.quantize' not in own else {}
  return [*given, *(f'--config.{field}={value}' for field, value in changes.items() if field not in own)]


@pytest.mark.quick
@page
def test_a_command_for_other_machines_names_verbs_and_flags_that_there_are(page):
  for name, text in commands(page, 'bash'):
    assert name in command.VERBS
    known = (ROOT / 'research' / f'{name}.py').read_text() + (ROOT / 'research' / 'cli.py').read_text()
    for flag in re.findall(r'--(\w+)=', text):
      assert f"'{flag}'" in known, f'{name} has no --{flag}'


@pytest.mark.quick
def test_the_strategies_page_tells_of_every_row_and_no_other():
  from research.strategies import table
  text = (ROOT / 'docs' / 'strategies.md').read_text()
  rows = {name for line in text.splitlines() if line.startswith('| `') for name in re.findall(r'`(\w+)`', line.split('|')[1])}
  assert rows == set(table.STRATEGIES)


@pytest.mark.quick
def test_every_page_of_the_docs_is_in_the_sites_menu():
  menu = (ROOT / 'mkdocs.yml').read_text()
  assert {page.name for page in PAGES[1:]} == set(re.findall(r': (\S+\.md)$', menu, re.M))
