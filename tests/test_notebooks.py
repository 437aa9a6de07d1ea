"""The notebooks run from top to bottom, and show what they promise."""

import nbformat
import pytest
from helpers import ROOT
from nbclient import NotebookClient


def shown(name, **instead):
  """The texts that a notebook shows, run in a kernel of its own, and how many pictures.

  Args:
    name: of the notebook.
    instead: what stands in a cell -> what stands there in this run.
  """
  notebook = nbformat.read(ROOT / 'notebooks' / name, as_version=4)
  for here, there in instead.items():
    [cell] = [cell for cell in notebook.cells if cell.cell_type == 'code' and here in cell.source]
    cell.source = cell.source.replace(here, there)
  where = {'metadata': {'path': str(ROOT / 'notebooks')}}
  NotebookClient(notebook, timeout=600, kernel_name='python3', resources=where).execute()
  outputs = [o for cell in notebook.cells if cell.cell_type == 'code' for o in cell.outputs]
  texts = [o.text for o in outputs if o.output_type == 'stream' and o.name == 'stdout']
  texts += [o.data['text/plain'] for o in outputs if o.output_type == 'execute_result']
  return '\n'.join(texts), sum('image/png' in o.get('data', {}) for o in outputs)


@pytest.mark.smollm2
@pytest.mark.parametrize('rows, batch', [(45, 4), pytest.param(90, 8, marks=pytest.mark.matrix)])
def test_the_tour_tunes_a_model_that_then_knows_more(rows, batch):
  text, pictures = shown('tour.ipynb', **{"('valid', 90)": f"('valid', {rows})",
                                          'batch_size=8, microbatches': f'batch_size={batch}, microbatches'})
  accuracy = {line.split()[0]: float(line.split()[2]) for line in text.splitlines() if ' accuracy ' in line}
  assert accuracy['after'] > accuracy['before'] + 0.1
  assert pictures == 2 and 'largest difference of a logit' in text


def test_a_study_is_read_to_its_figures_and_another_question():
  text, pictures = shown('read_a_study.ipynb')
  assert '0 of them failed' in text and "over full's" in text and pictures == 1
