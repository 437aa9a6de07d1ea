"""How raw files become clean splits. Every field, with what it means.

    python -m research.prepare --config=configs/prepare.py --input='exports/*.csv' --output=data/tickets

`--config.FIELD=VALUE` changes any field.
"""

from ml_collections import config_dict


def get_config():
  optional = config_dict.placeholder
  return config_dict.ConfigDict({
      'columns': {
          'text': optional(tuple),      # what a row says: "('question','answer')"; None: all columns of text but those below
          'label': optional(str),       # what it is called
          'group': optional(str),       # whose it is: one customer's rows are never of two splits
          'time': optional(str),        # when it was: a number, or a date such as 2024-05-31
      },
      'task': {                         # for task.json; None: what follows from the columns, or nothing
          'prompt': optional(str),      # template over the columns
          'target': optional(str),      # template of the answer
          'choices': optional(tuple),   # None: the labels, where there are 2 to 100
          'metrics': optional(tuple),
      },
      'clean': {
          'unicode': True,              # what was decoded wrongly is decoded again (ftfy); NFC
          'whitespace': True,           # single blanks, at most one empty line, nothing at the ends
          'markup': False,              # HTML's tags go, entities become characters
          'shortest': 1,                # characters of a row's text; shorter rows go
          'longest': 0,                 # longer ones go; 0: none
          'languages': optional(tuple), # "('en','de')": rows in others go (py3langid); None: none
      },
      'duplicates': {
          'exact': True,                # rows whose text is one, but for capitals and blanks: the first stays
          'near': True,                 # rows as similar as this to one that stays
          'similarity': 0.8,            # Jaccard's, of the sets of all three words that stand together; 0.5 to 1
      },
      'splits': {
          'by': 'random',               # random; time: the latest rows are test; given: by the names of the files
          'valid': 0.1,                 # share of the rows
          'test': 0.1,
          'seed': 0,
          'stratify': True,             # each label has its share in each split, where rows have no group
      },
      'leaks': {
          'remove': True,               # training rows that the other splits hold, nearly or in part, go
          'words': 13,                  # so many that stand together are a part; 0: parts are not looked for
      },
  })
