"""From how many examples on does training beat showing them in the prompt?

    python -m research.train --config=configs/pretrain.py:random:llama-small --workdir=runs/pretrained-llama
    python -m research.export --workdir=runs/pretrained-llama --output=models/llama-texts
    python -m research.study --study=experiments/few_examples.py --workdir=runs/few_examples

Full fine-tuning and LoRA learn from 64, 256 and 1,024 reviews that the seed draws; few-shot prompting has as many
demonstrations as serve it best, of all. Every arm's setting and step are chosen on the same 300 validation reviews, which few
examples would not come with. `few_examples.py:gpu` is SmolLM2-135M-Instruct, which has learned to read demonstrations.

Result (two seeds, 479 test reviews, both sampled; two cores of an AMD EPYC, half an hour with other work beside it; commits
3074b51 and 632b693; report and results in `few_examples/`):

    arm          setting       test/accuracy           difference to few_shot
    few_shot     0 shots       0.309 [0.267, 0.351]    (baseline; a third is chance)
    full_64      rate 0.001    0.459 [0.258, 0.660]    +0.150 [+0.046, +0.255], p 0.21
    full_256     rate 0.0003   0.482 [-0.378, 1.342]   +0.173 [-0.622, +0.968], p 1
    full_1024    rate 0.001    0.673 [0.638, 0.709]    +0.364 [+0.309, +0.419], p < 1e-10
    lora_64      rate 0.001    0.386 [0.063, 0.709]    +0.077 [-0.040, +0.195], p 1
    lora_256     rate 0.003    0.406 [0.368, 0.444]    +0.097 [+0.030, +0.165], p 0.09
    lora_1024    rate 0.001    0.434 [0.318, 0.550]    +0.125 [+0.052, +0.199], p 0.07

Demonstrations give this small model nothing. Training is shown to beat them from 1,024 examples on, by full fine-tuning alone;
below that, and for LoRA, two seeds cannot tell (full_256's two seeds differ by 0.15, and an interval made of two can leave the
range of a score). Best rates lie at an edge of their grids of two, so better ones may lie beyond.
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
