"""`python -m cmf.site`."""

import sys

from cmf.site.build import build

if __name__ == "__main__":
    try:
        print(build())
    except (OSError, ValueError, ModuleNotFoundError, RuntimeError) as problem:
        sys.exit(str(problem))
