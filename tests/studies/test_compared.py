"""Two studies on one page: differences paired by example where the examples are the same, and one line where they are not."""

import gzip
import json
import shutil

import pytest
from helpers import ROOT, verb

from research import run_files
from research.studies import outcomes

pytestmark = pytest.mark.quick
QUICKSTART = ROOT / 'experiments' / 'quickstart'
KEPT = gzip.decompress((QUICKSTART / outcomes.FILE).read_bytes()).decode()
TARGETS = next(line['test']['target'] for line in map(json.loads, KEPT.split('\n')) if 'target' in line.get('test', {}))


def copied(folder, change=lambda line: None, **comparison):
  """The shipped study's record, where `change` was made to what each run came to."""
  folder.mkdir()
  for name in ('plan.json', 'results.jsonl', 'comparison.json'):
    shutil.copy(QUICKSTART / name, folder / name)
  lines = [json.loads(line) for line in KEPT.split('\n') if line]
  for line in lines:
    change(line)
  (folder / outcomes.FILE).write_bytes(gzip.compress(''.join(json.dumps(line) + '\n' for line in lines).encode()))
  if comparison:
    there = run_files.read_json(folder / 'comparison.json')
    there['comparisons'][0] |= comparison
    run_files.write_json(folder / 'comparison.json', there)
  return folder


def all_right(line):
  """What lora says is all right."""
  if '-lora-' in line['key'] and 'test' in line:
    line['test']['prediction'] = TARGETS


def test_common_arms_are_compared_by_example_and_told_on_one_page(tmp_path):
  one, other = copied(tmp_path / 'one'), copied(tmp_path / 'o<b>ther', all_right)
  ran = verb('study', '--compare', str(one), str(other))
  assert ran.returncode == 0, ran.stderr
  into = one / 'compared' / 'o<b>ther'
  found = {x['arm']: x for x in run_files.read_json(into / 'compared.json')['differences']}
  assert list(found) == ['few_shot', 'full', 'lora', 'adapter']
  before = run_files.read_json(QUICKSTART / 'comparison.json')['comparisons'][0]['arms'][2]['mean']
  assert found['lora']['mean'] == pytest.approx(1 - before) and found['lora']['p_adjusted'] < 1e-4
  assert found['full']['mean'] == 0 and found['full']['p_adjusted'] == 1 and found['full']['examples'] == len(TARGETS)
  told, page = (into / 'report.md').read_text(), (into / 'report.html').read_text()
  assert 'ther is above one with lora on domain: +0.198' in told and 'cannot be told from one with few_shot on domain' in told
  assert 'o<b>' not in page and 'http://' not in page and 'https://' not in page and 'data:image/svg+xml;base64,' in page
  assert {f.name for f in (into / 'figures').iterdir()} == {f'compared.{kind}' for kind in ('png', 'svg', 'pdf')}


def other_targets(line):
  if 'target' in line.get('test', {}):
    line['test']['target'] = ['imdb', *line['test']['target'][1:]]


def fewer(line):
  if 'test' in line:
    line['test'] = {name: column if name == 'choices' else column[:-1] for name, column in line['test'].items()}


@pytest.mark.parametrize('change, comparison, error', [
    (other_targets, {}, 'few_shot on domain: the studies were tested on different examples (row 0 is another)'),
    (fewer, {}, 'few_shot on domain: the studies were tested on different numbers of examples (479 and 478)'),
    (lambda line: None, {'metric': 'test/macro_f1'}, 'one reports test/accuracy and other test/macro_f1'),
    (lambda line: None, {'task': 'else'}, 'have no arm of one task in common'),
])
def test_what_cannot_be_paired_is_one_line_and_nothing_is_written(change, comparison, error, tmp_path):
  one, other = copied(tmp_path / 'one'), copied(tmp_path / 'other', change, **comparison)
  ran = verb('study', '--compare', str(one), str(other), f'--workdir={tmp_path}/page')
  assert ran.returncode == 2 and error in ran.stderr and not (tmp_path / 'page').exists()


@pytest.mark.parametrize('given, error', [
    (['--compare', 'one'], '--compare: takes two studies, --compare A B, not 1'),
    (['--compare=one'], '--compare: takes two studies, --compare A B, not 1'),
    (['--compare', 'one', 'nowhere'], 'nowhere: holds no study'),
    (['--compare', 'one', 'one', '--dry_run'], 'give no --study, --dry_run or --report_only beside it'),
    (['--compare', 'one', 'one', '--workdir=one'], 'one: holds a study; give another place for the page'),
])
def test_what_a_person_can_get_wrong_is_one_line(given, error, tmp_path):
  copied(tmp_path / 'one')
  ran = verb('study', *given, cwd=tmp_path)
  assert ran.returncode == 2 and error in ran.stderr


def test_a_study_that_has_not_ended_is_not_compared(tmp_path):
  one, other = copied(tmp_path / 'one'), copied(tmp_path / 'other')
  there = run_files.read_json(other / 'comparison.json')
  run_files.write_json(other / 'comparison.json', {**there, 'interim': {'ended': 3, 'planned': 13}})
  assert 'other: the study has not ended (3 of 13 runs)' in verb('study', '--compare', str(one), str(other)).stderr
  (other / 'comparison.json').unlink()
  assert 'other: holds no comparison.json' in verb('study', '--compare', str(one), str(other)).stderr
