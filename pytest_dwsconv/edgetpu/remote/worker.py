"""Opens an Edge TPU and times a model on it.

It is sent to the host as text, with the modules it imports, and run there by ``loader``. It needs
Python 3.8 or newer, a TFLite runtime (pycoral, ai_edge_litert or tflite_runtime) and libedgetpu.
One process does one task. Standard input holds a line of JSON and then the model.
Standard output gets one JSON object per line: each phase as it begins, so that the reader knows
where a crash struck, and then ``result`` or ``fault``.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import platform
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_dwsconv.edgetpu.remote.devices import claim, opened, present
from pytest_dwsconv.edgetpu.remote.runtimes import (
    Fault,
    PlainRuntime,
    clock,
    loaded_library,
    pycoral,
    tflite,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    Say = Callable[[str], None]


def list_task(task: dict[str, Any], model: bytes, say: Say) -> dict[str, Any]:
    say("listing the devices")
    runtime = pycoral() or PlainRuntime()
    devices, positions = present(runtime, task["device"], task["waits"], expected=task["expected"])
    return {
        "devices": [devices[position] for position in positions],
        "library_version": runtime.version(),
    }


def cpu_task(task: dict[str, Any], model: bytes, say: Say) -> dict[str, Any]:
    say("loading the runtime")
    module, name = tflite()
    figures = timed(lambda: module.Interpreter(model_content=model), task, say)
    return {
        **figures,
        "device": "cpu",
        "runtime": name,
        "library": "",
        "library_version": "",
        "clock": "",
    }


def turns_task(task: dict[str, Any], model: bytes, say: Say) -> dict[str, Any]:
    """Time several models on the CPU in turns, every second round backwards.

    ``sizes`` are the bytes of each, ``threads`` those of the runtime, 0 for one per core. Rounds
    end after ``rounds``, or after ``seconds`` and 8 of them.
    """
    say("loading the runtime")
    module, name = tflite()
    cores = os.cpu_count() or 1
    threads = task["threads"] or cores
    interpreters: list[Any] = []
    try:
        for size in task["sizes"]:
            content, model = model[:size], model[size:]
            interpreter = module.Interpreter(model_content=content, num_threads=threads)
            interpreter.allocate_tensors()
            fill(interpreter)
            interpreters.append(interpreter)
        say("invoking the models for the first time")
        first = [invoke(interpreter) for interpreter in interpreters]
        say("invoking the models")
        turns: list[list[float]] = [[] for _ in interpreters]
        gc.disable()
        deadline = time.monotonic() + task["seconds"]
        places = list(range(len(interpreters)))
        for number in range(task["rounds"]):
            if number >= 8 and time.monotonic() > deadline:
                break
            for place in places[:: -1 if number % 2 else 1]:
                turns[place].append(invoke(interpreters[place]))
    except (RuntimeError, ValueError) as error:
        raise Fault("model", " ".join(str(error).split())) from error
    return {
        "first_invokes": first,
        "turns": turns,
        "runtime": name,
        "processor": processor(),
        "cores": cores,
        "threads": threads,
    }


def processor() -> str:
    """What the processor is called, where the system says so."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    for name in ("model name", "Model"):  # an ARM board says which board it is instead
        for line in lines:
            if line.partition(":")[0].strip() == name:
                return line.partition(":")[2].strip()
    return platform.machine()


def edgetpu_task(task: dict[str, Any], model: bytes, say: Say) -> dict[str, Any]:
    say("loading the runtime")
    runtime = pycoral() or PlainRuntime()
    name = runtime.load(checked=task["checked"])
    say("listing the devices")
    devices, positions = present(runtime, task["device"], task["waits"], expected=task["expected"])
    say("waiting for a free device")
    alarm(0)  # the wait has its own limit
    position, lock = claim(devices, positions, task["claim_limit"])
    alarm(task["limit"])
    say("opening the device")
    with lock:
        figures = timed(
            lambda: opened(
                lambda: runtime.interpreter(model, f":{position}"), devices[position], task["waits"]
            ),
            task,
            say,
        )
    library = loaded_library()
    return {
        **figures,
        "device": devices[position]["path"],
        "runtime": name,
        "library": library,
        "library_version": runtime.version(),
        "clock": clock(library),
    }


TASKS = {"list": list_task, "cpu": cpu_task, "turns": turns_task, "edgetpu": edgetpu_task}


def timed(make: Callable[[], Any], task: dict[str, Any], say: Say) -> dict[str, Any]:
    """Seconds of the first invoke, which uploads the parameters, and of those after the warm-up."""
    try:
        interpreter = make()
        interpreter.allocate_tensors()
        fill(interpreter)
    except (RuntimeError, ValueError) as error:
        kind = "version" if "requires runtime version" in str(error) else "model"
        raise Fault(kind, " ".join(str(error).split())) from error
    try:
        say("invoking the model for the first time")
        first = invoke(interpreter)
        say("invoking the model")
        gc.disable()
        seconds = [invoke(interpreter) for _ in range(task["warmup"] + task["runs"])]
    except RuntimeError as error:
        kind = "model" if task["task"] == "cpu" else "lost"
        raise Fault(kind, " ".join(str(error).split())) from error
    return {"first_invoke": first, "samples": seconds[task["warmup"] :]}


def fill(interpreter: Any) -> None:
    """Give every input random numbers, the same each time."""
    import numpy

    random = numpy.random.RandomState(0)
    for detail in interpreter.get_input_details():
        values = random.randint(0, 128, size=detail["shape"]).astype(detail["dtype"])
        interpreter.set_tensor(detail["index"], values)


def invoke(interpreter: Any) -> float:
    start = time.perf_counter()
    interpreter.invoke()
    return time.perf_counter() - start


# --------------------------------------------------------------------------- the process


def alarm(seconds: float) -> None:
    """Have the system end this process when the time is up, wherever it hangs; 0 cancels that."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)


def end_with_parent() -> None:
    """Have Linux end this process when its parent dies (PR_SET_PDEATHSIG is 1)."""
    if platform.system() == "Linux":
        ctypes.CDLL(None).prctl(1, int(signal.SIGKILL))


def machine() -> str:
    try:
        board = Path("/proc/device-tree/model").read_text().strip("\0\n ")
    except OSError:
        board = platform.machine()
    return f"{platform.node()}, {board}"


def main() -> None:
    end_with_parent()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print to standard output

    def say(**line: Any) -> None:
        answers.write(json.dumps(line) + "\n")
        answers.flush()

    task = json.loads(sys.stdin.buffer.readline())
    model = sys.stdin.buffer.read()
    alarm(task["limit"])
    try:
        result = TASKS[task["task"]](task, model, lambda phase: say(phase=phase))
    except Fault as fault:
        say(fault=fault.kind, detail=fault.detail)
    else:
        say(result={**result, "machine": machine(), "python": platform.python_version()})
