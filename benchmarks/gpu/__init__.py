"""Full-size models with random weights on a GPU, against eager `generate` and what others have published."""
