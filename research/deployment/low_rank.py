"""What a run has learned as a plain LoRA adapter of a given rank, for servers that take nothing else, and what that loses."""

import json
from pathlib import Path
from typing import Any

from research import run_files
from research.adapters import modules, truncated
from research.adapters.truncated import Truncated
from research.console import say
from research.deployment import card, folder
from research.deployment.export import BASE, MEASURED, measure, write_base
from research.deployment.gguf_folder import told
from research.errors import InputError
from research.experiment import restore
from research.models import about, functions, names
from research.models.families import FAMILIES
from research.strategies.bind import merge


def export_lora(workdir: Path, output: Path, rank: int, base: str | None = None, allow_lost: bool = False,
                dtype: str = 'float32', shard_size: str = '5GB', allow_changed: bool = False) -> dict[str, Any]:
  """Exports the change that the run in `workdir` made to its kernels as LoRA of a rank; gives what export.json says.

  What `export.export_model` refuses is refused (`InputError`).

  Args:
    workdir: the run directory.
    output: the folder to write.
    rank: R of every kernel that changed.
    base: what others call the base model; None: its hub id or folder, else the base is written too, as `output`/base.
    allow_lost: leave out what no LoRA expresses.
    dtype: of the base's weights where it is written.
    shard_size: as for `export.export_model`.
    allow_changed: although the run was made from something else than is there now (see `provenance.check`).
  Raises:
    InputError: nothing changed that a LoRA expresses, or something that it does not.
  """
  if rank < 1:
    raise InputError(f'--rank={rank}: must be 1 or more')
  run_files.check_output(output)
  most = folder.size_of(shard_size)
  run_files.read_config(workdir)
  result = run_files.read_result(workdir)
  exp = restore.of_run(workdir, MEASURED, allow_changed, param_dtype='float32')
  variables = restore.learned(workdir, exp)
  family, source = FAMILIES[exp.model.config.family], exp.settings.model.source
  config, merged = functions.split_last_layers(exp.model.config, merge(variables), 0)
  _, before = functions.split_last_layers(exp.model.config, merge({'params': exp.params, 'delta': {}}), 0)
  named, inside = base or about.name_for_others(source), about.inside(source)
  found = truncated.truncate(config, names.shapes(config), names.export_params(family, config, before),
                             names.export_params(family, config, merged), rank, named or str(output.resolve() / BASE), inside)
  check_lost(found, allow_lost)
  split = next((s for s in MEASURED if s in exp.task.splits), None)
  record: dict[str, Any] = {'format': 'lora', 'rank': rank, 'trained_as': exp.settings.config()['strategy'],
                            'kept': found.kept, 'kept_overall': found.kept_overall, 'lost': found.lost, 'split': None,
                            'examples': 0}
  if split:
    written = names.import_params(family, config, found.changed, str(output))
    _, written = functions.split_last_layers(config, written, exp.model.config.last_layers)
    record |= measure(exp, split, exp.examples(split), variables, {'params': written, 'delta': {}})
  identity = {'base': {'source': source, 'sha256': exp.fingerprint}, 'checksums': modules.checksums(found.tensors)}
  front = card.adapter(output.name, exp.settings.config(), result, found.said, about.about(source), exp.tokenizer,
                       written=named is None, inside=inside)
  texts = {'export.json': json.dumps(record, indent=2, ensure_ascii=False) + '\n',
           modules.RECORD: json.dumps(identity, indent=2) + '\n', 'README.md': front + _lost(record)}

  def fill(into: Path) -> None:
    folder.adapter(into, found.said, found.tensors, texts)
    if named is None:
      (into / BASE).mkdir()
      write_base(workdir, into / BASE, dtype, most)
  run_files.write_folder(output, fill)
  say(f'export: {output}: LoRA of rank {rank} keeps {100 * found.kept_overall:.4g} % of the squared norm of what was learned '
      f'(at least {100 * min(found.kept.values()):.4g} % of a kernel)' + (
          f'; left out: {_named(found.lost)}' if found.lost else '') + told(record))
  return record


def check_lost(found: Truncated, allow_lost: bool) -> None:
  """Refuses a change of which a LoRA would be a part only, or none.

  Args:
    found: what was made of it.
    allow_lost: whether a part will do.
  Raises:
    InputError: naming what no LoRA expresses, with the norm of its change.
  """
  if not found.tensors:
    raise InputError('--format=lora: no kernel changed, and nothing else can be a LoRA'
                     + (f'; what changed: {_named(found.lost)}' if found.lost else '') + '; use --format=hf')
  if found.lost and not allow_lost:
    raise InputError(f'--format=lora: no LoRA expresses the change of {_named(found.lost)}; --format=hf keeps all that was '
                     'learned, --allow_lost leaves this out and measures what that costs')


def _named(lost: dict[str, float]) -> str:
  """The largest of these changes, and how many more there are."""
  largest = sorted(lost, key=lambda name: -lost[name])
  more = f' and {len(largest) - 5} more' if len(largest) > 5 else ''
  return ', '.join(f'{name} (by {lost[name]:.3g})' for name in largest[:5]) + more


def _lost(record: dict[str, Any]) -> str:
  """The part of the card that says what the approximation lost, and how servers take the folder."""
  measured = '' if not record['split'] else ''.join(
      f'| {record["split"]}/{name} | {record["before"][name]:.4f} | {record["after"][name]:.4f} | {change:+.4f} |\n'
      for name, change in record['change'].items())
  table = ('' if not measured else f'\nOver {record["examples"]:,} examples, the run and this adapter on its base:\n\n'
           f'| metric | run | this adapter | change |\n|---|---|---|---|\n{measured}\n'
           f'The largest difference of a logit is {record["largest_logit_difference"]:.3g}, where logits have a standard '
           f'deviation of {record["logit_deviation"]:.3g}; over all logits the root mean square of the difference is '
           f'{100 * record["relative_logit_error"]:.3g} % of that.\n')
  left = '' if not record['lost'] else f' Left out, as no LoRA expresses it: {_named(record["lost"])}.'
  worst = sorted(record['kept'], key=record['kept'].__getitem__)[:3]
  least = ', '.join(f'{name} ({100 * record["kept"][name]:.4g} %)' for name in worst)
  return (f'\n## What the rank lost\n\nWhat was learned was brought to LoRA of rank {record["rank"]}, by the singular value '
          f'decomposition of each kernel\'s change. It keeps {100 * record["kept_overall"]:.4g} % of the squared Frobenius '
          f'norm of all; least of {least}.{left}\n{table}\n'
          f'vLLM takes it with `--enable-lora --max-lora-rank {record["rank"]}` (or the next rank that it knows).\n')
