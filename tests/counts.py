"""Counts of a test run from its JUnit files: python tests/counts.py [--short] FILE ...

Kinds: notebooks (cells executed anew), architecture (the project's own rules), property (hypothesis), unit.
The last line reads "N passed, N failed, N skipped"; the exit status is 1 when a test failed or none ran.
"""

import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter


def kind(case: ElementTree.Element) -> str:
    """Kind of one test case."""
    where = case.get("classname", "")
    if not where.startswith("tests."):
        return "notebooks"
    if where.split(".")[1] in ("test_architecture", "test_notebooks", "test_paper", "test_make"):
        return "architecture"
    marked = {(p.get("name"), p.get("value")) for p in case.iter("property")}
    return "property" if ("kind", "property") in marked else "unit"


def state(case: ElementTree.Element) -> str:
    """passed, failed or skipped."""
    children = {child.tag for child in case}
    return "failed" if children & {"failure", "error"} else "skipped" if "skipped" in children else "passed"


def main(argv: list[str]) -> int:
    """Print the counts of the files named in `argv`."""
    cases = [case for path in argv if not path.startswith("-") for case in ElementTree.parse(path).iter("testcase")]
    counts = Counter((kind(case), state(case)) for case in cases)
    total = Counter(state(case) for case in cases)
    if "--short" not in argv:
        for name in ("unit", "property", "architecture", "notebooks"):
            row = [f"{counts[name, s]} {s}" for s in ("passed", "failed", "skipped")]
            print(f"{name:<13} {', '.join(row)}")
    print(f"{total['passed']} passed, {total['failed']} failed, {total['skipped']} skipped")
    return int(total["failed"] > 0 or not cases)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
