"""What may import what, and what an ordinary pytest run must never load."""

import ast
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pytest_compression

PACKAGE = Path(pytest_compression.__file__).parent
MODULES = {
    path.relative_to(PACKAGE).with_suffix("").as_posix().removesuffix("/__init__"): path
    for path in PACKAGE.rglob("*.py")
}
"""By path inside the package, such as ``gate/verdict``."""

# Each part may import the parts it names, and those of its own directory.
GROUND = {"errors", "types", "fingerprints", "option_errors"}
LIGHT = {
    "__init__": set[str](),
    "errors": set(),
    "types": {"errors"},
    "fingerprints": {"errors", "types"},
    "option_errors": {"errors"},
    "lm_eval_registration": set(),
    "document": GROUND,
    "gate": GROUND,
    "store": GROUND,
    "registry": GROUND,
    "settings": GROUND,
    "suite": GROUND | {"document", "registry"},
    "familywise": GROUND | {"gate"},
    "conclusion": GROUND | {"__init__", "familywise"},
    "references": GROUND | {"gate", "store", "settings"},
    "examination": GROUND | {"gate", "store", "references"},
    "acceptance": GROUND | {"gate", "store", "settings", "references", "examination"},
    "calibration": GROUND | {"gate", "store", "examination"},
    "early_stop": GROUND | {"gate", "references"},
    "report": GROUND
    | {"registry", "gate", "store", "settings", "suite", "familywise", "conclusion", "examination"},
    "leakage": GROUND,
    "outcomes": GROUND,
    "contract_item": GROUND | {"registry", "suite", "report", "outcomes"},
    "export": GROUND | {"registry", "suite", "leakage"},
    "nodes": GROUND
    | {"registry", "settings", "suite", "familywise", "conclusion", "references", "examination"}
    | {"contract_item", "leakage", "outcomes"}
    | {"acceptance", "calibration", "early_stop", "report", "store"},
    "protocol": {"conclusion", "nodes"},
    "selection": {"fingerprints", "settings", "suite", "conclusion", "contract_item", "nodes"},
    "plugin": {"settings", "conclusion", "nodes", "protocol", "selection", "report"},
    "cli": GROUND | {"report", "export", "lm_eval_registration"},
}
HEAVY = {
    "kernels": set[str](),
    "modifiers": GROUND | {"kernels", "models", "embedded/batches", "embedded/facts"},
    "models": GROUND | {"kernels"},
    "scoring": GROUND | {"models"},
    "benchmarks": GROUND | {"scoring", "models", "embedded/facts"},
    "testing": GROUND | {"kernels", "models"},
    "embedded": GROUND | {"kernels", "models", "modifiers", "scoring", "benchmarks"},
}
RULES = LIGHT | HEAVY
KERNELS = {"torch", "math", "collections", "dataclasses", "functools", "itertools", "sys", "typing"}
UNWANTED = (
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "lm_eval",
    "numpy",
    "scipy",
    "pandas",
)


def part(module: str) -> str:
    """The part of the package that a module belongs to."""
    return (module or "__init__").partition("/")[0]


def imported(path: Path) -> Iterator[str]:
    """Dotted names that a module imports anywhere, also inside functions and for types only."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            module = node.module or ""
            names = (f"{module}.{alias.name}" for alias in node.names)
            yield from (names if is_package(module) else (module,))


def is_package(dotted: str) -> bool:
    """Whether names imported from it may be modules of ours."""
    inside = dotted.removeprefix("pytest_compression").lstrip(".").replace(".", "/")
    return dotted.startswith("pytest_compression") and (PACKAGE / inside).is_dir()


def own(path: Path) -> Iterator[str]:
    """Modules of the package that a module imports, as paths inside it."""
    for name in imported(path):
        if name.partition(".")[0] == "pytest_compression":
            inside = name.removeprefix("pytest_compression").lstrip(".").replace(".", "/")
            yield inside if inside in MODULES else inside.rpartition("/")[0] or "__init__"


def test_every_module_has_a_rule() -> None:
    assert {part(module) for module in MODULES} == RULES.keys()


@pytest.mark.parametrize("module", sorted(MODULES), ids=lambda module: module or "__init__")
def test_imports_go_one_way(module: str) -> None:
    mine = part(module)
    for target in own(MODULES[module]):
        allowed = part(target) == mine or any(
            target == rule or target.startswith(f"{rule}/") for rule in RULES[mine]
        )
        assert allowed, f"{module} imports {target}"


def test_the_rules_have_no_circle_through_the_light_half() -> None:
    order = list(LIGHT)
    for name, targets in LIGHT.items():
        assert all(order.index(target) < order.index(name) for target in targets)
        assert not targets & HEAVY.keys()
    for targets in HEAVY.values():
        assert not targets & (LIGHT.keys() - GROUND)


def test_light_code_names_no_heavy_module_not_even_in_a_string() -> None:
    names = {f"pytest_compression.{name}" for name in HEAVY} | {"torch", "transformers"}
    for module, path in MODULES.items():
        if part(module) in LIGHT:
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    assert node.value not in names, f"{module}:{node.lineno}"
            assert not {name.partition(".")[0] for name in imported(path)} & {
                "torch",
                "transformers",
            }


def test_kernels_know_torch_and_arithmetic_only() -> None:
    for module, path in MODULES.items():
        if part(module) == "kernels":
            for name in imported(path):
                assert name.split(".")[0] in KERNELS or name.startswith(
                    "pytest_compression.kernels"
                )


SPY = """\
import sys

