"""What a study says of ranked choices: chance, whether arms' order hangs on the rule, whether confidence can be believed."""

import pytest

from research.evaluation import metrics
from research.evaluation.metrics import Scored
from research.studies import compare, scoring
from research.studies.findings import Part

pytestmark = pytest.mark.quick


def told(before, **by_rule):
  c = {'arms': [{'arm': arm, 'mean': mean} for arm, mean in before.items()], 'scorings': by_rule}
  first, *others = scoring.parts(c, [Part('The answer', []), Part('The rest', [])])
  assert first.title == 'The answer' and others[-1].title == 'The rest'
  return others[:-1]


def test_the_report_says_whether_another_rule_gives_another_order():
  before, same = {'lora': 0.8, 'full': 0.7, 'bitfit': 0.7}, {'lora': 0.6, 'full': 0.5, 'bitfit': 0.55}
  [part] = told(before, sum=before, mean=same, byte={'lora': 0.5, 'full': 0.65, 'bitfit': 0.5})
  assert part.sentences[0].startswith('The order of the arms hangs on it: it is another under task.scoring=byte (lora and full '
                                      'change places).')
  assert part.table == [('arm', 'reported', 'sum', 'mean', 'byte'), ('lora', '0.800', '0.800', '0.600', '0.500'),
                        ('full', '0.700', '0.700', '0.500', '0.650'), ('bitfit', '0.700', '0.700', '0.550', '0.500')]
  [part] = told(before, sum=before, mean=same)
  assert 'the arms come in the same order' in part.sentences[0]
  assert not told({'lora': 0.8}, sum={'lora': 0.8}) and not told(before)


def test_chance_is_the_mean_over_rows_where_each_has_choices_of_its_own():
  own = [Scored('a', 'a', 1.0, 2, ('a', 'b')), Scored('c', 'd', 1.0, 2, ('c', 'd', 'e', 'f'))]
  assert compare._lines(metrics.get('accuracy'), own) == {'chance': pytest.approx((1 / 2 + 1 / 4) / 2), 'majority': None}
  assert compare._lines(metrics.get('accuracy'), own[:1] * 2) == {'chance': 0.5, 'majority': 1.0}
  assert compare._lines(metrics.get('brier'), own) == {'chance': None, 'majority': None}


def test_a_figure_of_reliability_has_a_part_of_its_own():
  found = scoring.parts({'arms': []}, [Part('The answer', []), Part('The rest', [])], ['cost', 'reliability'])
  assert [part.figure for part in found] == [None, 'reliability', None]
