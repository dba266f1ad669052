"""Whether a step is light to import: suites read its options at collection, without torch."""

import os
import subprocess
import sys

from pytest_compression.testing.properties import ContractError, require

HEAVY = ("torch", "transformers")

SCRIPT = """\
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
    print(name, *(heavy for heavy in {heavy!r} if heavy in sys.modules), sep=",")
"""


def check_light(*kinds: type) -> None:
    """Import the modules of steps in a fresh interpreter, and see what comes with them.

    Raises:
        ContractError: one cannot be imported, or it loads torch or transformers.
    """
    modules = list(dict.fromkeys(kind.__module__ for kind in kinds))
    done = subprocess.run(  # noqa: S603  # our own script
        [sys.executable, "-c", SCRIPT.format(heavy=HEAVY), *modules],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line.split(",") for line in done.stdout.splitlines()]
    found = [line for line in lines if line[0] in modules]  # a module may print something, too
    for module, *loaded in found:
        require(
            not loaded,
            f"importing '{module}' loads {' and '.join(loaded)}, and it is imported whenever a "
            "suite is collected: import them inside apply().",
        )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["nothing is said"])[-1]
        message = f"the module '{modules[len(found)]}' cannot be imported by itself: {last}."
        raise ContractError(message)