def pytest_unconfigure():
    print("LOADED", *sorted(name for name in {unwanted!r} if name in sys.modules))
"""


def run(path: Path, *args: str) -> str:
    """Run pytest in a process of its own; its output, with what it had loaded at the end."""
    (path / "spy.py").write_text(SPY.format(unwanted=UNWANTED), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-p", "spy", *args]
    env = dict(os.environ)
    # As for users: without its cache, pytest rewrites the asserts of all plugins in each run.
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    env["PYTHONPYCACHEPREFIX"] = str(path / "pycache")
    done = subprocess.run(  # noqa: S603  # our own command
        command, cwd=path, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_help_and_an_ordinary_run_load_nothing_heavy_and_nothing_of_ours(tmp_path: Path) -> None:
    (tmp_path / "test_plain.py").write_text(
        "import sys\n\n\ndef test_plain():\n"
        "    ours = {name for name in sys.modules if name.startswith('pytest_compression')}\n"
        "    assert ours == {'pytest_compression', 'pytest_compression.plugin',\n"
        "                    'pytest_compression.settings'}\n"
        "    assert not {'numpy', 'rich', 'msgspec', 'yaml'} & set(sys.modules)\n",
        encoding="utf-8",
    )
    assert run(tmp_path, "-p", "no:hypothesispytest").rstrip().endswith("LOADED")
    said = run(tmp_path, "--help")
    assert "--compress-suite" in said
    assert said.rstrip().endswith("LOADED")


THOUSAND = """\
version: 1
models:
  decoder: {use: embedded, family: causal}
  encoder: {use: embedded, family: masked}
  encoder-decoder: {use: embedded, family: seq2seq}
  hub: {path: someone/some-model}
recipes:
  quantized: {use: rtn, sweep: {bits: [2, 3, 4, 5, 6, 7, 8], targets: [all, attention]}}
  pruned: {use: magnitude, sweep: {sparsity: [0.1, 0.2, 0.3, 0.4, 0.5], scope: [global, layer]}}
benchmarks:
  facts: {use: worldfacts}
  open: {use: worldfacts, metric: "P@1"}
  again: {use: worldfacts, phrasing: 1}
  capitals: {use: worldfacts, relations: [capital]}
  currencies: {use: worldfacts, relations: [currency]}
  symbols: {use: worldfacts, relations: [symbol]}
  few: {use: worldfacts, limit: 10}
  other: {use: worldfacts, limit: 10, seed: 1}
  cities: {use: worldfacts, relations: [city-country]}
  languages: {use: worldfacts, relations: [language]}
"""


def test_collecting_1000_trials_loads_nothing_heavy_and_takes_under_2_seconds(
    tmp_path: Path,
) -> None:
    (tmp_path / "suites").mkdir()
    (tmp_path / "suites" / "x.yaml").write_text(THOUSAND, encoding="utf-8")
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        said = run(tmp_path, "--compress-suite", "--collect-only", "-q")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        # Processor time: the machine may be busy with something else.
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        if seconds[-1] < 2:
            break
    assert said.rstrip().endswith("LOADED")
    assert said.count("suites/x.yaml::") == 4 * 25 * 10 + 1  # the pooled test
    assert min(seconds) < 2
