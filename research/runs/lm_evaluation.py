"""Tasks of lm-evaluation-harness, asked of a run or a base model: scores with intervals, and what came of each example."""

import difflib
import logging
import random
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from research import config as configs
from research import run_files, tree
from research.config import Config
from research.console import say
from research.distributed import mesh, partition
from research.errors import InputError
from research.evaluation import lm_eval_scores
from research.experiment import restore
from research.experiment.assemble import Experiment
from research.runs import evaluate
from research.tree import Tree

FOLDER, RESULTS = 'lm_eval', 'results.json'      # of a run directory; beside the latter stands TASK.jsonl
RESULTS_FIELDS = {'tasks': {str: {'examples': int, 'metrics': dict}}, 'groups': dict}
SEED = 1234      # of a task's demonstrations, as the harness has it


class Asked(NamedTuple):
  """What is to be run."""
  tasks: tuple[str, ...]                  # names of tasks, groups and tags, also with *
  include_path: str | None = None         # a folder of tasks of one's own
  limit: int | None = None                # of each task the first so many examples
  num_fewshot: int | None = None          # demonstrations; None: as the task says
  chat: bool = False                      # whether prompts stand in the model's chat template


def evaluate_tasks(workdir: Path, asked: Asked, config: Config | None = None, allow_changed: bool = False) -> dict[str, Any]:
  """Runs tasks of the harness with the run in `workdir` at its best step; with a config, with a model that needs no training.

  Args:
    workdir: the run directory; with a config, the place for the result.
    asked: which tasks, and how.
    config: as for `config.read`; None: the run's own.
    allow_changed: although the run was made from something else than is there now (see `provenance.check`).
  Returns:
    Of each task what lm_eval/results.json says of it.

  A task that is not there or cannot be read, and a model that cannot be asked, are refused (`InputError`).
  """
  run_files.check_name(workdir)
  if config is None:
    run_files.read_config(workdir)
    run_files.read_result(workdir)
  found = load(asked)
  if config is None:
    with mesh.use(mesh.make(partition.EVAL_MESH)):
      exp = restore.of_run(workdir, allow_changed=allow_changed)
      results = _run(exp, restore.learned(workdir, exp), found, asked)
  else:
    settings = configs.read(config)
    with mesh.use(mesh.make(settings.mesh._asdict())):
      exp = evaluate.untrained(settings, workdir, set(), allow_changed)
      variables = tree.join(*restore.variables(exp))
      evaluate.begin_untrained(exp, workdir)
      results = _run(exp, variables, found, asked)
      with run_files.held(workdir, wait=True):
        if not (workdir / run_files.RESULT).exists():
          run_files.write_json(workdir / run_files.RESULT, evaluate.result_untrained(exp, variables))
  return _recorded(results, workdir, asked)


def load(asked: Asked) -> dict[str, Any]:
  """The harness's tasks and groups of these names.

  Raises:
    InputError: the harness is not installed, or a task is not there or cannot be read.
  """
  if not asked.tasks:
    raise InputError('--lm_eval: names no task')
  try:
    from lm_eval.tasks import TaskManager
  except ImportError as e:
    raise InputError(f"--lm_eval: needs lm-evaluation-harness ({e}): pip install 'flaxtune[harness]'") from None
  logging.getLogger('lm_eval').setLevel(logging.ERROR)      # it narrates
  own = asked.include_path
  if own and not Path(own).is_dir():
    raise InputError(f'--include_path={own}: no such folder; give one with the YAML files of tasks')
  manager = TaskManager(include_path=own, include_defaults=False)
  if not set(asked.tasks) <= {*manager.all_subtasks}:
    manager = TaskManager(include_path=own)                 # which reads the files of thousands
  found: dict[str, Any] = {'tasks': {}, 'groups': {}}
  for name in asked.tasks:
    names = manager.match_tasks([name])
    if not names:
      there = TaskManager(include_path=own, include_defaults=False).all_tasks if own else []
      near = difflib.get_close_matches(name, manager.all_tasks, 1)
      raise InputError(f'--lm_eval={name}: no such task{f"; did you mean {near[0]}?" if near else ""}' +
                       (f' ({own} has {", ".join(there) or "none that can be read"})' if own else
                        '; --include_path=DIR adds those of a folder'))
    try:
      loaded = manager.load(names)
    except Exception as e:  # a task's file is a program, and its rows may lie anywhere
      raise InputError(f'--lm_eval={name}: cannot be loaded ({_said(e)}); a task whose rows lie on a hub needs that within '
                       'reach: give a task whose dataset_kwargs.data_files are local files, in --include_path') from None
    for kind, of_kind in found.items():
      of_kind.update(loaded.get(kind, {}))
  for task in found['tasks'].values():
    if asked.num_fewshot is not None and task.get_config('num_fewshot') != 0:      # which a task sets that must have none
      task.set_config(key='num_fewshot', value=asked.num_fewshot)
    elif task.get_config('num_fewshot') is None:
      task.set_config(key='num_fewshot', value=0)
    task.set_fewshot_seed(seed=SEED)
  return found


def _said(error: Exception) -> str:
  return f'{type(error).__name__}: {" ".join(str(error).split()):.300}'


