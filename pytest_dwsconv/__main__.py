"""``python -m pytest_dwsconv`` is ``dwsconv-rewrite``."""

from pytest_dwsconv.command.cli import entry

if __name__ == "__main__":
    entry()
