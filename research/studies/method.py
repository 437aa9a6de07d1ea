"""How a study was made, as a paper would say it: a paragraph with citations, and their BibTeX; all from the study's record."""

import importlib.resources
import re
from collections.abc import Mapping, Sequence
from typing import Any

from research.evaluation import metrics
from research.studies.findings import listed
from research.studies.grid import Study

# Key in citations.bib -> how a text cites it.
CITED = {'bitfit': 'Ben Zaken et al., 2021', 'lora': 'Hu et al., 2021', 'rslora': 'Kalajdzievski, 2023',
         'lora_plus': 'Hayou et al., 2024', 'lora_fa': 'Zhang et al., 2023', 'pissa': 'Meng et al., 2024',
         'dora': 'Liu et al., 2024', 'vera': 'Kopiczko et al., 2023', 'oft': 'Qiu et al., 2023', 'ia3': 'Liu et al., 2022',
         'adapter': 'Houlsby et al., 2019', 'prefix': 'Li and Liang, 2021', 'prompt': 'Lester et al., 2021',
         'few_shot': 'Brown et al., 2020', 'holm': 'Holm, 1979', 'wilson': 'Wilson, 1927', 'bootstrap': 'Efron, 1979',
         'variance_components': 'Searle et al., 1992', 'clusters': 'Miller, 2024', 'equivalence': 'Schuirmann, 1987'}
SPLITS = ('train', 'valid', 'test')
Rows = dict[str, dict[str, int]]      # arm -> split -> how many rows


def rows_of(c: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], provenance: Mapping[str, Any]) -> Rows:
  """How many rows of each split each arm had; nothing where the record does not say it of this task.

  Args:
    c: one of comparison.json's `comparisons`.
    rows: the lines of results.jsonl.
    provenance: of the study: `rows` of every run that was reported or, in older ones, `data` of the first run.
  """
  found: Rows = {}
  first = {split: of['rows'] for split, of in provenance.get('data', {}).items() if split in SPLITS}
  for r in rows:
    if r['selected'] and (r['model'], r['task']) == (c['model'], c['task']) and r['arm'] not in found:
      fewer = next(({'train': value} for field, value in r['setting'].items() if field.endswith('.rows')), {})
      found[r['arm']] = provenance.get('rows', {}).get(r['key'], first | fewer)
  return found if found and all(of.get('test') == c['examples'] for of in found.values()) else {}


def paragraph(study: Study, comparison: Mapping[str, Any], provenance: Mapping[str, Any]) -> tuple[list[str], list[str]]:
  """The sentences of the method, and the keys in citations.bib that they cite.

  Args:
    study: the one that was run.
    comparison: what comparison.json holds.
    provenance: of the study.
  """
  cited: list[str] = []

  def cite(key: str) -> str:
    cited.append(key)
    return f'({CITED[key]})'

  def called(arm: str) -> str:
    names = [name for name in study.arms[arm]['strategy'].get('name', '').split('+') if name in CITED]
    return ' '.join([arm, *map(cite, names)])
  cs = comparison['comparisons']
  c = cs[0]
  arms = [called(arm) for arm in study.arms]
  over = f'{listed(dict.fromkeys(x["task"] for x in cs))} with {listed(dict.fromkeys(x["model"] for x in cs))}'
  out = [f'{len(arms)} ways of adapting a language model were compared on {over}: {listed(arms)}.',
         f'Each arm\'s setting was the one of its grid with the best mean {study.select} over {_seeds(len(study.seeds))}' +
         (f'; it was then trained again with {_seeds(len(study.report_seeds))} of its own.' if study.report_seeds else '.')]
  metric, several = metrics.measured(c['metric']), len(c['seeds']) > 1
  examples = listed(f'{x["examples"]:,}' for x in cs)
  if several:
    how = f'by a crossed random model of seeds and examples {cite("variance_components")}'
  elif metric.is_share:
    how = f'Wilson\'s over examples {cite("wilson")}'
  else:
    how = f'by the percentile bootstrap over examples {cite("bootstrap")}'
  clustered = f', by cluster {cite("clusters")}' if any('clusters' in x for x in cs) else ''
  out.append(f'Scores are {c["metric"]} on {examples} examples with {_seeds(len(c["seeds"]))}; intervals are 95 %, {how}'
             f'{clustered}.')
  if comparison.get('tests'):
    family = 'all pairs of arms' if len(cs) == 1 else 'all pairs of arms of all models and tasks'
    paired = 'by example and seed' if several else 'by example'
    out.append(f'Differences are paired {paired}; the tests of {family} ({comparison["tests"]}) were corrected together '
               f'{cite("holm")}.')
  if comparison.get('margin') and any(x['p_equivalence'] is not None for y in cs for a in y['arms'] if (x := a['difference'])):
    out.append(f'Arms that differ by less than {comparison["margin"]:g} were tested for equivalence {cite("equivalence")}.')
  version = provenance.get('versions', {}).get('flaxtune')
  on = f', begun on {provenance["date"]}' if provenance.get('date') else ''
  out.append(f'The study was run with flaxtune{f" {version}" if version else ""}{on}' +
             (f'; its plan was fixed before the first run ({comparison["plan"]}).' if comparison.get('plan') else '.'))
  return out, [*dict.fromkeys(cited)]


def _seeds(count: int) -> str:
  return 'one seed' if count == 1 else f'{count} seeds'


def bibtex(keys: Sequence[str], provenance: Mapping[str, Any]) -> str:
  """BibTeX of flaxtune, in the version that the study was run with, and of what its method cites.

  Args:
    keys: of citations.bib.
    provenance: of the study.
  """
  known = (importlib.resources.files('research') / 'studies' / 'citations.bib').read_text(encoding='utf-8')
  entries = dict(re.findall(r'^(?=@\w+\{(\w+),)(.*)$', known, re.MULTILINE))
  version, date = provenance.get('versions', {}).get('flaxtune'), provenance.get('date')
  ours = ['@software{flaxtune', 'title={flaxtune: comparing ways of adapting a language model, in {JAX} and {Flax}}',
          'author={{The flaxtune maintainers}}', *([f'version={{{version}}}'] if version else []),
          *([f'year={{{date[:4]}}}'] if date else [])]
  return '\n'.join([', '.join(ours) + '}', *(entries[key] for key in keys)])
