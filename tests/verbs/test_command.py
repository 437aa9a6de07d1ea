"""`flaxtune VERB`: the same as `python -m research.VERB`, from any folder, with shipped configs and studies by their names."""

import importlib.metadata
import json
import os
import subprocess
import sys

import pytest
from helpers import ROOT, verb

from research import __main__ as command
from research import shipped
from research.errors import InputError


def flaxtune(*given, cwd=ROOT):
  return subprocess.run([sys.executable, '-m', 'research', *given], cwd=cwd, capture_output=True, text=True,
                        env={**os.environ, 'PYTHONPATH': str(ROOT)})


@pytest.mark.quick
def test_without_a_verb_it_lists_all_with_a_sentence_each(capsys, monkeypatch):
  there = {path.stem for path in (ROOT / 'research').glob('*.py') if 'cli.run(main' in path.read_text()}
  assert there == set(command.VERBS)
  monkeypatch.setattr(sys, 'argv', ['flaxtune'])
  command.main()
  lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.startswith('  ')}
  assert set(lines) == set(command.VERBS) and all(line.endswith('.') and len(line) <= 80 for line in lines.values())


@pytest.mark.quick
def test_a_verb_that_is_none_is_named(capsys, monkeypatch):
  monkeypatch.setattr(sys, 'argv', ['flaxtune', 'trian'])
  with pytest.raises(SystemExit) as ended:
    command.main()
  assert ended.value.code == 2 and capsys.readouterr().err == "error: 'trian' is no verb; did you mean train?\n"


@pytest.mark.quick
def test_the_console_script_is_this_command():
  [script] = [e for e in importlib.metadata.entry_points(group='console_scripts') if e.name == 'flaxtune']
  assert script.load() is command.main


def test_it_is_the_same_as_the_module_from_any_folder(tmp_path):
  given = ['--config=default', '--config.model.source=random:llama-tiny', '--topology=H100', '--output']
  elsewhere = flaxtune('plan', *given, str(tmp_path / 'a.json'), cwd=tmp_path)
  assert elsewhere.returncode == 0, elsewhere.stderr
  here = verb('plan', '--config=configs/default.py', *given[1:], str(tmp_path / 'b.json'))
  assert here.stdout == elsewhere.stdout
  a, b = (json.loads((tmp_path / f'{name}.json').read_text()) for name in 'ab')
  assert a == b


@pytest.mark.quick
def test_a_name_is_a_shipped_file_and_a_path_is_a_path(tmp_path, monkeypatch):
  assert shipped.path('config', 'pods:llama-3-8b-lora') == f'{ROOT / "configs" / "pods.py"}:llama-3-8b-lora'
  assert shipped.path('study', 'quickstart') == str(ROOT / 'experiments' / 'quickstart.py')
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'default.py').write_text('')
  assert shipped.path('config', 'default.py') == 'default.py'
  for said, hint in (('defalt', 'did you mean the shipped --config=default'), ('configs/gpt2.py', '--config=gpt2'),
                     ('x/nothing.py', 'shipped are default, ')):
    with pytest.raises(InputError, match=f'--config={said}: no such file; .*{hint}'):
      shipped.path('config', said)
