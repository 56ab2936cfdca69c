"""Generated data with known truth: one physical world, several renderings of it."""
