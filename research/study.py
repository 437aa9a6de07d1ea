"""Runs a study: every arm, setting and seed, and writes its report.

    python -m research.study --study=experiments/quickstart.py --workdir=runs/quickstart

Settings are chosen on validation, and the test split is read once. The same command resumes a study that was stopped.
--dry_run prints the cells and what they would cost. --report_only writes the report again from what is there, also where the
runs themselves were not kept; before all of them have ended it writes an interim report, which tests nothing. --shard=1/2 and
--shard=2/2 share the cells of one workdir between two machines; the one that ends last writes the report.
--compare A B puts the arms that two studies have in common on one page.
"""

from functools import partial
from pathlib import Path

from absl import flags

from research import cli, run_files
from research.distributed import processes
from research.errors import InputError
from research.runs import run
from research.runs.evaluate import evaluate_finished
from research.runs.train import train_one
from research.studies import compared, registration, runner, study_file
from research.studies.carry_out import check_study, cohorts, dry_run, measure_retained, operations, write_report


def main() -> None:
  f = flags.FLAGS
  if f.report_only and f.dry_run:
    raise InputError('--dry_run writes nothing and --report_only a report; give one of them')
  if f.compare:
    if f.study or f.dry_run or f.report_only:
      raise InputError('--compare reads two studies that have ended; give no --study, --dry_run or --report_only beside it')
    return compared.write(f.compare, Path(f.workdir) if f.workdir else None)
  if f.report_only:
    cli.required('workdir')
    plan = registration.planned(Path(f.workdir))
    if f.study:
      said = study_file.read(f.study)
      plan = registration.check(said.study, said.cells, Path(f.workdir))
    return write_report(plan, Path(f.workdir), f.study)
  cli.required('study')
  study, _, cells = study_file.read(f.study)
  if f.dry_run:
    return dry_run(study, cells)
  cli.required('workdir')
  told: run.Told = set()
  workdir, part = Path(f.workdir), registration.shard(f.shard) if f.shard else registration.Shard()
  side_by_side = cohorts(f.cohorts, told, f.allow_changed)
  if f.shard is None and processes.told_of_others():
    raise InputError('--shard: a cluster started several processes, and each would run the whole study; give each its part, '
                     '--shard=1/2 and so on, or one of them 1/1 and start no other')
  cells = registration.as_planned(cells, workdir)
  made_of = check_study(study, cells)
  registration.refuse(workdir)
  with run_files.held(workdir, f'{run_files.LOCK}-{part.number}'):      # shards work in one folder
    registration.claim(study, cells, workdir, part, side_by_side, made_of, f.allow_changed)
    train = partial(train_one, allow_changed=f.allow_changed, told=told)
    test = lambda runs: evaluate_finished(runs, 'test', f.allow_changed)
    if runner.run(study, cells, workdir, train, test, part, side_by_side, operations) is not None:
      measure_retained(study, cells, workdir, f.allow_changed)
      write_report(registration.planned(workdir), workdir, f.study)


if __name__ == '__main__':
  flags.DEFINE_string('study', None, 'a shipped study, NAME[:variant], or a file, PATH.py[:variant]')
  flags.DEFINE_string('workdir', None, 'where the study is kept')
  flags.DEFINE_boolean('dry_run', False, 'print the cells and their predicted cost, and do nothing')
  cli.changed_flag()
  flags.DEFINE_string('shard', None, 'i/n: train every n-th cell, from the i-th on, of a workdir that n machines share; all, '
                      'where it is left out')
  flags.DEFINE_string('cohorts', 'auto', 'runs that differ in seeds and rates alone, trained as one program: auto (where a '
                      'short trial shows that to be faster), off, or how many')
  flags.DEFINE_multi_string('compare', [], 'two studies, --compare A B: the arms that both have on one page, in --workdir '
                            'or in A/compared/')
  flags.DEFINE_boolean('report_only', False, 'write comparison and report again from the results in --workdir; an interim '
                       'one where not all runs have ended')
  cli.run(main, __doc__)
