"""The families by the `model_type` that their config.json carries (ByT5 and Flan-T5 say t5 or mt5)."""

from research.models.families import gemma, gpt, llama, mistral, olmo2, phi3, qwen, smollm3, t5

FAMILIES = {family.name: family for family in (
    llama.FAMILY, mistral.FAMILY, qwen.QWEN2, qwen.QWEN3, gpt.GPT2, gemma.GEMMA, gemma.GEMMA2, gemma.GEMMA3, gpt.NEOX,
    smollm3.FAMILY, olmo2.FAMILY, phi3.FAMILY, t5.T5, t5.MT5, t5.UMT5)}
