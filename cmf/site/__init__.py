"""The static site, `python -m cmf.site`: notebooks with their stored outputs, figures, reference, how-to pages."""
