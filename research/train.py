"""Trains one strategy on one task from a config.

    python -m research.train --config=configs/default.py --workdir=runs/lora --config.training.learning_rate=1e-3

The same command resumes a run that was stopped. See docs/run-directory.md for the files in the run directory.
With --show=3 it prints three training rows as the model reads them, and ends; --workdir is not needed.
"""

from pathlib import Path

from absl import flags

from research import cli
from research.runs.show import show
from research.runs.train import train_one


def main() -> None:
  cli.required('config')
  if flags.FLAGS.show:
    show(flags.FLAGS.config, flags.FLAGS.show)
    return
  cli.required('workdir')
  train_one(flags.FLAGS.config, Path(flags.FLAGS.workdir), profile=flags.FLAGS.profile,
            allow_changed=flags.FLAGS.allow_changed)


if __name__ == '__main__':
  cli.config_flag()
  cli.process_flags()
  flags.DEFINE_string('workdir', None, 'where the run is kept')
  flags.DEFINE_bool('profile', False, 'write a trace of five steps, which TensorBoard opens')
  flags.DEFINE_integer('show', None, 'print so many training rows as the model reads them, what is learned marked, and end',
                       lower_bound=1)
  cli.changed_flag()
  cli.run(main, __doc__, saves=True)
