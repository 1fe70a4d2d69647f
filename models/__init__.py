"""The model-loading layer: released checkpoints of five vision-language families as one `VisionLanguageModel`."""
