"""Fit the constants of ``predict_latency`` to published latencies: prints them and their errors.

    python benchmarks/edgetpu_latency.py latency_features.csv

The file has a row per published latency, lines that begin with # apart: host, family, ms,
off_chip_mib, std_gmac, pointwise_gmac, depthwise_gmac, fc_gmac, activation_mib, input_mib,
output_mib. What the chip takes is fitted for all hosts together, a floor for each. Rates of the bus
that were measured are given. Errors are relative, and their median is what is minimised, in
effect: outliers weigh less. A network and its pruned variants are a family; the errors shown are
those on families that were left out of the fit.

What a rewrite saves is a difference. So pairs of a family are compared too: what one takes more
than the other, measured, over the same predicted, where at least 0.25 MiB more of it stream.
"""

from __future__ import annotations

import argparse
import csv
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import nnls
from tabulate import tabulate

from pytest_dwsconv.edgetpu.prediction import HOSTS, LatencyFeatures, predict_latency

MEASURED_RATES = {"rpi4_usb3": 3.25, "dev_board_pcie": 2.67}  # ms per MiB
OUTPUT_RATE = 10  # an output byte costs about ten input bytes
SMALLEST_ERROR = 0.03  # below this rows weigh the same
ROUNDS = 80
LEAST_STREAMED = 0.25  # MiB

Array = np.ndarray[Any, np.dtype[np.float64]]


HEADERS = [
    "host", "rows", "median error", "90th percentile", "largest", "outside its interval",
    "below its bound",
]  # fmt: skip


def rows_of(path: Path) -> list[dict[str, str]]:
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    return [row for row in csv.DictReader(lines) if row["host"] in HOSTS]


def columns(rows: list[dict[str, str]]) -> tuple[list[str], Array, Array]:
    """The names of what is fitted, a column for each, and the milliseconds that are known."""
    hosts = np.array([row["host"] for row in rows])
    gmac = sum(values(rows, f"{kind}_gmac") for kind in ("std", "pointwise", "depthwise", "fc"))
    crossing = values(rows, "off_chip_mib") + values(rows, "input_mib")
    crossing = crossing + OUTPUT_RATE * values(rows, "output_mib")
    found = {"ms per GMAC": gmac, "ms per MiB of activations": values(rows, "activation_mib")}
    known = np.zeros(len(rows))
    for host in HOSTS:
        here = (hosts == host).astype(float)
        found[f"floor of {host}"] = here
        if host in MEASURED_RATES:
            known += MEASURED_RATES[host] * crossing * here
        else:
            found[f"ms per MiB to {host}"] = crossing * here
    return list(found), np.stack([np.asarray(c, float) for c in found.values()], axis=1), known


def features_of(row: dict[str, str]) -> LatencyFeatures:
    """What ``predict_latency`` is given of a published network."""
    mib = ("params_mib", "off_chip_mib", "activation_mib", "input_mib", "output_mib")
    gmac = ("std_gmac", "pointwise_gmac", "depthwise_gmac", "fc_gmac")
    number = {name: float(row[name] or 0) for name in (*mib, *gmac)}
    return LatencyFeatures(
        params_bytes=number["params_mib"] * 2**20,
        off_chip_bytes=number["off_chip_mib"] * 2**20,
        standard_macs=number["std_gmac"] * 1e9,
        pointwise_macs=number["pointwise_gmac"] * 1e9,
        depthwise_macs=number["depthwise_gmac"] * 1e9,
        linear_macs=number["fc_gmac"] * 1e9,
        activation_bytes=number["activation_mib"] * 2**20,
        input_bytes=number["input_mib"] * 2**20,
        output_bytes=number["output_mib"] * 2**20,
        layers=int(row["layers"]),
    )


def values(rows: list[dict[str, str]], name: str) -> Array:
    return np.array([float(row[name] or 0) for row in rows])


def fitted(matrix: Array, known: Array, times: Array, weights: Array) -> Array:
    """Constants from 0 that minimise the sum of relative errors, by reweighted least squares."""
    current = weights
    for _ in range(ROUNDS):
        scale = np.sqrt(current) / times
        constants, _ = nnls(matrix * scale[:, None], (times - known) * scale)
        errors = np.abs((matrix @ constants + known) / times - 1)
        current = weights / np.maximum(errors, SMALLEST_ERROR)
    return np.asarray(constants)


def differences(rows: list[dict[str, str]]) -> Array:
    """Measured over predicted differences of variants that differ in what streams."""
    found = []
    for one, other in combinations(rows, 2):
        same = all(one[key] == other[key] for key in ("host", "family"))
        streamed = float(one["off_chip_mib"]) - float(other["off_chip_mib"])
        if same and abs(streamed) >= LEAST_STREAMED:
            predicted = [predict_latency(features_of(row), row["host"]).ms for row in (one, other)]
            measured = float(one["ms"]) - float(other["ms"])
            found.append(measured / (predicted[0] - predicted[1]))
    return np.array(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    rows = rows_of(parser.parse_args().file)
    names, matrix, known = columns(rows)
    times = values(rows, "ms")
    hosts = np.array([row["host"] for row in rows])
    families = np.array([row["family"] for row in rows])
    # a family of many rows counts as the square root of as many networks
    alike = [np.sum((families == f) & (hosts == h)) for f, h in zip(families, hosts, strict=True)]
    weights = 1 / np.sqrt(np.array(alike, float))
    constants = fitted(matrix, known, times, weights)
    print(tabulate(zip(names, constants, strict=True), floatfmt=".3f"))
    predicted = np.zeros(len(rows))
    for family in sorted(set(families)):
        left_out = families == family
        rest = ~left_out
        part = fitted(matrix[rest], known[rest], times[rest], weights[rest])
        predicted[left_out] = matrix[left_out] @ part + known[left_out]
    stated = [predict_latency(features_of(row), row["host"]) for row in rows]
    factors = np.array([one.high / one.ms for one in stated])
    bounds = np.array([one.lower_bound_ms for one in stated])
    outside = (times > predicted * factors) | (times < np.maximum(predicted / factors, bounds))
    table = []
    for host in HOSTS:
        here = hosts == host
        errors = np.abs(predicted / times - 1)[here]
        figures = [np.median(errors), np.quantile(errors, 0.9), errors.max()]
        counts = outside[here].sum(), (times < bounds)[here].sum()
        table.append([host, len(errors), *(f"{figure:.1%}" for figure in figures), *counts])
    print(tabulate(table, headers=HEADERS))
    ratios = differences(rows)
    quantiles = ", ".join(f"{np.quantile(ratios, q):.2f}" for q in (0, 0.05, 0.5, 0.95, 1))
    print(f"differences, measured over predicted, {len(ratios)} pairs: {quantiles}")


if __name__ == "__main__":
    main()