def _run(exp: Experiment, variables: Tree, found: dict[str, Any], asked: Asked) -> dict[str, Any]:
  """The harness's answer, with what it says of every example.

  Raises:
    InputError: something in a task's files cannot be computed.
    JaxRuntimeError: the device cannot go on, such as for want of memory.
  """
  from lm_eval import evaluator

  from research.evaluation.lm_eval_model import HarnessModel
  if exp.strategy.shots:
    say(f'lm_eval: strategy.shots={exp.strategy.shots}: a task of the harness has demonstrations of its own (--num_fewshot)')
  model = HarnessModel(exp.model, variables, exp.tokenizer, exp.text_context, exp.strategy.slots,
                       exp.settings.training.eval_batch_size)
  random.seed(0)                 # as the harness has them
  np.random.seed(SEED)
  try:
    results: dict[str, Any] = evaluator.evaluate(
        model, found, limit=asked.limit, bootstrap_iters=0, log_samples=True, apply_chat_template=asked.chat,
        fewshot_as_multiturn=asked.chat)
  except (InputError, jax.errors.JaxRuntimeError):
    raise
  except Exception as e:  # whatever a task's templates, functions and metrics raise
    raise InputError(f'--lm_eval={",".join(asked.tasks)}: the harness cannot go on ({_said(e)})') from e
  return {**results, 'loaded': found['tasks']}


def _recorded(results: dict[str, Any], workdir: Path, asked: Asked) -> dict[str, Any]:
  """Writes what came out into the run directory, and tells it."""
  from importlib.metadata import version
  folder, told = workdir / FOLDER, {}
  for name, task in results['loaded'].items():
    samples = results['samples'][name]
    metrics, intervals = {}, {}
    for key in [key for key in results['results'][name] if ',' in key and '_stderr,' not in key]:
      metric, filtered = key.split(',', 1)
      values = [one[metric] for one in samples if one['filter'] == filtered and metric in one]
      score = results['results'][name][key]
      if not values or not isinstance(score, (int, float, np.number)):
        continue
      metrics[called(metric, filtered)] = float(score)
      intervals[called(metric, filtered)] = lm_eval_scores.interval(metric, values, float(score),
                                                                    task.aggregation().get(metric, np.mean))
    told[name] = {'version': task.VERSION, 'num_fewshot': task.get_config('num_fewshot'), 'chat': asked.chat,
                  'limit': asked.limit, 'examples': len({one['doc_id'] for one in samples}), 'metrics': metrics,
                  'intervals': intervals, 'higher_is_better': task.higher_is_better()}
    run_files.write_jsonl(folder / f'{name}.jsonl', examples(task, samples))
  with run_files.held(workdir, wait=True):
    there = (folder / RESULTS).exists()
    before = run_files.read_json(folder / RESULTS, RESULTS_FIELDS) if there else {'tasks': {}, 'groups': {}}
    groups = {name: {key: float(x) for key, x in found.items() if ',' in key and isinstance(x, (int, float))}
              for name, found in results.get('groups', {}).items()}
    run_files.write_json(folder / RESULTS, {'lm_eval': version('lm_eval'), 'tasks': before['tasks'] | told,
                                             'groups': before['groups'] | groups})
  for name, found in told.items():
    ranges = {metric: ' [{:.4f}, {:.4f}]'.format(*span) if span else '' for metric, span in found['intervals'].items()}
    say(f'lm_eval: {name}, {found["examples"]} examples, {found["num_fewshot"]} shots: ' +
        ', '.join(f'{metric} {value:.4f}{ranges[metric]}' for metric, value in found['metrics'].items()))
  return told


def called(metric: str, filtered: str) -> str:
  """What a metric of a filter is called: by its own name, where the harness filters nothing."""
  return metric if filtered == 'none' else f'{metric},{filtered}'


def examples(task: Any, samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """What came of each example, as a line of TASK.jsonl.

  Args:
    task: the harness's.
    samples: its own, one for each example and filter.
  """
  lines: dict[int, dict[str, Any]] = {}
  for one in samples:
    line = lines.setdefault(one['doc_id'], {'id': one['doc_id'], 'row': one['doc'], **_answer(task, one)})
    if one['filter'] != 'none':
      line.setdefault('filtered', {})[one['filter']] = _plain(one['filtered_resps'])
    line |= {called(metric, one['filter']): _plain(one[metric]) for metric in one['metrics']}
  return list(lines.values())


def _answer(task: Any, sample: dict[str, Any]) -> dict[str, Any]:
  """Prompt, target, prediction and log-likelihoods of an example, whatever kind of task it is of."""
  requests, answers = sample['arguments'], [resps[0] for resps in sample['resps']]
  target = _plain(sample['target'])
  if task.OUTPUT_TYPE == 'generate_until':
    return {'prompt': requests[0][0], 'target': target, 'prediction': answers[0]}
  if task.OUTPUT_TYPE == 'loglikelihood_rolling':
    return {'target': target, 'log_likelihoods': answers}
  likelihoods = [float(value) for value, _ in answers]
  found = {'log_likelihoods': likelihoods, 'greedy': [bool(hit) for _, hit in answers]}
  if task.OUTPUT_TYPE != 'multiple_choice':
    return {'prompt': requests[0][0], 'target': target, **found}
  choices = [str(choice) for choice in task.doc_to_choice(sample['doc'])]
  best = int(np.argmax(likelihoods[:len(choices)])) if not task.multiple_input else None
  named = lambda at: choices[at] if isinstance(at, int) and 0 <= at < len(choices) else at
  return {'prompt': requests[0][0], 'target': [*map(named, target)] if isinstance(target, list) else named(target),
          'prediction': None if best is None else choices[best], 'choices': choices, **found}


def _plain(value: Any) -> Any:
  """A value as JSON can hold it."""
  if isinstance(value, (list, tuple)):
    return [_plain(one) for one in value]
  return value.tolist() if isinstance(value, (np.generic, np.ndarray)) else value
