"""The built-in tasks, as data."""

from typing import Any

# `data` names a folder of `samples/`; the other fields are those of `tasks.Task`.
BUILT_IN: dict[str, dict[str, Any]] = {
    'sentiment': dict(data='sentiment_sentences', prompt='Review: {text}\nSentiment:', target=' {label}',
                      choices=('negative', 'positive'), metrics=('accuracy', 'macro_f1')),
    'domain': dict(data='sentiment_sentences', prompt='Review: {text}\nWebsite:', target=' {domain}',
                   choices=('amazon', 'imdb', 'yelp'), metrics=('accuracy', 'macro_f1')),
    'translation': dict(data='hass_ende', prompt='English: {source}\nGerman:', target=' {target}',
                        metrics=('bleu', 'chrf', 'exact_match'), max_new_tokens=96),
    'summary': dict(data='docstring_summary', prompt='Documentation: {document}\nSummary:', target=' {summary}',
                    metrics=('rouge1', 'rouge2', 'rougeL'), max_new_tokens=64),
}
