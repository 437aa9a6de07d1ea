"""The page of a look: what changed and since when, what all else is like, and the most foreign requests."""

from pathlib import Path
from typing import Any

from research import look, run_files
from research.monitoring import figures, folder, told
from research.monitoring.found import WHAT


def write(found: dict[str, Any], output: Path) -> None:
  """Writes report.html, which opens by itself and without a network.

  Args:
    found: what monitor.json holds.
    output: the monitor's folder.
  """
  evidence = [[kind, WHAT[one['what']], f'{one["wealth"]:,.3g}', f'{one["most"]:,.3g}']
              for kind, one in found['evidence'].items()]
  page = look.template('research.monitoring', folder.REPORT).render(
      found=found, css=look.css(), changes=told.changes(found), facts=told.facts(found), figures=figures.drawn(found),
      evidence=evidence, when=told.when, what=WHAT)
  run_files.write_text(output / folder.REPORT, page)
