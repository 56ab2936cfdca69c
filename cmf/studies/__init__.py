"""From data to numbers, one file a study: the steps that notebooks, the command line and long runs share."""
