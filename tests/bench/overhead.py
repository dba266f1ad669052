"""How long a trial of the embedded suite takes beyond the model's own arithmetic.

    python tests/bench/overhead.py [--trial decoder/int4::countries]

Runs the trial three times in this process, so that the last is warm, with nothing answered from a
cache, and prints the seconds of its setup and call (compressing, asking, judging), the seconds
spent inside the model, and what is left.
"""

import argparse
import time
from typing import Any

import pytest
from transformers import BertForMaskedLM, LlamaForCausalLM, T5ForConditionalGeneration

CLASSES = (BertForMaskedLM, LlamaForCausalLM, T5ForConditionalGeneration)

UNASKED = "ignore::pytest.PytestAssertRewriteWarning"
"""What pytest says of plug-ins that were imported before it."""


class Watch:
    """Adds up the time of a run's trials, and of all passes through its models."""

    def __init__(self) -> None:
        self.trials = self.model = 0.0
        self.verdict = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Of a trial: its setup holds the variant's."""
        self.trials += report.duration
        if report.when == "call":
            self.verdict = report.outcome

    def around(self, forward: Any) -> Any:
        """A forward method whose time is counted."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            begun = time.perf_counter()
            try:
                return forward(*args, **kwargs)
            finally:
                self.model += time.perf_counter() - begun

        return timed


def run(trial: str) -> Watch:
    """Run one trial, watched."""
    watch = Watch()
    with pytest.MonkeyPatch.context() as patch:
        for one in CLASSES:
            patch.setattr(one, "forward", watch.around(one.forward))
        quiet = ["-q", "-q", "--no-header", "--no-summary", "-p", "no:cacheprovider"]
        chosen = f"suites/embedded.yaml::{trial}"
        pytest.main(
            [*quiet, "-W", UNASKED, "--compress-suite", "--compress-cache=off", chosen],
            plugins=[watch],
        )
    return watch


def main() -> None:
    """Run it until it is warm, and print the last."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trial", default="decoder/int4::countries")
    trial = parser.parse_args().trial
    for _ in range(2):
        run(trial)
    warm = run(trial)
    print(
        f"\n{trial}: {warm.verdict}, {warm.trials:.2f} s, of which the model {warm.model:.2f} s: "
        f"{warm.trials - warm.model:.2f} s beyond its arithmetic"
    )


if __name__ == "__main__":
    main()
