"""What a run has learned, written for others, and measured as it is written."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from research import run_files, tree
from research.adapters import modules, writing
from research.console import say
from research.data import batches
from research.data import tokenizer as tokenizers
from research.data.prompts import Example
from research.deployment import card, folder
from research.errors import InputError
from research.evaluation import harness
from research.experiment import restore
from research.experiment.assemble import Experiment
from research.models import about, functions, names
from research.models.config import DTYPES
from research.models.families import FAMILIES
from research.models.functions import Model
from research.strategies import values
from research.strategies.bind import merge
from research.training.losses import target_logits
from research.tree import Tree

MEASURED = ('test', 'valid')      # splits on which the exported weights are compared with the run: the first that there is
COMPARED = 64      # examples whose logits are compared
# The largest difference of a logit that rounding explains, over the logits' standard deviation: a model kept and computed in
# float32 differs by 1e-5 or less, bfloat16 (8 bits) by some hundredths, and at single tokens of deep models by tenths.
ALLOWED = {'float32': 0.01, 'bfloat16': 1.0}
FEWER = 200        # test examples below which the card says that the intervals are wide


def export_model(workdir: Path, output: Path, dtype: str, shard_size: str, allow_changed: bool = False) -> dict[str, Any]:
  """Exports the run in `workdir` at its best step; gives what export.json says.

  A folder without a finished run, a delta that cannot be merged, an output that is not empty, a size that is none, parameters
  that the family has no tensor for, and logits that differ from the run's by more than rounding are refused (`InputError`).

  Args:
    workdir: the run directory.
    output: the folder to write.
    dtype: of the written weights: a key of `DTYPES`.
    shard_size: the most bytes in one safetensors file, such as 5GB.
    allow_changed: although the run was made from something else than is there now (see `provenance.check`).
  """
  run_files.check_output(output)
  most = folder.size_of(shard_size)
  run_files.read_config(workdir)
  result = run_files.read_result(workdir)
  exp = restore.of_run(workdir, MEASURED, allow_changed, param_dtype='float32')      # the merged weights alone are rounded
  variables = restore.learned(workdir, exp)
  merged = merge(variables)
  provenance = run_files.read_json(workdir / run_files.PROVENANCE)

  stored = jax.tree.map(lambda x: x.astype(DTYPES[dtype]).astype(jnp.float32), merged)
  record = {'format': 'hf', 'dtype': dtype, 'merged': bool(jax.tree.leaves(variables['delta'])), 'split': None, 'examples': 0}
  split = next((s for s in MEASURED if s in exp.task.splits), None)
  family, (config, stored) = FAMILIES[exp.model.config.family], functions.split_last_layers(exp.model.config, stored, 0)
  tensors = names.export_params(family, config, stored)
  if split:
    written = names.import_params(family, config, tensors, str(output))
    _, written = functions.split_last_layers(config, written, exp.model.config.last_layers)
    record |= measure(exp, split, exp.examples(split), variables, {'params': written, 'delta': {}})
    check_difference(record, dtype, exp.model.config.dtype)
  source = exp.settings.model.source
  texts = {'export.json': json.dumps(record, indent=2) + '\n',
           'README.md': card.card(output.name, exp.settings.config(), result, provenance, record, FEWER, about.about(source),
                                  exp.tokenizer)}
  generation = tokenizers.generation(Path(source).expanduser()) if Path(source).expanduser().is_dir() else {}
  fill = lambda into: folder.model(into, exp.hf, tensors, exp.tokenizer, np.dtype(DTYPES[dtype]), most, texts, generation)
  run_files.write_folder(output, fill)
  say(f'export: {output}: {tree.size(stored):,} parameters in {dtype}'
      + (f'; largest difference of a logit {record["largest_logit_difference"]:.3g}' if split else ''))
  return record


def check_difference(record: dict[str, Any], dtype: str, computed: str) -> None:
  """Refuses an export whose logits are not the run's.

  Args:
    record: what `measure` gave.
    dtype: of the written weights.
    computed: the dtype in which both were computed.
  Raises:
    InputError: the largest difference is above what `ALLOWED` says of the coarser of the two, or not a number.
  """
  coarser = 'bfloat16' if 'bfloat16' in (dtype, computed) else 'float32'
  difference, spread = record['largest_logit_difference'], record['logit_deviation']
  if not difference <= ALLOWED[coarser] * spread:
    remedy = ('; --dtype=float32 keeps what was learned' if dtype == 'bfloat16' else
              '; the run itself says what it should (python -m research.evaluate), and this is an error of the program')
    raise InputError(f'export: a logit of the exported weights differs from the run\'s by {difference:.3g}, which is '
                     f'{difference / spread if spread else float("inf"):.3g} of the logits\' standard deviation; in {coarser} '
                     f'at most {ALLOWED[coarser]:g} is rounding. Nothing is written{remedy}')


def export_adapter(workdir: Path, output: Path, base: str | None = None, dtype: str = 'float32',
                   shard_size: str = '5GB', allow_changed: bool = False) -> dict[str, Any]:
  """Exports what the run in `workdir` added to its base, at its best step; gives what flaxtune.json says.

  A folder without a finished run, weights of the base that learned, and an output that is not empty are refused (`InputError`).

  Args:
    workdir: the run directory.
    output: the folder to write.
    base: what others call the base model; None: its hub id or folder, else the base is written too, as `output`/base.
    dtype: of the base's weights where it is written.
    shard_size: as for `run`.
    allow_changed: although the run was made from something else than is there now (see `provenance.check`).
  """
  run_files.check_output(output)
  most = folder.size_of(shard_size)
  run_files.read_config(workdir)
  result = run_files.read_result(workdir)
  exp = restore.of_run(workdir, allow_changed=allow_changed)
  trainable, frozen = restore.learned_and_frozen(workdir, exp)
  learned = {n: np.asarray(x) for n, x in tree.leaves(trainable).items()}
  learned |= values.fixed(frozen) if learned else {}
  source = exp.settings.model.source
  named, inside = base or about.name_for_others(source), about.inside(source)
  config, tensors, row = writing.write(tree.join(trainable, frozen), exp.strategy, exp.model.config,
                                       named or str(output.resolve() / BASE), learned, inside)
  if config['peft_type'] == modules.OWN_TYPE:      # which no library loads onto anything
    named = named or source
    config['base_model_name_or_path'] = named
  record = {'strategy': row, 'trained_as': exp.settings.config()['strategy'],
            'base': {'source': source, 'sha256': exp.fingerprint}, 'checksums': modules.checksums(tensors),
            'metrics': result['metrics'], 'intervals': result['intervals'], 'cost': result['cost']}
  texts = {modules.RECORD: json.dumps(record, indent=2, ensure_ascii=False) + '\n',
           'README.md': card.adapter(output.name, exp.settings.config(), result, config, about.about(source), exp.tokenizer,
                                     written=named is None, inside=inside)}

  def fill(into: Path) -> None:
    folder.adapter(into, config, tensors, texts)
    if named is None:
      (into / BASE).mkdir()
      write_base(workdir, into / BASE, dtype, most)
  run_files.write_folder(output, fill)
  say(f'export: {output}: {sum(x.size for x in tensors.values()):,} numbers, peft_type {config["peft_type"]}')
  return record


BASE = 'base'      # the folder in an adapter's where its base is written


def write_base(workdir: Path, into: Path, dtype: str, most: int) -> None:
  """The base model of a run, as a folder that transformers loads.

  Args:
    workdir: the run's.
    into: the folder to write; it exists.
    dtype: of the weights: a key of `DTYPES`.
    most: bytes in one safetensors file.
  """
  exp = restore.of_run(workdir, param_dtype='float32', quantize='none')
  family, source = FAMILIES[exp.model.config.family], exp.settings.model.source
  tensors = names.export_params(family, *functions.split_last_layers(exp.model.config, exp.params, 0))
  text = f'# Base\n\n`{source}` (weights {exp.fingerprint}) in the layout of transformers, in {dtype}.\n'
  folder.model(into, exp.hf, tensors, exp.tokenizer, np.dtype(DTYPES[dtype]), most, {'README.md': text})


def measure(exp: Experiment, split: str, examples: list[Example], before: Tree, after: Tree) -> dict[str, Any]:
  """What the export changes: logits at the targets of some examples, and every metric over all of them.

  Args:
    exp: gives the model and its task.
    split: the examples', only to be told.
    examples: the split's; logits are compared on the first `COMPARED`.
    before: the run's variables.
    after: the exported ones.
  Returns:
    As export.json holds it; a change is after minus before.
  """
  start, size = exp.model.config.decoder_start_id, exp.settings.training.eval_batch_size
  documents = [batches.prompt_with_answer(e, start) for e in examples[:COMPARED]]
  run, exported = (
      harness.evaluate(exp.model, variables, exp.tokenizer, exp.task, examples, size, label=f'export: {which}',
                       leaked=exp.task.leaked_rows(split))
      for which, variables in (('the run', before), ('exported', after)))
  found = compare_logits(exp.model, before, after, documents, size)
  return {'split': split, 'examples': len({e.id for e in examples}), 'largest_logit_difference': found.largest,
          'logit_deviation': found.deviation, 'relative_logit_error': found.relative,
          'before': run.scores, 'after': exported.scores, 'intervals': exported.intervals,
          'change': {name: exported.scores[name] - run.scores[name] for name in run.scores},
          **({'leaked': run.leaked} if run.leaked else {})}


class Difference(NamedTuple):
  """How far logits lie from those that they should be."""
  largest: float        # of a single logit
  deviation: float      # the standard deviation of all logits before
  relative: float       # the root of the mean square of all differences, over that deviation


def compare_logits(model: Model, before: Tree, after: Tree, documents: list[batches.Document], batch_size: int) -> Difference:
  """How the logits at the targets of the documents differ.

  Args:
    model: whose logits are meant.
    before: variables of the model.
    after: other variables of it.
    documents: one or more.
    batch_size: packed sequences per batch, at most.
  """
  logits = jax.jit(lambda variables, batch: target_logits(model, variables, batch))
  largest, count, total, squares, error = [], 0, 0.0, 0.0, 0.0
  for batch, _ in batches.evaluation_batches(documents, batch_size):
    of_run, exported = (np.asarray(logits(v, batch), np.float32)[batch.weights > 0] for v in (before, after))
    largest.append(float(np.abs(of_run - exported).max()))
    error += np.square(of_run - exported, dtype=float).sum()
    count, total, squares = count + of_run.size, total + of_run.sum(dtype=float), squares + np.square(of_run, dtype=float).sum()
  deviation = float(np.sqrt(max(squares / count - (total / count) ** 2, 0.0)))
  return Difference(float(np.max(largest)), deviation, float(np.sqrt(error / count)) / deviation if deviation else float('nan'))
