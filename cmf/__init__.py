"""Cross-modal fusion: four published methods, as published and corrected, with the data to judge them."""

__version__ = "0.1.0"
