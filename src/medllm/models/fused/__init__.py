"""A training step of Llama-style models with LoRA, forward and backward by hand: fewer passes over memory, fewer launches."""
