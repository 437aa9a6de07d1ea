"""From how many examples on does training beat showing them in the prompt?

    python -m research.train --config=configs/pretrain.py:random:llama-small --workdir=runs/pretrained-llama
    python -m research.export --workdir=runs/pretrained-llama --output=models/llama-texts
    python -m research.study --study=experiments/few_examples.py --workdir=runs/few_examples

Full fine-tuning and LoRA learn from 32, 128 and 512 reviews that the seed draws; few-shot prompting has as many demonstrations
as serve it best, of all. Every arm's setting and step are chosen on the same 300 validation reviews, which few examples would
not come with. `few_examples.py:gpu` is SmolLM2-135M-Instruct, which has learned to read demonstrations.

Result (3 seeds choose and 5 others report, 479 test reviews, both sampled; two cores of an AMD EPYC, an hour beside other work;
commit 93229eb; report and outcomes in `few_examples/`):

    arm         setting         test/accuracy           difference to few_shot
    few_shot    4 shots         0.307 [0.267, 0.350]    (baseline; chance is 0.333, always the commonest answer 0.355)
    full_32     rate 0.0003     0.424 [0.379, 0.471]    +0.117 [+0.049, +0.185], p 0.017
    full_128    rate 0.0003     0.477 [0.423, 0.532]    +0.170 [+0.097, +0.244], p 0.00033
    full_512    rate 0.001      0.459 [0.414, 0.505]    +0.152 [+0.080, +0.225], p 0.0011
    lora_32     rate 0.003      0.391 [0.346, 0.437]    +0.084 [+0.012, +0.155], p 0.28
    lora_128    rate 0.0009     0.366 [0.321, 0.414]    +0.059 [-0.014, +0.133], p 0.95
    lora_512    rate 0.0009     0.371 [0.324, 0.420]    +0.064 [-0.004, +0.132], p 0.73

Demonstrations give this small model nothing: it does not beat chance. Full fine-tuning beats them from 32 examples on; no test
tells 32, 128 and 512 apart in 80 steps of eight. LoRA is not shown to beat them, and its intervals reach down to chance. No
best rate lies at an edge of its grid.
"""

COUNTS = {'': (32, 128, 512), 'gpu': (16, 64, 256, 1024)}


def get_study(variant=''):
  rates = {'': {'full': (3e-4, 1e-3), 'lora': (3e-3, 1e-2)}, 'gpu': {'full': (3e-5, 1e-4), 'lora': (3e-4, 1e-3)}}[variant]
  settings = {'full': {'name': 'full'}, 'lora': {'name': 'lora', 'rank': 32}}
  learned = {f'{name}_{count}': {'strategy': settings[name], 'grid': {'training.learning_rate': of_name, 'task.rows': (count,)}}
             for name, of_name in rates.items() for count in COUNTS[variant]}
  return {
      'question': 'From how many examples on does training beat showing them in the prompt?',
      'base': {'': 'configs/llama.py:models/llama-texts', 'gpu': 'configs/quickstart.py'}[variant],
      'tasks': ('domain',),
      'arms': {'few_shot': {'strategy': {'name': 'few_shot'}, 'grid': {'strategy.shots': (0, 4, 8)}}, **learned},
      'seeds': (0, 1, 2),
      'report_seeds': (3, 4, 5, 6, 7),
      'budget': {'steps': 80, 'batch_size': 8, 'eval_every': 40, 'checkpoint_every': 0},
      'select': 'valid/accuracy',
      'report': 'test/accuracy',
      'baseline': 'few_shot',
      'margin': 0.02,
  }
