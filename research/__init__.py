"""flaxtune: compare ways of adapting a language model (README.md; CONTRIBUTING.md for the layout)."""

import os

# transformers is used for its tokenizers alone: without torch it would say on every start that models are missing.
os.environ.setdefault('TRANSFORMERS_NO_ADVISORY_WARNINGS', '1')
