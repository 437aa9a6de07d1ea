"""The two sides of a benchmark: a step of ours, and the same by transformers, peft and torch on the same weights and tokens."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from research.data import batches
from research.data.batch import Batch
from research.data.batches import Document, LineCapacity
from research.errors import InputError
from research.models import load, names
from research.models.config import Execution
from research.models.families import FAMILIES
from research.programs.compile import Executable, compiled
from research.strategies import table
from research.strategies.bind import bind
from research.training import optim
from research.training.steps import TrainState, eval_step, train_step

FORWARD = 'forward'      # beside the strategies: the loss alone


def model(source: str, strategy: str, precision: str, layout: str, remat: str = 'none', quantize: str = 'none',
          attention: str = 'auto') -> load.Loaded:
  """A model as a run of this strategy would keep it: what learns is float32."""
  kept = 'float32' if strategy in ('full', 'last_layers') else precision
  return load.load(source, Execution(precision, kept, layout == 'scanned', quantize, remat, attention))


def tokens(loaded: load.Loaded, batch: int, length: int, seed: int = 0, packed: int = 1) -> Batch:
  """Random tokens, [1, batch, length], all of them targets; an encoder reads as many again.

  Args:
    packed: how many documents share a line, all of one length.
  """
  config, own = loaded.model.config, length // packed
  drawn = np.random.default_rng(seed).integers(10, config.vocab, (batch * packed, own + 1)).tolist()
  numbers = list(range(own))
  documents = [Document(ids[:-1], numbers, [0] * own, numbers, ids[1:], ids[:-1] if config.has_encoder else ())
               for ids in drawn]
  room = LineCapacity(length, length if config.has_encoder else 0)
  lines = [list(range(i, i + packed)) for i in range(0, batch * packed, packed)]
  return jax.tree.map(lambda x: x[None], batches.pack(documents, lines, room, length)[0])


def begun(loaded: load.Loaded, strategy: str, learning_rate: float, schedule: str = 'constant', steps: int = 10_000,
          clip: float = 0.0, seed: int = 0):
  """(state, frozen, tx) of a run of ours at step 0."""
  row = table.make(strategy, {})
  trainable, frozen = bind(jax.random.key(seed), row, loaded.model, loaded.params)
  tx = optim.make('adamw', schedule, steps, clip, 0.9, 0.999, 1e-8, row.lr_multipliers)
  return TrainState(jnp.int32(0), jax.random.key(seed), trainable, optim.init(tx, trainable, learning_rate, 0.0)), frozen, tx


def ours(loaded: load.Loaded, strategy: str, batch: Batch) -> tuple[Callable[[], float], Executable]:
  """A step that can be called again and again and gives its loss, and what it costs."""
  if strategy == FORWARD:
    variables, lines = {'params': jax.tree.map(jnp.asarray, loaded.params)}, jax.tree.map(lambda x: x[0], batch)
    executable = compiled(eval_step, variables, lines, model=loaded.model)
    return lambda: float(jnp.mean(executable(variables, lines))), executable
  state, frozen, tx = begun(loaded, strategy, 1e-6)
  executable = compiled(train_step, state, frozen, batch, donate=(0,), model=loaded.model, tx=tx)

  def call():
    nonlocal state
    state, metrics = executable(state, frozen, batch)
    return float(metrics['loss'])
  return call, executable


def twin(loaded: load.Loaded, attention: str | None = None) -> Any:
  """A torch model of the same config with the parameters of a float32 one of ours, on the same device.

  Args:
    attention: transformers' name of an implementation; None: its own choice.
  Raises:
    InputError: torch does not compute on ours.
    RuntimeError: the weights do not fit transformers' model.
  """
  import torch
  import transformers
  if device() == 'cuda' and not torch.cuda.is_available():
    raise InputError('--against=peft: torch does not see the GPU that ours is computed on; needs a build of it with CUDA')
  config = transformers.AutoConfig.for_model(**loaded.hf)
  config._attn_implementation = attention
  for field in ('dropout_rate', 'resid_pdrop', 'embd_pdrop', 'attn_pdrop'):       # ours has none outside of deltas
    if hasattr(config, field):
      setattr(config, field, 0.0)
  kind = transformers.AutoModelForSeq2SeqLM if config.is_encoder_decoder else transformers.AutoModelForCausalLM
  made, own = kind.from_config(config), loaded.model.config
  theirs = names.export_params(FAMILIES[own.family], own, loaded.params)
  missing, unexpected = made.load_state_dict({name: torch.tensor(x) for name, x in theirs.items()}, strict=False)
  tied = {'lm_head.weight', 'encoder.embed_tokens.weight', 'decoder.embed_tokens.weight'}
  if unexpected or not set(missing) <= tied:
    raise RuntimeError(f'unexpected: {sorted(unexpected)}, missing: {sorted(set(missing) - tied)}')
  return made.to(device())


def device() -> str:
  """Torch's name of the kind of device that ours is computed on.

  Raises:
    InputError: torch has none such.
  """
  if jax.default_backend() == 'tpu':
    raise InputError('--against=peft: torch does not compute on a TPU')
  return {'cpu': 'cpu', 'gpu': 'cuda'}[jax.default_backend()]


def adapted(torch_model: Any, strategy: str) -> Any:
  """A torch model with peft's form of a strategy, at our row's settings.

  Raises:
    InputError: the benchmarks compare forward, full and lora.
  """
  import peft
  if strategy == 'lora':
    row = table.make('lora', {}).fields
    return peft.get_peft_model(torch_model, peft.LoraConfig(r=row['rank'], lora_alpha=row['alpha'],
                                                            target_modules='all-linear'))
  if strategy not in ('full', FORWARD):
    raise InputError(f'peft is compared on forward, full and lora, not on {strategy}')
  return torch_model


def theirs(loaded: load.Loaded, strategy: str, precision: str, batch: Batch) -> Callable[[], float]:
  """The step of `ours` with torch's AdamW; bfloat16 is autocast's, and on a GPU the frozen weights are kept in it."""
  import torch
  made = twin(loaded)
  if device() == 'cuda' and precision == 'bfloat16' and strategy != 'full':
    made = made.to(torch.bfloat16)
  made = adapted(made, strategy)
  optimizer = torch.optim.AdamW([p for p in made.parameters() if p.requires_grad], lr=1e-6, weight_decay=0.0)
  of = lambda x: torch.tensor(x[0], dtype=torch.long, device=device())
  given = {'input_ids': of(batch.tokens), 'use_cache': False}
  if loaded.model.config.has_encoder:
    given |= {'input_ids': of(batch.source_tokens), 'decoder_input_ids': of(batch.tokens)}
  targets = of(batch.targets)

  def loss():
    with torch.autocast(device(), torch.bfloat16, enabled=precision == 'bfloat16'):
      logits = made(**given).logits
      return torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten())

  def call():
    if strategy == FORWARD:
      with torch.no_grad():
        return float(loss())
    found = loss()
    found.backward()
    optimizer.step()
    optimizer.zero_grad()
    return float(found.detach())
  return call
