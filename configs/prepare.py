"""How raw files become clean splits. Every field, with what it means.

    python -m research.prepare --config=configs/prepare.py --input='exports/*.csv' --output=data/tickets

`--config.FIELD=VALUE` changes any field.
"""

from ml_collections import config_dict


def get_config():
  optional = config_dict.placeholder
  return config_dict.ConfigDict({
      # What a row holds.
      'text': optional(str),            # template of what rows are compared by, '{question}'; None: prompt, or all text columns
      'label': optional(str),           # the column of the label
      'group': optional(str),           # column of whose it is: one customer's rows are never of two splits
      'time': optional(str),            # column of when it was: a number, or a date such as 2024-05-31
      'groups': optional(tuple),        # "('region','gender')": columns of which label shares are compared, for fairness
      # For task.json; None: what follows from the columns, or nothing.
      'prompt': optional(str),          # template over the columns
      'target': optional(str),          # template of the answer
      'choices': optional(tuple),       # None: the labels, where there are 2 to 100
      'metrics': optional(tuple),
      # Cleaning, in this order.
      'clean': {
          'unicode': True,              # what was decoded wrongly is decoded again (ftfy); NFC
          'markup': False,              # HTML's tags go, entities become characters
          'whitespace': True,           # single blanks, at most one empty line, nothing at the ends
      },
      'languages': optional(tuple),     # "('en','de')": rows in others go (py3langid); None: none
      'characters': {'min': 1, 'max': 0},      # of a row's text; 0: any number
      'model': optional(str),           # as model.source of a run: its tokens are counted, its context is held against them
      'tokens': {'min': 0, 'max': 0},          # of that model, of prompt and answer together; 0: any number
      'exact': {'drop': True},          # rows whose text is one, but for capitals and blanks: the first stays
      'near': {
          'drop': True,                 # rows as similar as this to one that stays; False: they are counted
          'threshold': 0.8,             # Jaccard's, of the sets of all three words that stand together; 0.5 to 1
      },
      'personal': 'mask',               # e-mail, phone, card, IBAN, IP, keys: mask, drop (the row), keep (counted), off
      'regions': ('US', 'GB', 'DE', 'AT', 'CH', 'FR'),      # whose national phone numbers are known; with + all are
      'labels': {
          'join': True,                 # labels that differ by capitals or blanks alone are the commonest of them
          'suspects': True,             # rows whose label their words contradict are listed; they are never dropped
      },
      # Splits.
      'seed': 0,
      'split': {
          'by': optional(str),          # random; time: the latest rows are test; given: by `column`, or the names of the files.
                                        # None: time where `time` is named, given where every file's name says it, or random
          'column': optional(str),      # holds train, valid or test
          'valid': 0.1,                 # share of the rows
          'test': 0.1,
          'stratify': True,             # each label has its share in each split, where rows have no group
      },
      'leaks': 'drop',                  # training rows that valid or test hold, nearly or in part: drop, or keep and remember
      'ngram': 13,                      # so many words that stand together are a part; 0: parts are not looked for
  })
