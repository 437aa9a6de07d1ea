"""The method's paragraph cites what was used, its BibTeX holds just that, and all of it comes from the record."""

import re

import pytest
from test_findings import ran, study

from research.strategies.table import STRATEGIES
from research.studies import method, report
from research.studies.method import CITED

pytestmark = pytest.mark.quick
RECORD = {'versions': {'flaxtune': '9.8.7'}, 'date': '2031-02-03', 'data': {'train': {'rows': 2200}, 'test': {'rows': 60}}}


def told(tmp_path, seeds):
  c, _ = ran(tmp_path, {'base': dict.fromkeys(seeds, 0.5), 'other': dict.fromkeys(seeds, 0.8)})
  comparison = {'comparisons': [c], 'tests': 1, 'plan': 'abc', 'margin': None}
  sentences, cited = method.paragraph(study(['base', 'other']), comparison, RECORD)
  return ' '.join(sentences), cited


def test_every_strategy_with_a_paper_has_an_entry_and_every_entry_a_name():
  entries = re.findall(r'@\w+\{(\w+),', method.bibtex([*CITED], RECORD))
  assert entries == ['flaxtune', *CITED]
  assert {*STRATEGIES} - {*CITED} == {'full', 'last_layers'}


def test_what_was_used_is_cited_once_and_nothing_else(tmp_path):
  text, cited = told(tmp_path / 'one', [0])
  assert cited == ['lora', 'wilson', 'holm'] and 'paired by example;' in text
  text, cited = told(tmp_path / 'three', [0, 1, 2])
  assert cited == ['lora', 'variance_components', 'holm'] and 'paired by example and seed;' in text
  assert 'base (Hu et al., 2021) and other (Hu et al., 2021)' in text


def test_version_and_date_are_those_of_the_record(tmp_path):
  assert 'flaxtune 9.8.7, begun on 2031-02-03; its plan was fixed before the first run (abc).' in told(tmp_path, [0])[0]
  assert 'version={9.8.7}, year={2031}}' in method.bibtex([], RECORD)
  assert method.bibtex([], {}).endswith('author={{The flaxtune maintainers}}}')


def test_the_table_has_a_row_for_chance_and_for_the_most_frequent_answer(tmp_path):
  c, _ = ran(tmp_path, {'base': {0: 0.5}, 'other': {0: 0.8}})
  assert 'at random' not in report.table_text({'comparisons': [c]})
  text = report.table_text({'comparisons': [{**c, 'chance': 0.5, 'majority': 0.61}]})
  for line in (r'^at random +– +0\.500 ', r'^most frequent +– +0\.610 '):
    assert re.search(line, text, re.MULTILINE)


def test_rows_are_told_where_the_record_is_of_this_task():
  rows = [{'model': 'm', 'task': 't', 'arm': arm, 'key': arm, 'selected': True, 'setting': setting}
          for arm, setting in (('base', {}), ('few', {'task.rows': 32}))]
  c = {'model': 'm', 'task': 't', 'examples': 60}
  assert method.rows_of(c, rows, RECORD) == {'base': {'train': 2200, 'test': 60}, 'few': {'train': 32, 'test': 60}}
  assert method.rows_of({**c, 'examples': 61}, rows, RECORD) == method.rows_of(c, rows, {}) == {}
  of_runs = {'base': {'train': 5, 'test': 60}, 'few': {'train': 3, 'test': 60}}
  assert method.rows_of(c, rows, {**RECORD, 'rows': of_runs}) == of_runs
