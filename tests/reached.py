"""What the tests reach: python tests/reached.py [--least 90] build/coverage.json

Prints line coverage of cmf, the modules below the least share, and every `raise` that no test reached. The exit
status is 1 when the whole is below the least share, or a raise was not reached.
"""

import argparse
import ast
import json
import sys
from pathlib import Path


def unreached(path: Path, missing: set[int]) -> list[str]:
    """Each raise of a file that starts on one of the `missing` lines, with its line and first words."""
    found = (node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Raise))
    return [f"{path}:{node.lineno}: {ast.unparse(node)[:90]}" for node in found if node.lineno in missing]


def main(argv: list[str]) -> int:
    """Print the summary of a report in the JSON of coverage.py."""
    parser = argparse.ArgumentParser(prog="tests/reached.py")
    parser.add_argument("--least", type=float, default=90, help="per cent of lines (default 90)")
    parser.add_argument("report", type=Path)
    args = parser.parse_args(argv)
    report = json.loads(args.report.read_text(encoding="utf-8"))
    raises = []
    for name, file in sorted(report["files"].items()):
        share = file["summary"]["percent_covered"]
        if share < args.least:
            print(f"{share:5.1f} % of {name}")
        raises += unreached(Path(name), set(file["missing_lines"]))
    print("\n".join(raises) or "every raise was reached")
    total = report["totals"]
    print(f"{total['percent_covered']:.1f} % of {total['num_statements']} lines, at least {args.least:g} % wanted; "
          f"{len(raises)} raises not reached")
    return int(total["percent_covered"] < args.least or bool(raises))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
