"""Trains a run on from feedback, and promotes what is better for it.

    python -m research.refine --workdir=runs/lora --log=traffic.jsonl --reference=data/tickets --output=runs/lora-2

Leaves a run in --output, with its data in data/, and promotion.json, which says what was compared and decided; the same command
resumes it. A run that is promoted becomes the current one of --versions, which a server can follow. Back to the one before:

    python -m research.refine --workdir=runs/lora --rollback
"""

from pathlib import Path

from absl import flags

from research import cli
from research.errors import InputError
from research.refining import versions
from research.refining.refine import Asked, refine, rollback

OF_REFINE = ('log', 'reference', 'output', 'metric', 'margin', 'steps', 'epochs', 'learning_rate', 'seed')


def main() -> None:
  f = flags.FLAGS
  kept = Path(f.versions) if f.versions else None
  if f.rollback:
    if given := next((name for name in OF_REFINE if f[name].present), None):
      raise InputError(f'--{given}: does not go with --rollback, which trains nothing')
    if kept is None:
      cli.required('workdir')
    rollback(kept or versions.folder_of(Path(f.workdir)))
    return
  cli.required('workdir', 'log', 'reference', 'output')
  refine(Asked(Path(f.workdir), Path(f.log), Path(f.reference), Path(f.output), kept, f.metric, f.margin, f.old_share,
               f.test_share, f.steps, f.epochs, f.learning_rate, f.seed, f.allow_changed))


if __name__ == '__main__':
  flags.DEFINE_string('workdir', None, 'the run to go on from: the incumbent')
  flags.DEFINE_string('log', None, 'the log of a server that it answered in, with feedback (research.serve --log)')
  flags.DEFINE_string('reference', None, 'the prepared folder of its data: what must not be forgotten')
  flags.DEFINE_string('output', None, 'where the new run is kept: the challenger')
  flags.DEFINE_string('versions', None, 'folder of the versions; by default the one that the run is of, or WORKDIR.versions')
  flags.DEFINE_bool('rollback', False, 'make the version before the current one current again, and end')
  flags.DEFINE_string('metric', None, 'what decides; by default the task\'s first metric')
  flags.DEFINE_float('margin', None, 'how much worse on old test rows is not worse, in units of the metric; by default 0.02 of '
                     'its range, or 0.02 where it has no limits')
  flags.DEFINE_float('old_share', 0.5, 'of the training rows, so many are old ones: 0.5 is as many old as new')
  flags.DEFINE_float('test_share', 0.3, 'of the new rows, so many are kept to compare on')
  flags.DEFINE_integer('steps', None, 'updates; by default as the run was trained')
  flags.DEFINE_float('epochs', None, 'passes over the new run\'s training rows, in place of steps')
  flags.DEFINE_float('learning_rate', None, 'by default as the run was trained')
  flags.DEFINE_integer('seed', None, 'of the splits, the old rows and the training; by default the run\'s', lower_bound=0,
                       upper_bound=2 ** 31 - 1)
  cli.changed_flag()
  cli.run(main, __doc__, saves=True)
