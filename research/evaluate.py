r"""Evaluates a run, or a prompted base model, on one split.

    python -m research.evaluate --workdir=runs/lora --split=test
    python -m research.evaluate --config=configs/default.py --workdir=runs/shots \
      --config.strategy.name=few_shot --config.strategy.shots=4

    python -m research.evaluate --workdir=runs/lora --slices=domain,label
    python -m research.evaluate --workdir=runs/lora --lm_eval=TASK,TASK --include_path=tasks

Writes predictions/SPLIT.jsonl and adds SPLIT/* to result.json; with --slices also each score by the values of columns, and the
largest gap between two values with its test. With --lm_eval tasks of lm-evaluation-harness are asked
(pip install 'flaxtune[harness]'): it writes lm_eval/results.json and lm_eval/TASK.jsonl, and with --against=WORKDIR compares
with what another run answered, example by example.
"""

from pathlib import Path

from absl import flags

from research import cli
from research.errors import InputError
from research.runs.evaluate import evaluate_one

OF_LM_EVAL = ('include_path', 'lm_eval_limit', 'num_fewshot', 'apply_chat_template', 'against')


def main() -> None:
  cli.required('workdir')
  f = flags.FLAGS
  workdir = Path(f.workdir)
  if f.lm_eval is None:
    if given := next((name for name in OF_LM_EVAL if f[name].present), None):
      raise InputError(f'--{given} goes with --lm_eval=TASKS')
    evaluate_one(workdir, f.split, f.config, f.allow_changed, tuple(dict.fromkeys(f.slices or ())))
    return
  if f['split'].present:
    raise InputError('--split: a task of --lm_eval says itself which of its rows it asks; leave --split out')
  if f.slices:
    raise InputError('--slices: is of a task of ours; the rows of a task of --lm_eval are not divided, so leave it out')
  from research.runs.lm_evaluation import Asked, evaluate_tasks
  from research.studies import lm_eval_pairs
  if f.against:
    lm_eval_pairs.check(Path(f.against))
  asked = Asked(tuple(f.lm_eval), f.include_path, f.lm_eval_limit, f.num_fewshot, f.apply_chat_template)
  found = evaluate_tasks(workdir, asked, f.config, f.allow_changed)
  if f.against:
    lm_eval_pairs.compare(workdir, Path(f.against), found)


if __name__ == '__main__':
  cli.config_flag()
  cli.process_flags()
  flags.DEFINE_string('workdir', None, 'a run, or with --config the place for results')
  flags.DEFINE_string('split', 'test', 'train, valid or test')
  cli.changed_flag()
  flags.DEFINE_list('slices', None, 'columns of the rows, by whose values each score is told too')
  flags.DEFINE_list('lm_eval', None, 'tasks of lm-evaluation-harness: names, groups or tags, also with *')
  flags.DEFINE_string('include_path', None, 'lm_eval: a folder of YAML files that define tasks, beside those of the harness')
  flags.DEFINE_integer('lm_eval_limit', None, 'lm_eval: of each task the first so many examples', lower_bound=1)
  flags.DEFINE_integer('num_fewshot', None, 'lm_eval: demonstrations; by default as each task says', lower_bound=0)
  flags.DEFINE_bool('apply_chat_template', False, 'lm_eval: put prompts into the model\'s chat template')
  flags.DEFINE_string('against', None, 'lm_eval: the workdir of another run, on the same tasks, to compare with')
  cli.run(main, __doc__)
