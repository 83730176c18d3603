"""``python -m pytest_dwsconv``: reports and comparisons without a test run, and the rewrite."""

from __future__ import annotations

import sys

from pytest_dwsconv.command.cli import entry

USAGE = """\
usage: python -m pytest_dwsconv report TARGET ...   show a model's convolutions, without a test
       python -m pytest_dwsconv compare OLD NEW     show what changed between two baselines, or
                                                    JSON reports
       python -m pytest_dwsconv rewrite PATH ...    replace convolutions in source files, as
                                                    dwsconv-rewrite and as no subcommand at all do
--help after report, compare or rewrite lists its options; a file of such a name is ./report"""


def main() -> int:
    """Run the subcommand that the first argument names; the exit status."""
    command, *arguments = sys.argv[1:] or [""]
    if command in ("", "-h", "--help"):
        print(USAGE, file=sys.stdout if command else sys.stderr)
        return 0 if command else 2
    if command == "report":
        from pytest_dwsconv.command import report

        return report.main(arguments)
    if command == "compare":
        from pytest_dwsconv.command import compare

        return compare.main(arguments)
    from pytest_dwsconv.command import cli

    return cli.main(arguments if command == "rewrite" else [command, *arguments])


if __name__ == "__main__":
    entry(main)
