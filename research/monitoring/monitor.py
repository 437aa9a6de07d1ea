"""A look at a log: what came since the last one is added to a folder, and what there is then is told."""

import hashlib
import json
import sys
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from research import run_files
from research.distributed import mesh, partition
from research.errors import InputError
from research.experiment import restore
from research.monitoring import folder, found, report, rows, seen
from research.serving import log

AT_ONCE = 256      # requests that are read, and then kept, together
TIMEOUT = 10       # seconds that a webhook may take
SEED = 0


def look(log_file: Path, reference: Path, workdir: Path, output: Path, webhook: str | None = None,
         allow_changed: bool = False) -> dict[str, Any]:
  """What monitor.json holds, after a look.

  A log, run, reference or folder that cannot be is refused (`InputError`), and nothing is written.

  Args:
    log_file: what `research.serve` wrote.
    reference: the folder whose rows traffic is held against.
    workdir: the run that answered.
    output: the monitor's folder; made where it is not there, else added to.
    webhook: the address that a new alarm is sent to.
    allow_changed: although the run was made from something else than is there now (see `provenance.check`).
  """
  traffic = log.read(log_file)
  config, result = run_files.read_config(workdir), run_files.read_result(workdir)
  mine = of_run(traffic.requests, workdir, log_file)
  with mesh.use(mesh.make(partition.EVAL_MESH)):
    experiment = restore.of_run(workdir, (), allow_changed)
    known = rows.read(reference, experiment, SEED)
    settings = {'version': folder.VERSION, 'run': _fingerprint(config, result.get('best_step'), experiment.fingerprint),
                'reference': known.fingerprint, 'of': {'run': str(workdir), 'reference': str(reference)}, 'seed': SEED}
    folder.settled(output, settings)
    with run_files.held(output):
      if not folder.settled(output, settings):      # again, now that nobody else is there
        run_files.write_json(output / folder.SETTINGS, settings)
      before = folder.read_requests(output)
      there = {one['id'] for one in before}
      new = [one for one in {one['id']: one for one in reversed(mine)}.values() if one['id'] not in there][::-1]
      made = folder.read_reference(output)
      if made is None or new:
        by = seen.reader(experiment, restore.learned(workdir, experiment), known)
        if made is None:
          made = seen.reference(by, known)
          folder.write_reference(output, *made)
        for start in range(0, len(new), AT_ONCE):
          folder.append(output, seen.requests(by, made[0], new[start:start + AT_ONCE]))
      feedback = _feedback(output, traffic)
      told = found.found(folder.read_requests(output), feedback, made[1], known.held_out, settings, experiment.context)
      earlier = run_files.read_json(output / folder.MONITOR) if (output / folder.MONITOR).exists() else {}
      told |= {'looks': earlier.get('looks', 0) + 1, 'new': len(new), 'log': str(log_file), 'webhook': earlier.get('webhook')}
      if webhook and told['alarm']['alarmed'] and not earlier.get('alarm', {}).get('alarmed'):
        told['webhook'] = _send(webhook, told)
      report.write(told, output)
      run_files.write_json(output / folder.MONITOR, told)
  return told


def of_run(requests: Sequence[dict[str, Any]], workdir: Path, log_file: Path) -> list[dict[str, Any]]:
  """The requests that a run answered, by its folder; where the server saw it at another place, by that folder's name.

  Args:
    requests: of a log, in their order.
    workdir: the run's.
    log_file: what the error calls the log.
  Raises:
    InputError: there are requests, but all are other runs'.
  """
  here = workdir.resolve()
  mine = [one for one in requests if Path(one['workdir']).resolve() == here]
  mine = mine or [one for one in requests if Path(one['workdir']).name == here.name]
  if requests and not mine:
    there = sorted({one['workdir'] for one in requests})
    raise InputError(f'--log={log_file}: none of its {len(requests)} requests was answered by --workdir={workdir} (they were '
                     f'by {", ".join(there[:3])}{" …" if len(there) > 3 else ""})')
  return mine


def _fingerprint(config: dict[str, Any], step: int | None, base: str) -> str:
  """By which a run is known again, wherever it lies."""
  said = json.dumps([{name: part for name, part in config.items() if name != 'mesh'}, step, base], sort_keys=True)
  return hashlib.sha256(said.encode()).hexdigest()[:16]


def _feedback(output: Path, traffic: log.Traffic) -> dict[str, dict[str, Any]]:
  """What was ever said of answers, which the folder then holds."""
  known = folder.read_feedback(output)
  for request, said in traffic.feedback.items():
    given = {name: said[name] for name in ('label', 'rating') if said.get(name) is not None}
    known[request] = {**known.get(request, {}), **given}
  run_files.write_json(output / folder.FEEDBACK, known)
  return known


def _send(webhook: str, told: dict[str, Any]) -> dict[str, Any]:
  """Sends a new alarm as JSON; that it could not be delivered is told and recorded, and no more."""
  text = json.dumps({'alarm': told['alarm']['sentence'], 'kinds': told['alarm']['kinds'], 'run': told['run'],
                     'requests': told['requests']})
  try:
    asked = urllib.request.Request(webhook, text.encode(), {'Content-Type': 'application/json'})
    with urllib.request.urlopen(asked, timeout=TIMEOUT) as answer:
      return {'url': webhook, 'status': answer.status, 'error': None}
  except (OSError, ValueError) as e:      # of the network, or no address at all
    print(f'warning: --webhook={webhook}: the alarm was not delivered ({e})', file=sys.stderr)
    return {'url': webhook, 'status': None, 'error': str(e)}
