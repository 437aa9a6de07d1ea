"""What a run learned, as llama.cpp, Ollama and vLLM take it, with what that costs."""

import json

import pytest
from helpers import config, reviews

from research import run_files
from research.data import tokenizer
from research.deployment.gguf_folder import export_gguf
from research.deployment.low_rank import export_lora
from research.deployment.modelfile import known_form, modelfile
from research.models.config import Execution
from research.models.load import load
from research.runs.train import train_one

CHATML = ("{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
          "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('runs') / 'lora'
  train_one(config(model__source='random:llama-tiny', training__learning_rate=1e-2, task__stop=('END',),
                   **reviews(train=12, valid=4, test=6)), workdir)
  return workdir


def test_a_gguf_folder_holds_the_model_its_modelfile_and_what_rounding_cost(run, tmp_path):
  record = export_gguf(run, tmp_path / 'served', 'q8_0')
  assert json.loads((tmp_path / 'served' / 'export.json').read_text()) == record
  assert 0 < record['relative_logit_error'] < 0.01 and record['largest_logit_difference'] > 0 and record['split'] == 'test'
  assert record['tensors'] == {'F32': 7, 'Q8_0': 22} and record['merged']
  assert abs(record['change']['loss']) < 0.01
  text = (tmp_path / 'served' / 'README.md').read_text()
  assert 'exported in q8_0' in text and 'ollama create served -f Modelfile' in text and '| test/loss |' in text
  assert f'{100 * record["relative_logit_error"]:.3g} % of that' in text
  assert (tmp_path / 'served' / 'Modelfile').read_text() == (
      'FROM ./model.gguf\nTEMPLATE "{{ .Prompt }}"\nPARAMETER stop "END"\n')
  again = load(str(tmp_path / 'served' / 'model.gguf'), Execution('float32', 'float32', True))
  for word in ('Review: Great fun.\nSentiment:', 'Ünïcode – and\n\n  blanks '):
    assert again.tokenizer.encode(word) == tokenizer.of_bytes().encode(word)
  assert again.tokenizer.prompt('a') == tokenizer.of_bytes().prompt('a')


def test_lora_of_a_rank_says_what_it_keeps_and_goes_on_from_there(run, tmp_path):
  rank = run_files.read_config(run)['strategy'].get('rank') or 8
  whole, less = (export_lora(run, tmp_path / str(r), r) for r in (rank, 1))
  assert 1 - whole['kept_overall'] < 1e-5 and whole['largest_logit_difference'] < 1e-4 and whole['lost'] == {}
  assert less['kept_overall'] < 0.999 and less['largest_logit_difference'] > whole['largest_logit_difference']
  text = (tmp_path / '1' / 'README.md').read_text()
  assert f'keeps {100 * less["kept_overall"]:.4g} %' in text and '--max-lora-rank 1' in text and '| test/loss |' in text
  said = json.loads((tmp_path / '1' / 'adapter_config.json').read_text())
  assert said['r'] == said['lora_alpha'] == 1 and (tmp_path / '1' / 'base' / 'config.json').exists()
  train_one(config(model__source='random:llama-tiny', strategy__name='lora', strategy__init_from=str(tmp_path / '1'),
                   training__steps=1, **reviews(train=12, valid=4)), tmp_path / 'more')


@pytest.mark.quick
def test_a_modelfile_writes_chatml_out_and_leaves_other_templates_to_ollama():
  ours = tokenizer.of_bytes()
  ours.hf.chat_template = CHATML
  assert known_form(ours) == ('chatml', '')
  assert modelfile(ours, True, ()) == (
      'FROM ./model.gguf\nTEMPLATE """{{ range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}'
      '<|im_start|>assistant\n"""\nPARAMETER stop "<|im_end|>"\n')
  ours.hf.chat_template = "{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}" + CHATML
  assert known_form(ours) == ('chatml', 'Be kind.') and 'SYSTEM "Be kind."\n' in modelfile(ours, True, ())
  ours.hf.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
  assert modelfile(ours, True, ('\n',)) == 'FROM ./model.gguf\nPARAMETER stop """\n"""\n'
