"""Models as files that other programs load: the adapter alone, merged into its base model, or as GGUF."""
