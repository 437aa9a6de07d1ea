"""The committed studies: anyone comes to their numbers again from what is kept of them."""

import json
import shutil

import pytest
from helpers import ROOT
from test_runner import flat

from research.studies import carry_out, outcomes, registration, study_file

KEPT = [folder.parent for folder in sorted((ROOT / 'experiments').glob(f'*/{outcomes.FILE}'))]


@pytest.mark.parametrize('folder', KEPT, ids=lambda folder: folder.name)
def test_a_committed_study_comes_to_its_comparison_and_report_again(folder, tmp_path):
  for name in (registration.PLAN, registration.RESULTS, outcomes.FILE, 'provenance.json'):
    shutil.copy(folder / name, tmp_path / name)
  said = study_file.read(str(folder.with_suffix('.py')))
  plan = registration.check(said.study, said.cells, tmp_path)      # of a time when configs had fewer fields
  assert [c.key for c in plan.cells] == [c.key for c in registration.planned(tmp_path).cells]
  carry_out.write_report(registration.planned(tmp_path), tmp_path, None)
  there, here = (json.loads((of / registration.COMPARISON).read_text()) for of in (folder, tmp_path))
  number = lambda x: pytest.approx(x, rel=1e-4, abs=1e-6) if isinstance(x, float) else x
  assert flat(here) == {name: number(value) for name, value in flat(there).items()}
  told = lambda of: [line for line in (of / 'report.md').read_text().splitlines() if line.startswith(('- ', '|'))]
  assert told(tmp_path) == told(folder)
  assert (folder / outcomes.FILE).stat().st_size < 300_000
