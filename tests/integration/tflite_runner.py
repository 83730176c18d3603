"""Run a ``.tflite`` file on this Python's TFLite runtime: MODEL INPUTS.npy OUTPUTS.npy KERNELS.

A script of its own, for child processes; it runs on Python 3.8 and newer.
"""

from __future__ import annotations

import sys

import numpy as np

try:
    from ai_edge_litert import interpreter as runtime
except ImportError:
    from tflite_runtime import interpreter as runtime


def main(model: str, inputs: str, outputs: str, kernels: str) -> None:
    resolver = getattr(runtime.OpResolverType, kernels)
    interpreter = runtime.Interpreter(
        model_path=model, experimental_op_resolver_type=resolver, num_threads=1
    )
    interpreter.allocate_tensors()
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
    results = []
    for image in np.load(inputs):
        interpreter.set_tensor(source["index"], image[None])
        interpreter.invoke()
        results.append(interpreter.get_tensor(target["index"])[0])
    np.save(outputs, np.stack(results))


if __name__ == "__main__":
    main(*sys.argv[1:])
