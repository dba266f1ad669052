"""Runs pytest again and again, each time in a fork of a process that has loaded what is heavy.

It reads jobs from its input, a line each: ``[directory, file for the output, arguments]``, and
answers each with the exit status.
"""

import gc
import json
import os
import sys
from pathlib import Path
from typing import NoReturn

import hypothesis  # noqa: F401  # its plugin would
import pytest
import transformers.models.bert.modeling_bert
import transformers.models.llama.modeling_llama
import transformers.models.t5.modeling_t5  # noqa: F401

import pytest_compression.models.loading
import pytest_compression.plugin
import pytest_compression.protocol
import pytest_compression.scoring.cloze  # noqa: F401


def run(folder: str, said: str, arguments: list[str]) -> NoReturn:
    """Do a job in this process, which ends with it."""
    with Path(os.devnull).open("rb") as nothing, Path(said).open("wb") as file:
        os.dup2(nothing.fileno(), 0)
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(folder)
    # What is loaded already cannot be rewritten, and has no asserts of tests.
    sys.exit(pytest.main(["--assert=plain", *arguments]))


if __name__ == "__main__":
    gc.freeze()  # forks need not look at what was loaded here
    for line in sys.stdin:
        if not (child := os.fork()):
            run(*json.loads(line))
        sys.stdout.write(f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n")
        sys.stdout.flush()
