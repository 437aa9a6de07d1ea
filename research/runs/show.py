"""Training rows on a terminal, as the model reads them; nothing is computed or written."""

from research import config as configs
from research.config import Config
from research.console import is_coloured
from research.data import shown
from research.distributed import processes
from research.experiment.assemble import Experiment, assemble
from research.models import presets


def training_rows(exp: Experiment, count: int, colour: bool) -> list[str]:
  """The first training rows, in lines (see `shown.lines`); of gaps as the first epoch has them.

  Args:
    exp: without weights, too.
    count: how many rows, or pieces of plain text; fewer where there are no more.
    colour: as for `shown.lines`.
  """
  few = {**exp.task.splits, 'train': exp.task.rows('train')[:count]}
  exp = exp._replace(task=exp.task._replace(splits=few))
  examples = exp.training_examples()[:count]
  context = exp.context - exp.strategy.prefix_slots
  return shown.lines(examples, [exp.document(e) for e in examples], exp.tokenizer, colour, context,
                     'learned' if exp.strategy.learns else 'scored')


def show(config: Config, count: int) -> None:
  """Prints the first training rows of a config, as a step is given them.

  A config of which something cannot be right is refused (`InputError`).
  """
  settings = configs.read(config)
  exp = assemble(settings, abstract=settings.model.source not in presets.HUB)      # whose shapes come without their tokenizer
  if processes.is_primary():
    print('\n'.join(training_rows(exp, count, is_coloured())))
