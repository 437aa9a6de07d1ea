"""Named small shapes with random weights and a byte tokenizer, for tests and laptops: `random:NAME`."""

from research.models.config import ModelConfig

PRESETS = {
    'llama-tiny': ModelConfig(family='llama', vocab=259, width=64, hidden=160, layers=3, heads=4, kv_heads=2,
                              head_dim=16, context=512, tied=True),
    'llama-small': ModelConfig(family='llama', vocab=259, width=256, hidden=704, layers=6, heads=8, kv_heads=4,
                               head_dim=32, context=1024, tied=True),
}
