r"""Evaluates a run, or a prompted base model, on one split.

    python -m research.evaluate --workdir=runs/lora --split=test
    python -m research.evaluate --config=configs/default.py --workdir=runs/shots \
      --config.strategy.name=few_shot --config.strategy.shots=4

Writes predictions/SPLIT.jsonl and adds SPLIT/* to result.json.
"""

from pathlib import Path

from absl import flags

from research import cli
from research.runs.evaluate import evaluate_one


def main() -> None:
  cli.required('workdir')
  evaluate_one(Path(flags.FLAGS.workdir), flags.FLAGS.split, flags.FLAGS.config, flags.FLAGS.allow_changed)


if __name__ == '__main__':
  cli.config_flag()
  cli.process_flags()
  flags.DEFINE_string('workdir', None, 'a run, or with --config the place for results')
  flags.DEFINE_string('split', 'test', 'train, valid or test')
  cli.changed_flag()
  cli.run(main, __doc__)
