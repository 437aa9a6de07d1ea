r"""Makes clean splits out of raw files, without duplicates and leaks.

    python -m research.prepare --config=configs/prepare.py --input='exports/*.csv' --output=data/tickets \
      --config.text='{question}' --config.label=topic

The folder holds train.jsonl, valid.jsonl and test.jsonl, dropped.jsonl with every row that went and why, report.md, and
task.json, so that --config.task.name=files --config.task.path=data/tickets trains on it with nothing more said. The input is
not changed.
"""

from pathlib import Path

from absl import flags

from research import cli
from research.errors import InputError
from research.preparation import settings
from research.preparation.prepare import prepare, show


def main() -> None:
  f = flags.FLAGS
  cli.required('config', 'input', 'output')
  config = settings.read(f.config)
  if f.show and not config.row.model:
    raise InputError('--show needs --config.model, whose tokens are shown')
  prepare(config, f.input, Path(f.output), f.strict)
  if f.show:
    print('\n'.join(show(config, Path(f.output), f.show)))


if __name__ == '__main__':
  cli.config_flag()
  flags.DEFINE_multi_string('input', None, 'files, folders of texts, or patterns such as exports/*.csv, between commas')
  flags.DEFINE_string('output', None, 'the folder to be made; it is not there, or empty')
  flags.DEFINE_boolean('strict', False, 'end at the first line that is no row, in place of keeping it in dropped.jsonl')
  flags.DEFINE_integer('show', None, 'then print so many training rows as the model of the config reads them', lower_bound=1)
  cli.run(main, __doc__, stopped='nothing was left behind, and the same command begins anew')
