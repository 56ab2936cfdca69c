"""The strict notebook runner: `python -m cmf.book figures|notebooks|parameters`.

It refuses unknown parameters, runs only what is out of date by content, shows progress, keeps the copy of a
notebook that failed, and puts figures in place only when their whole notebook has passed.
"""
