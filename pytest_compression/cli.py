"""``pytest-compression``: judge and show stored results, export variants, run lm-eval."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from pytest_compression.errors import CompressionError
from pytest_compression.types import Gate

RED, USAGE = 1, 2
LM_EVAL = "lm-eval"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 0 if all is green, 1 if something is red, 2 if nothing could be judged."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == [LM_EVAL]:
        return lm_eval(given[1:])
    parser = argparse.ArgumentParser(prog="pytest-compression", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add_compare(commands.add_parser("compare", help="judge one baseline file against another"))
    add_merge(commands.add_parser("merge", help="judge the reports of all shards as one run"))
    add_export(commands.add_parser("export", help="write a variant, and prove that it is the same"))
    add_table(commands.add_parser("table", help="what the recipes of suites were accepted with"))
    commands.add_parser(LM_EVAL, help="lm-eval, which then knows --model pytest-compression")
    chosen = parser.parse_args(given)
    try:
        lines, red = chosen.run(chosen)
    except CompressionError as error:
        print(f"pytest-compression {chosen.command}: {error}", file=sys.stderr)  # noqa: T201
        return USAGE
    print("\n".join(lines))  # noqa: T201
    return RED if red else 0


def run() -> NoReturn:
    """The installed command."""
    sys.exit(main())


def add_compare(parser: argparse.ArgumentParser) -> None:
    """Declare ``compare``."""
    parser.add_argument("accepted", type=Path, metavar="A.json", help="the accepted one")
    parser.add_argument("now", type=Path, metavar="B.json", help="the one to judge")
    parser.add_argument("--hardware", help="which record of each file (default: its fallback)")
    for name in ("min_retention", "margin", "alpha", "max_forgotten"):
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=level if name == "alpha" else share,
            metavar="SHARE",
            help=f"in place of B's own (usually {getattr(Gate(), name)})",
        )
    parser.add_argument("--assurance", choices=("point", "proven"), help="in place of B's own")
    parser.set_defaults(run=compare)


def add_merge(parser: argparse.ArgumentParser) -> None:
    """Declare ``merge``."""
    parser.add_argument(
        "reports", type=Path, nargs="+", metavar="REPORT.json", help="of --compress-report"
    )
    parser.set_defaults(run=merge)


def add_export(parser: argparse.ArgumentParser) -> None:
    """Declare ``export``."""
    parser.add_argument("suite", type=Path, metavar="SUITE.yaml")
    parser.add_argument("--variant", required=True, metavar="MODEL/RECIPE")
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="a new directory")
    parser.add_argument(
        "--benchmark",
        action="append",
        default=[],
        metavar="NAME",
        help="ask its questions to prove it (default: those of all)",
    )
    parser.set_defaults(run=export)


def add_table(parser: argparse.ArgumentParser) -> None:
    """Declare ``table``."""
    parser.add_argument("suites", type=Path, nargs="+", metavar="SUITE.yaml")
    parser.add_argument(
        "--baselines", type=Path, default=Path("baselines"), metavar="DIR", help="(baselines)"
    )
    parser.add_argument(
        "--write", type=Path, metavar="FILE.md", help="into a file, between its two marks"
    )
    parser.set_defaults(run=table)


def share(text: str) -> float:
    """A number from 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        message = f"{text} is not in [0, 1]"
        raise argparse.ArgumentTypeError(message)
    return value


def level(text: str) -> float:
    """A number between 0 and 0.5."""
    value = float(text)
    if not 0 < value < 0.5:
        message = f"{text} is not in (0, 0.5)"
        raise argparse.ArgumentTypeError(message)
    return value


def compare(chosen: argparse.Namespace) -> tuple[list[str], bool]:
    """Judge one baseline file against another."""
    from pytest_compression.report import comparison

    names = ("min_retention", "margin", "alpha", "max_forgotten", "assurance")
    asked = {name: value for name in names if (value := getattr(chosen, name)) is not None}
    return comparison.compare(chosen.accepted, chosen.now, chosen.hardware, asked)


def merge(chosen: argparse.Namespace) -> tuple[list[str], bool]:
    """Judge the reports of all shards as one run."""
    from pytest_compression.report import shards

    return shards.merge(chosen.reports)


def export(chosen: argparse.Namespace) -> tuple[list[str], bool]:
    """Write a variant of a suite, and prove that every question scores the same."""
    from pytest_compression.export import export

    return export(chosen.suite, chosen.variant, chosen.to, chosen.benchmark)


def table(chosen: argparse.Namespace) -> tuple[list[str], bool]:
    """Make a table of recipes, in Markdown."""
    from pytest_compression.report import recipes

    return list(recipes.lines(chosen.suites, chosen.baselines, chosen.write)), False


def lm_eval(arguments: Sequence[str]) -> int:
    """Run lm-eval's own command with all arguments; our errors are told in a sentence."""
    from pytest_compression.lm_eval_registration import register

    try:
        import lm_eval.models  # noqa: F401  # makes its own classes known first
        from lm_eval.__main__ import cli_evaluate

        register()
    except ImportError as error:
        message = f"it needs a package ({error}): pip install 'pytest-compression[lm-eval]'."
        print(f"pytest-compression {LM_EVAL}: {message}", file=sys.stderr)  # noqa: T201
        return USAGE
    before = sys.argv
    sys.argv = [LM_EVAL, *arguments]
    try:
        cli_evaluate()
    except CompressionError as error:
        print(f"pytest-compression {LM_EVAL}: {error}", file=sys.stderr)  # noqa: T201
        return USAGE
    finally:
        sys.argv = before
    return 0
