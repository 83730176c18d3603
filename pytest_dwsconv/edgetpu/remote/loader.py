"""Makes the modules of the worker from their text, and starts it. Sent to the host as text.

Standard input begins with a line of JSON: the text of each module by its name, those first that
others import. What follows is the worker's. No file is written on the host.
"""

import sys

sys.path[:] = [folder for folder in sys.path if folder]  # take nothing from where this starts

import json  # noqa: E402
from types import ModuleType  # noqa: E402

if __name__ == "__main__":
    for name, text in json.loads(sys.stdin.buffer.readline()).items():
        sys.modules[name] = ModuleType(name)
        exec(compile(text, name, "exec"), vars(sys.modules[name]))
    # it is the one made above, also where another version of this package is installed
    from pytest_dwsconv.edgetpu.remote.worker import main

    main()
