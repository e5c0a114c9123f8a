"""`python -m tests.rehearsal`: rehearse, then print the table. `--table` prints only the table, in seconds."""

import sys

import pytest

from tests.rehearsal import table


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit code."""
    code = 0
    if "--table" not in arguments:
        code = pytest.main(["tests/rehearsal", "-m", "rehearsal", "-n", "2", *arguments])
    print("\n".join(table.lines()))
    return int(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
