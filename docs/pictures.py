"""Make the pictures of README and documentation: ``python docs/pictures.py [LATENCIES.csv]``.

Needs matplotlib and Chromium. The picture of predicted latencies needs the file that
``benchmarks/edgetpu_latency.py`` reads as well.
"""

from __future__ import annotations

import html
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from matplotlib import pyplot

from pytest_dwsconv import Report, analyze
from pytest_dwsconv.core.budget import Budget, check_limits
from pytest_dwsconv.edgetpu import predict_latency
from pytest_dwsconv.render import Reporters, write_run
from pytest_dwsconv.targets import load_target

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "pictures"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def screenshot(page: Path, picture: str, width: int, height: int) -> None:
    browser = next(filter(None, map(shutil.which, BROWSERS)))
    subprocess.run(
        [
            browser,
            "--headless",
            "--no-sandbox",  # the pages are ours, and root has no sandbox in a container
            "--hide-scrollbars",
            f"--window-size={width},{height}",
            f"--screenshot={PICTURES / picture}",
            page.as_uri(),
        ],
        check=True,
        capture_output=True,
    )


def the_page(report: Report, folder: Path) -> None:
    """The HTML report of a network that is over its budget."""
    checks = [*check_limits(report, Budget(params="1M", macs="400M"))]
    path = folder / "report.html"
    write_run("html", {report: Reporters({"classifier:classifier"}, set(), checks)}, path)
    screenshot(path, "page.png", 1280, 920)


def the_table(report: Report, folder: Path) -> None:
    """What a terminal shows."""
    text = html.escape(str(report.table()))
    style = "background:#16181d; color:#e6e6e6; margin:0; padding:16px; font:13px/1.35 monospace"
    path = folder / "table.html"
    path.write_text(
        f'<meta charset="utf-8"><body style="margin:0"><pre style="{style}">{text}</pre>',
        encoding="utf-8",
    )
    screenshot(path, "table.png", 930, 30 + 18 * len(str(report.table()).splitlines()))


def accuracy_by_parameters() -> None:
    """The rows of the table in ``docs/fitting.md`` that replace each convolution."""
    rows = re.findall(
        r"^\| ([^|]+) \| ([\d,]+) \| (?:[\d.]+(?:,| to) )?([\d.]+) %[^|]*\|",
        (ROOT / "docs" / "fitting.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    kinds = {
        "original": ("original", "black", "*"),
        "random": ("random weights", "#888888", "x"),
        "SVD, r": ("nearest kernels (SVD)", "#d95f02", "s"),
        "CP": ("CP decomposition", "#7570b3", "^"),
        "fit, ": ("fitted on 1,024 images without labels", "#1b9e77", "o"),
        "fit, all forms": ("the same, all forms under a budget", "#e7298a", "D"),
    }
    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for start, (label, colour, mark) in kinds.items():
        points = [
            (int(params.replace(",", "")), float(accuracy))
            for name, params, accuracy in rows
            if max(filter(name.startswith, kinds), key=len, default="") == start
            and "distill" not in name
            and "on 32 images" not in name
        ]
        axes.scatter(*zip(*points, strict=True), c=colour, marker=mark, s=60, label=label)
    axes.set(xscale="log", xlabel="parameters", ylabel="accuracy, %", ylim=(0, 100))
    axes.set_xticks([50_000, 100_000, 200_000, 400_000], ["50k", "100k", "200k", "400k"])
    axes.minorticks_off()
    axes.set_title("A residual network for Fashion-MNIST, its convolutions made separable")
    axes.grid(alpha=0.3)
    axes.legend(loc="center right")
    figure.savefig(PICTURES / "accuracy.png", dpi=120)


def measured_speed() -> None:
    """The table of measured networks in ``docs/targets.md``: before, all replaced, and planned."""
    page = (ROOT / "docs" / "targets.md").read_text(encoding="utf-8")
    table = page.partition("| network | threads, memory format |")[2].partition("\n\n")[0]
    networks: dict[str, list[list[str]]] = {}
    for line in table.splitlines()[2:]:
        name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        networks.setdefault(name.partition(" of ")[0], []).append(cells)
    titles = ("ResNet-18", "the small network")
    columns = {"all replaced, multiplier 1": 2, "planned for this CPU": 4}
    figure, panels = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for axes, title in zip(panels, titles, strict=True):
        rows = networks[title]
        before = [float(row[1].removesuffix(" ms")) for row in rows]
        series = {"original": before}
        for label, column in columns.items():
            ratios = [row[column].replace("unchanged", "1").partition(" ")[0] for row in rows]
            series[label] = [ms / float(ratio) for ms, ratio in zip(before, ratios, strict=True)]
        for place, (label, values) in enumerate(series.items()):
            bars = axes.bar(
                [row + 0.27 * (place - 1) for row in range(len(rows))],
                values,
                width=0.25,
                color=("#888888", "#d95f02", "#1b9e77")[place],
                label=label,
            )
            axes.bar_label(bars, fmt="%.1f", fontsize=7)
        names = [row[0].replace(", ", "\n") for row in rows]
        axes.set_xticks(range(len(rows)), names, fontsize=8)
        axes.set(title=title, xlabel="threads, memory format", ylabel="ms per image")
    panels[0].legend()
    figure.savefig(PICTURES / "speed.png", dpi=120)


def predicted_by_published(latencies: Path) -> None:
    """Each published latency, and what is predicted for it with its interval."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from edgetpu_latency import features_of, rows_of

    figure, axes = pyplot.subplots(figsize=(6, 5), layout="constrained")
    names = {
        "rpi4_usb3": "Raspberry Pi 4, USB 3",
        "desktop_usb3": "desktop, USB 3",
        "dev_board_pcie": "Dev Board, PCIe",
    }
    for host, label in names.items():
        rows = [row for row in rows_of(latencies) if row["host"] == host]
        found = [predict_latency(features_of(row), host) for row in rows]
        published = [float(row["ms"]) for row in rows]
        middle = [each.ms for each in found]
        below = [each.ms - each.low for each in found]
        above = [each.high - each.ms for each in found]
        axes.errorbar(published, middle, (below, above), fmt="o", ms=4, lw=0.6, label=label)
    axes.plot([0.2, 500], [0.2, 500], color="grey", lw=0.8)
    axes.set(xscale="log", yscale="log", xlabel="published, ms", ylabel="predicted, ms")
    axes.set_title("Latency on the Edge TPU")
    axes.legend()
    figure.savefig(PICTURES / "predicted.png", dpi=120)


def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    report = analyze(load_target(f"{ROOT}/examples/classifier.py:classifier"), (1, 3, 64, 64))
    with tempfile.TemporaryDirectory() as folder:
        the_page(report, Path(folder))
        the_table(report, Path(folder))
    accuracy_by_parameters()
    measured_speed()
    for name in sys.argv[1:]:
        predicted_by_published(Path(name))


if __name__ == "__main__":
    main()
