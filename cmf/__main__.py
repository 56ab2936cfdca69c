"""`python -m cmf`."""

import sys

from cmf.cli import main

if __name__ == "__main__":
    sys.exit(main())
