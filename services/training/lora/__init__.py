"""Supervised LoRA fine-tuning on completion tokens: the only part of the training service that imports torch."""
