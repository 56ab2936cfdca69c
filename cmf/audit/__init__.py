"""The reproducibility audit: `make audit`, which ends in one page, build/audit/index.md.

A clean clone of the commit is set up, held against its own rules, and built twice from nothing; the two builds are
compared with each other and with what is committed.
"""
