"""A stand-in for ``edgetpu_compiler`` that replays what the compiler prints."""

from __future__ import annotations

import json
import stat
import sys
from pathlib import Path
from typing import Any

SUCCESS = """\
Edge TPU Compiler version 16.0.384591198
Started a compilation timeout timer of 180 seconds.

Model compiled successfully in 1524 ms.

Input model: model.tflite
Input size: 4.24MiB
Output model: model_edgetpu.tflite
Output size: 5.57MiB
On-chip memory used for caching model parameters: 4.21MiB
On-chip memory remaining for caching model parameters: 3.29MiB
Off-chip memory used for streaming uncached model parameters: 0.00B
Number of Edge TPU subgraphs: 1
Total number of operations: 31
Operation log: model_edgetpu.log
See the operation log file for individual operation details.

Operator                       Count      Status

CONV_2D                        15         Mapped to Edge TPU
DEPTHWISE_CONV_2D              13         Mapped to Edge TPU
AVERAGE_POOL_2D                1          Mapped to Edge TPU
RESHAPE                        1          Mapped to Edge TPU
SOFTMAX                        1          Mapped to Edge TPU
Compilation child process completed within timeout period.
Compilation succeeded! 
"""  # noqa: W291  # as printed

STAND_IN = """\
#!{python}
import json, os, pathlib, signal, subprocess, sys, time
here = pathlib.Path(__file__).parent
plan = json.loads((here / "plan.json").read_text())
record = here / "seen.json"
runs = json.loads(record.read_text())["runs"] if record.exists() else 0
seen = {{"arguments": sys.argv[1:], "folder": os.getcwd(), "files": os.listdir(), "runs": runs + 1}}
record.write_text(json.dumps(seen))
print(plan["prints"], end="", flush=True)
for name in plan["writes"]:
    pathlib.Path(name).write_bytes((here / "compiled.tflite").read_bytes())
if plan["sleeps"]:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    (here / "child").write_text(str(child.pid))
    time.sleep(60)
if plan["signal"]:
    os.kill(os.getpid(), plan["signal"])
sys.exit(plan["status"])
"""


class CompilerStandIn:
    """A program that does as it is told: prints, writes the compiled file, hangs, dies."""

    def __init__(self, folder: Path, compiled: bytes) -> None:
        self.folder, self.program = folder, folder / "edgetpu_compiler"
        self.program.write_text(STAND_IN.format(python=sys.executable))
        self.program.chmod(self.program.stat().st_mode | stat.S_IXUSR)
        (folder / "compiled.tflite").write_bytes(compiled)
        self.does()

    def does(self, prints: str = SUCCESS, **more: Any) -> None:
        usual = {"writes": ["model_edgetpu.tflite"], "sleeps": False, "signal": 0, "status": 0}
        plan = {"prints": prints, **usual, **more}
        (self.folder / "plan.json").write_text(json.dumps(plan))

    @property
    def seen(self) -> dict[str, Any]:
        seen: dict[str, Any] = json.loads((self.folder / "seen.json").read_text())
        return seen
