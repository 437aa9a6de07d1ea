"""How figures and pages look, the same in every report."""

import base64
import importlib.resources
import re
from pathlib import Path
from typing import Any

import jinja2
import matplotlib

matplotlib.use('Agg')

# Okabe & Ito's palette, which people of every colour vision tell apart.
COLOURS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#000000')
STYLE: dict[Any, Any] = {      # of rcParams, whose keys matplotlib's types list one by one
    'figure.dpi': 160, 'savefig.bbox': 'tight', 'font.size': 10, 'axes.spines.top': False, 'axes.spines.right': False,
    'axes.grid': True, 'grid.color': '#e6e6e6', 'grid.linewidth': 0.8, 'axes.edgecolor': '#888888', 'axes.axisbelow': True,
    'axes.titlelocation': 'left', 'axes.titleweight': 'bold', 'legend.frameon': False, 'xtick.color': '#555555',
    'ytick.color': '#555555', 'axes.labelcolor': '#333333',
}


def css() -> str:
  """The style of a page."""
  return (importlib.resources.files('research') / 'look.css').read_text(encoding='utf-8')


def embedded(figure: Path) -> str:
  """A PNG as a page holds it in itself."""
  return 'data:image/png;base64,' + base64.b64encode(figure.read_bytes()).decode()


def cell(text: Any) -> str:
  """A text as it can stand in a line or a table's cell of Markdown."""
  return ' '.join(re.sub(r'([|<])', r'\\\1', str(text)).split())


def template(package: str, name: str) -> jinja2.Template:
  """A package's template NAME.jinja; what is put into a page is escaped, and Markdown has `cell` and `quoted`."""
  environment = jinja2.Environment(loader=jinja2.PackageLoader(package, '.'), trim_blocks=True, lstrip_blocks=True,
                                   autoescape=lambda name: name is not None and '.html' in name,
                                   undefined=jinja2.StrictUndefined)
  environment.filters |= {'cell': cell, 'quoted': quoted}
  return environment.get_template(f'{name}.jinja')


def quoted(text: str) -> str:
  """A text as the rest of a quoted block of Markdown."""
  return text.replace('<', '\\<').replace('\n', '\n> ')


def count(n: float) -> str:
  for unit, size in (('T', 1e12), ('G', 1e9), ('M', 1e6), ('k', 1e3)):
    if n >= size:
      return f'{n / size:.3g} {unit}'
  return f'{n:.0f}'
