"""Frozen encoders and the features made with them."""
