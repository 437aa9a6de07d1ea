"""The line of versions: what is current, from any working directory, and the way back."""

import json
from pathlib import Path

import pytest

from research import run_files
from research.errors import InputError
from research.refining import versions
from research.serving import follow

pytestmark = pytest.mark.quick

RESULT = {'steps': 1, 'metrics': {}, 'intervals': {},
          'cost': {'trainable_params': 1, 'train_flops': 1, 'train_seconds': 1, 'peak_bytes': 1}}


@pytest.fixture
def runs(tmp_path):
  """Four folders of finished runs."""
  found = [tmp_path / 'runs' / name for name in ('lora', 'lora-2', 'lora-3', 'lora-4')]
  for folder in found:
    folder.mkdir(parents=True)
    run_files.write_json(folder / run_files.CONFIG, {})
    run_files.write_json(folder / run_files.RESULT, RESULT)
  return found


def current(folder):
  found = follow.current(folder / versions.CURRENT)
  return found.version, found.model, found.workdir.name


def whys(folder):
  return [(change.version, change.why) for change in versions.history(folder)]


def test_promotions_and_rollbacks_follow_each_other(tmp_path, runs):
  folder, (one, two, three, four) = tmp_path / 'versions', runs
  versions.begin(folder, one, two)
  assert current(folder) == (1, 'lora', 'lora')
  versions.promote(folder, one, two)
  versions.promote(folder, two, three)
  assert current(folder) == (3, 'lora', 'lora-3')
  versions.rollback(folder)
  assert current(folder) == (2, 'lora', 'lora-2')
  versions.promote(folder, two, four)      # has a number of its own, and the one before is that it was promoted over
  assert current(folder) == (4, 'lora', 'lora-4')
  for version in (2, 1):
    assert versions.rollback(folder).version == version == current(folder)[0]
  before = sorted((path.name, path.read_bytes()) for path in folder.iterdir())
  with pytest.raises(InputError, match=r'version 1 is the first in .*; there is none before it'):
    versions.rollback(folder)
  assert before == sorted((path.name, path.read_bytes()) for path in folder.iterdir())
  assert whys(folder) == [(1, 'first'), (2, 'promoted'), (3, 'promoted'), (2, 'rollback'), (4, 'promoted'), (2, 'rollback'),
                          (1, 'rollback')]


def test_what_is_promoted_twice_is_promoted_once(tmp_path, runs):
  folder, (one, two, *_) = tmp_path / 'versions', runs
  versions.begin(folder, one, two)
  versions.promote(folder, one, two)
  versions.begin(folder, one, two)
  assert versions.promote(folder, one, two).version == 2 and whys(folder) == [(1, 'first'), (2, 'promoted')]


def test_the_current_run_is_found_from_another_working_directory(tmp_path, runs, monkeypatch):
  monkeypatch.chdir(tmp_path / 'runs')
  versions.begin(Path('lora.versions'), Path('lora'), Path('lora-2'))
  monkeypatch.chdir('/')
  found = follow.current(tmp_path / 'runs' / 'lora.versions' / 'current.json')
  assert found == (1, 'lora', tmp_path / 'runs' / 'lora') and run_files.read_result(found.workdir)


def test_a_history_that_was_written_before_a_kill_counts(tmp_path, runs):
  folder, (one, two, *_) = tmp_path / 'versions', runs
  versions.begin(folder, one, two)
  before = (folder / 'current.json').read_bytes()
  versions.promote(folder, one, two)
  (folder / 'current.json').write_bytes(before)
  versions.begin(folder, one, two)
  assert current(folder) == (2, 'lora', 'lora-2')


def test_a_promoted_run_names_its_versions_and_another_has_them_beside_it(runs, tmp_path):
  one, two, three, _ = runs
  assert versions.folder_of(one) == one.with_name('lora.versions')
  for folder, is_promoted in ((two, True), (three, False)):
    run_files.write_json(folder / 'promotion.json', {'versions': str(tmp_path / 'v'), 'promoted': is_promoted})
  assert versions.folder_of(two) == tmp_path / 'v' and versions.folder_of(three) == three.with_name('lora-3.versions')


def test_what_does_not_continue_a_line_is_refused(tmp_path, runs):
  folder, (one, two, three, _) = tmp_path / 'versions', runs
  with pytest.raises(InputError, match=r'holds no history\.jsonl, so there is no version to go back to'):
    versions.rollback(folder)
  assert not folder.exists()
  with pytest.raises(InputError, match=r'exists and holds no history\.jsonl'):
    versions.check(one, two, three)
  versions.begin(folder, one, two)
  with pytest.raises(InputError, match=r'its current version is .*/lora, not .*/lora-3'):
    versions.begin(folder, three, two)
  with open(folder / 'history.jsonl', 'a') as f:
    f.write(json.dumps({'version': 5, 'workdir': 'x', 'time': '', 'why': 'rollback'}) + '\n')
  with pytest.raises(InputError, match=r"history\.jsonl line 2: is damaged: 'rollback' of version 5 cannot follow"):
    versions.history(folder)


def test_a_version_whose_run_is_gone_is_not_gone_back_to(tmp_path, runs):
  folder, (one, two, *_) = tmp_path / 'versions', runs
  versions.begin(folder, one, two)
  versions.promote(folder, one, two)
  (one / 'result.json').unlink()
  with pytest.raises(InputError, match='the run is not finished'):
    versions.rollback(folder)
  assert current(folder) == (2, 'lora', 'lora-2')


@pytest.mark.parametrize('said, says', [
  (None, 'no such file; `research.refine` writes it'), ({'version': 1, 'model': 'm'}, "holds no 'workdir'"),
  ({'version': 0, 'model': 'm', 'workdir': 'x'}, 'must hold a version from 1 on'), ([], 'is damaged'),
  ({'version': 1, 'model': 'm', 'workdir': 'nowhere'}, 'names .*nowhere, where no finished run is')])
def test_a_file_that_names_no_current_run_is_refused(tmp_path, said, says):
  if said is not None:
    run_files.write_json(tmp_path / 'current.json', said)
  with pytest.raises(InputError, match=says):
    follow.current(tmp_path / 'current.json')
