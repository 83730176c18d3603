"""Compare ``judge_model`` with what the vendor's compiler made of the same files.

    python benchmarks/edgetpu_judge.py FOLDER [--list]

The folder holds pairs, ``NAME.tflite`` and ``NAME_edgetpu.tflite``. An operator was mapped if no
operator that is left in the compiled file computes its outputs. Precision is the share of verdicts
that the compiler confirms, recall the share of what it did that was judged so.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from tabulate import tabulate

from pytest_dwsconv.edgetpu import ModelFile, OperatorJudgement, Status, judge_model, read_model

CERTAIN = (Status.MAPS, Status.CPU)


def pairs(folder: Path) -> list[tuple[str, ModelFile, ModelFile]]:
    found = []
    for compiled in sorted(folder.rglob("*_edgetpu.tflite")):
        plain = compiled.with_name(compiled.name.replace("_edgetpu", ""))
        if plain.exists():
            found.append((plain.stem, read_model(plain), read_model(compiled)))
    return found


def compared(plain: ModelFile, compiled: ModelFile) -> list[tuple[Status, OperatorJudgement]]:
    """What became of each operator, and its judgement."""
    left = {output.name for operator in compiled.on_cpu for output in operator.outputs}
    judgements = judge_model(plain).operators
    rows = []
    for operator, judgement in zip(plain.operators, judgements, strict=True):
        stayed = any(output.name in left for output in operator.outputs)
        rows.append((Status.CPU if stayed else Status.MAPS, judgement))
    return rows


def share(part: int, whole: int) -> str:
    return f"{part / whole:.3f} ({part} of {whole})" if whole else "none"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--list", action="store_true", help="each verdict that is not confirmed")
    arguments = parser.parse_args()
    counts: Counter[tuple[Status, Status]] = Counter()
    exact = files = 0
    for name, plain, compiled in pairs(arguments.folder):
        rows = compared(plain, compiled)
        counts.update((real, judgement.status) for real, judgement in rows)
        wrong = [(real, judgement) for real, judgement in rows if judgement.status is not real]
        files, exact = files + 1, exact + (not wrong)
        for real, judgement in wrong if arguments.list else []:
            print(f"{name}: {real.value}, judged {judgement}")
    table = []
    for status in CERTAIN:
        confirmed = counts[status, status]
        judged = sum(counts[real, status] for real in CERTAIN)
        real = sum(counts[status, verdict] for verdict in Status)
        table.append([status.value, share(confirmed, judged), share(confirmed, real)])
    print(tabulate(table, headers=["", "precision", "recall"]))
    print(f"files in which every operator is judged right: {exact} of {files}")


if __name__ == "__main__":
    main()
