"""Watches what a run is asked, and tells when that has changed.

    python -m research.monitor --log=FILE.jsonl --reference=data/tickets --workdir=runs/lora --output=watch

By hand or by cron: each look adds what is new in the log to --output, and writes monitor.json and report.html there. It
exits with 0 while all is quiet, an empty log among that, and with 3 once something has changed: of streams in which nothing
changes at most 5 % ever alarm, however often one looks. An alarm stays; a new --output begins anew. The reference is a folder
that research.prepare made, or one with train.jsonl and others; requests of other runs in the log are left out.
"""

import sys
from pathlib import Path

from absl import flags

from research import cli
from research.monitoring import told
from research.monitoring.monitor import look

ALARM = 3      # the exit status


def main() -> None:
  f = flags.FLAGS
  cli.required('log', 'reference', 'workdir', 'output')
  found = look(Path(f.log), Path(f.reference), Path(f.workdir), Path(f.output), f.webhook, f.allow_changed)
  print('\n'.join(told.lines(found, Path(f.output))))
  if found['alarm']['alarmed']:
    sys.exit(ALARM)


if __name__ == '__main__':
  flags.DEFINE_string('log', None, 'what research.serve --log wrote')
  flags.DEFINE_string('reference', None, 'the folder of rows that traffic is held against')
  flags.DEFINE_string('workdir', None, 'the run that answered')
  flags.DEFINE_string('output', None, 'the monitor\'s folder, which each look adds to')
  flags.DEFINE_string('webhook', None, 'an address that is sent a short JSON text when a look alarms for the first time')
  cli.changed_flag()
  cli.run(main, __doc__, stopped='what was read is kept, and the next look goes on from there')
