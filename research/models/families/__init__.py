"""The families by the `model_type` that their config.json carries."""

from research.models.families import llama

FAMILIES = {'llama': llama.FAMILY}
