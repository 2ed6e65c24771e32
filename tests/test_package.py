"""The shape of the package: light to import, imports one way, names where they are said to be."""

import ast
import subprocess
import sys

import pytest
from helpers import ROOT

import smd_evo
from smd_evo import errors

# From the ground up; an import never points down this list.
LAYERS = [
    "errors",
    "mends",
    "documents",
    "atomic",
    "interrupts",
    "markup",
    "core",
    "evaluation",
    "ensemble",
    "integrations",
    "zoo",
    "statistics",
    "controls",
    "experiments",
    "early",
    "report",
    "streams",
    "console",
    "terminal",
    "bar",
    "api",
    "commands",
    "cli",
    "__main__",
]
CORE = [
    "blocks",
    "exclusive",
    "keys",
    "exact",
    "compiled_tools",
    "compiled_patches",
    "compiled",
    "compiled_cuda",
    "few",
    "fast",
    "layout",
    "noise",
    "subspace",
    "vector",
    "structured",
    "lowrank",
    "within",
    "units",
    "specs",
    "wrapped",
    "integers",
    "delta",
    "mutation",
    "rows",
    "vectors",
    "gradient",
    "credit",
    "newton",
    "optimizers",
    "selection",
    "supported",
    "memory",
    "patches",
    "elements",
    "applying",
    "twins",
    "parameters",
    "feedback",
    "checksum",
]
ROOMS = ["", "folders", "finetune", "generations", "window", "compare", "protocol", "ensembles"]
"""Of the experiments; the first is what all share."""
SOURCES = sorted((ROOT / "smd_evo").rglob("*.py"))


def imports(path):
    """Modules that a file imports, at any depth, also under TYPE_CHECKING."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def room(parts):
    """The folder of an experiment that a module lies in, if it does."""
    return parts[1] if (ROOT / "smd_evo" / "experiments" / "/".join(parts[1:2])).is_dir() and parts[1:] else ""


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path):
    own = path.relative_to(ROOT / "smd_evo").with_suffix("").parts
    if own == ("__init__",):
        return
    for module in imports(path):
        package, _, rest = module.partition(".")
        if package == "smd_evo" and rest and rest.split(".")[0] in LAYERS:
            layer = rest.split(".")
            assert LAYERS.index(layer[0]) <= LAYERS.index(own[0]), f"{path} imports {module}"
            if layer[0] == own[0] == "core" and len(layer) > 1 and layer[1] in CORE:
                assert CORE.index(layer[1]) < CORE.index(own[1]), f"{path} imports {module}"
            if layer[0] == own[0] == "experiments":
                assert ROOMS.index(room(layer)) <= ROOMS.index(room(own)), f"{path} imports {module}"
        elif own[0] == "core":
            compiler = {
                "compiled": "numba",
                "compiled_patches": "numba",
                "compiled_cuda": "triton",
                "compiled_tools": "numba",
            }.get(own[1])
            allowed = {"torch", "numpy", "smd_evo", compiler}
            assert package in {*sys.stdlib_module_names, *allowed}, f"the core imports {module}"


def test_importing_the_package_loads_nothing_heavy():
    heavy = ["torch", "numpy", "evotorch", "deap", "timm", "ray", "matplotlib", "sklearn", "scipy", "numba", "triton"]
    code = f"import sys, smd_evo; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_evaluating_children_loads_no_host_and_no_compiler():
    heavy = [
        "evotorch",
        "deap",
        "timm",
        "ray",
        "matplotlib",
        "sklearn",
        "scipy",
        "torchvision",
        "numba",
        "triton",
        "torch._dynamo",
    ]
    code = f"""import sys, torch
from smd_evo import Evaluator, Lineage
samples = torch.ones(9, 2), torch.zeros(9, dtype=torch.int64)
Evaluator(torch.nn.Linear(2, 3), samples).evaluate([Lineage()])
print([name for name in {heavy} if name in sys.modules])"""
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_every_public_name_is_there_for_users_and_type_checkers():
    source = (ROOT / "smd_evo" / "__init__.py").read_text()
    for name, home in smd_evo._HOMES.items():
        assert getattr(smd_evo, name).__name__ == name
        assert f"from {home} import {name} as {name}\n" in source
    assert source.count(" as ") == len(smd_evo._HOMES)
    assert set(smd_evo._HOMES) <= set(dir(smd_evo))
    with pytest.raises(AttributeError, match="no attribute 'Evaluater'"):
        _ = smd_evo.Evaluater


@pytest.mark.parametrize("name", [name for name in errors.__all__ if name != "SmdEvoError"])
def test_each_error_is_also_the_built_in_that_it_refines(name):
    kind = getattr(errors, name)
    assert issubclass(kind, errors.SmdEvoError)
    builtins = ValueError | TypeError | RuntimeError | FileExistsError | ConnectionError | MemoryError
    assert issubclass(kind, builtins)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_validation_by_assert(path):
    """Asserts vanish under -O; the few there are tell the type checker what is known."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Assert):
            text = ast.unparse(node.test)
            assert text.startswith("isinstance(") or text.endswith(" is not None"), f"{path}: assert {text}"
