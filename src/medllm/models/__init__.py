"""Base models, tokenizers, quantization and adapters: the only place that imports peft and bitsandbytes."""
