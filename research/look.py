"""How figures and pages look, the same in every report."""

import base64
import importlib.resources
import io
import re
from pathlib import Path
from typing import Any

import jinja2
import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt

# Okabe & Ito's palette, which people of every colour vision tell apart.
COLOURS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#222222')
MARKERS = 'osD^vPX'      # which also those tell apart who see no colours
STYLE: dict[Any, Any] = {      # of rcParams, whose keys matplotlib's types list one by one
    'figure.dpi': 160, 'savefig.bbox': 'tight', 'font.size': 10, 'axes.spines.top': False, 'axes.spines.right': False,
    'axes.grid': True, 'grid.color': '#e6e6e6', 'grid.linewidth': 0.8, 'axes.edgecolor': '#888888', 'axes.axisbelow': True,
    'axes.titlelocation': 'left', 'axes.titleweight': 'bold', 'legend.frameon': False, 'xtick.color': '#555555',
    'ytick.color': '#555555', 'axes.labelcolor': '#333333', 'text.color': '#333333', 'svg.fonttype': 'none',
    'svg.hashsalt': 'flaxtune', 'pdf.fonttype': 42,
}
# What a figure's colours are on a dark page.
DARK = {'#333333': '#e6e9ec', '#555555': '#b4bdc5', '#666666': '#b4bdc5', '#888888': '#8b96a0', '#e6e6e6': '#2b3238',
        '#0072b2': '#4fa8e0', '#d55e00': '#ef7f2d', '#009e73': '#2cc295', '#222222': '#ffffff'}


def css() -> str:
  """The style of a page."""
  return (importlib.resources.files('research') / 'look.css').read_text(encoding='utf-8')


def embedded(figure: Path) -> str:
  """A PNG or SVG as a page holds it in itself."""
  kind = {'.png': 'png', '.svg': 'svg+xml'}[figure.suffix]
  return f'data:image/{kind};base64,' + base64.b64encode(figure.read_bytes()).decode()


def save(folder: Path, name: str) -> None:
  """Writes the current figure as NAME.png, NAME.pdf and NAME.svg; the last is dark where the page around it is."""
  plt.savefig(folder / f'{name}.png')
  plt.savefig(folder / f'{name}.pdf', metadata={'CreationDate': None})
  drawn = io.StringIO()
  plt.savefig(drawn, format='svg', transparent=True, metadata={'Date': None})
  (folder / f'{name}.svg').write_text(drawn.getvalue().replace('</style>', f'{_dark()}</style>', 1), encoding='utf-8')


def _dark() -> str:
  """The style by which an SVG follows a dark page."""
  rules = ''.join(f'[style*="{what}: {light}"] {{{what}: {dark} !important}}' for light, dark in DARK.items()
                  for what in ('fill', 'stroke'))
  return f'@media (prefers-color-scheme: dark) {{{rules}}}'


def plain(text: str) -> str:
  """A text as a figure's label, in which no formula is read."""
  return text.replace('$', r'\$')


def cell(text: Any) -> str:
  """A text as it can stand in a line or a table's cell of Markdown."""
  return ' '.join(re.sub(r'([|<])', r'\\\1', str(text)).split())


def template(package: str, name: str) -> jinja2.Template:
  """A package's template NAME.jinja; what is put into a page is escaped, and Markdown has `cell`."""
  environment = jinja2.Environment(loader=jinja2.PackageLoader(package, '.'), trim_blocks=True, lstrip_blocks=True,
                                   autoescape=lambda name: name is not None and '.html' in name,
                                   undefined=jinja2.StrictUndefined)
  environment.filters['cell'] = cell
  return environment.get_template(f'{name}.jinja')


def count(n: float) -> str:
  """A number for people, with three digits."""
  for unit, size in (('T', 1e12), ('G', 1e9), ('M', 1e6), ('k', 1e3)):
    if n >= size:
      return f'{n / size:.3g} {unit}'
  return f'{n:.0f}'


def percent(share: float) -> str:
  """A share for people, with two digits, and a third where it would round to the whole."""
  return f'{100 * share:.{3 if 0.985 <= share < 9.95 else 2}g} %' if share < 9.95 else f'{100 * share:,.0f} %'
