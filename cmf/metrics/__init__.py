"""Measures: NumPy functions that import nothing else of this package."""
