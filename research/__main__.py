"""`flaxtune VERB …` is `python -m research.VERB …`; without a verb it says which there are."""

import ast
import difflib
import importlib.metadata
import runpy
import sys
from pathlib import Path

VERBS = ('prepare', 'train', 'evaluate', 'generate', 'study', 'plan', 'export', 'serve', 'monitor', 'refine')


def usage() -> str:
  """All verbs, each with the first sentence of its module."""
  lines = ['usage: flaxtune VERB --FLAG=VALUE …', '']
  for verb in VERBS:
    source = Path(__file__).with_name(f'{verb}.py').read_text(encoding='utf-8')
    lines.append(f'  {verb:<10}{(ast.get_docstring(ast.parse(source)) or "").splitlines()[0]}')
  return '\n'.join([*lines, '', 'flaxtune VERB --help tells the flags of one.'])


def main() -> None:
  """Runs the verb that the first argument names, in this process."""
  verb = sys.argv[1] if len(sys.argv) > 1 else '--help'
  if verb in ('--help', '-h', 'help'):
    print(usage())
  elif verb == '--version':
    print(f'flaxtune {importlib.metadata.version("flaxtune")}')
  elif verb in VERBS:
    del sys.argv[1]
    runpy.run_module(f'research.{verb}', run_name='__main__', alter_sys=True)
  else:
    near = difflib.get_close_matches(verb, VERBS, 1)
    print(f'error: {verb!r} is no verb; ' + (f'did you mean {near[0]}?' if near else f'there are {", ".join(VERBS)}'),
          file=sys.stderr)
    sys.exit(2)


if __name__ == '__main__':
  main()
