"""A study's figures: what coincides stays visible, and the same outcomes give the same bytes, on light pages and dark ones."""

import re
from xml.etree import ElementTree

import matplotlib.pyplot as plt
import pytest
from test_verdict import arm

from research import look
from research.studies import cost_figure

pytestmark = pytest.mark.quick


def comparison(*arms):
  return {'metric': 'test/accuracy', 'split': 'test', 'chance': 0.5, 'majority': None, 'arms': list(arms)}


def drawn(folder, c):
  with plt.rc_context(look.STYLE):
    caption = cost_figure.draw(c, {a['arm']: look.COLOURS[i] for i, a in enumerate(c['arms'])})[1]
    panels = [axis.get_xlabel() for axis in plt.gcf().axes]
    look.save(folder, 'cost')
    plt.close('all')
  return panels, caption


def test_points_that_would_coincide_stand_side_by_side_and_others_stay():
  assert cost_figure.asides([0.0, 10.0, 10.1]) == [0.0, -cost_figure.GAP / 2, cost_figure.GAP / 2]
  assert cost_figure.asides([5.0]) == [0.0]
  assert sorted(cost_figure.asides([1.0, 1.0, 1.0])) == [-cost_figure.GAP, 0.0, cost_figure.GAP]


def test_what_a_prompt_costs_is_drawn_where_it_was_recorded(tmp_path):
  told = [arm('full', 0.9), arm('<prompt> $a$ & $b$', 0.6, flops=0, memory=0)]
  panels, caption = drawn(tmp_path, comparison(*told))
  assert panels == ['training FLOPs', 'training memory, GiB'] and caption.endswith('What prompts cost in use was not recorded.')
  for a, tokens in zip(told, (40, 300)):
    a['cost'] |= {'total_params': 1e8, 'prompt_tokens': tokens}
  assert cost_figure.inference_flops(told[1]) == 2 * 1e8 * 300
  assert drawn(tmp_path, comparison(*told))[0][-1] == 'FLOPs to read a prompt'
  assert '&lt;prompt&gt; $a$ &amp; $b$' in (tmp_path / 'cost.svg').read_text()


def test_arms_that_all_cost_nothing_are_drawn_all_the_same(tmp_path):
  assert drawn(tmp_path, comparison(arm('a', 0.5, flops=0, memory=0), arm('b', 0.6, flops=0, memory=0)))[0] == ['']


def test_the_same_figure_has_the_same_bytes_in_every_format(tmp_path):
  for name in ('one', 'other'):
    (tmp_path / name).mkdir()
    drawn(tmp_path / name, comparison(arm('full', 0.9), arm('lora', 0.8)))
  kinds = sorted(file.name for file in (tmp_path / 'one').iterdir())
  assert kinds == ['cost.pdf', 'cost.png', 'cost.svg']
  assert all((tmp_path / 'one' / name).read_bytes() == (tmp_path / 'other' / name).read_bytes() for name in kinds)


def test_every_colour_of_ink_in_a_figure_has_one_for_dark_pages(tmp_path):
  drawn(tmp_path, comparison(arm('full', 0.9), arm('lora', 0.8)))
  svg = (tmp_path / 'cost.svg').read_text()
  ElementTree.fromstring(svg)
  style, rest = svg.split('</style>', 1)
  assert '@media (prefers-color-scheme: dark)' in style and '#ffffff' not in rest
  used = set(re.findall(r'(?:fill|stroke): (#[0-9a-f]{6})', rest))
  bright = {colour.lower() for colour in look.COLOURS} - set(look.DARK)
  assert used <= set(look.DARK) | bright
  assert not re.findall(r'<text(?![^>]*fill: #)', rest)
