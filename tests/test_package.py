"""The shape of the package: light to import, names where they are said to be; the order of parts: see lint."""

import ast
import subprocess
import sys

import pytest
from helpers import ROOT

import smd_evo
from smd_evo import errors

ROOMS = ["", "folders", "finetune", "generations", "window", "compare", "protocol", "ensembles"]
"""Of the experiments; the first is what all share."""


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


def test_rooms_of_the_experiments_know_those_before_them_alone():
    for path in (ROOT / "smd_evo" / "experiments").rglob("*.py"):
        own = path.relative_to(ROOT / "smd_evo").with_suffix("").parts
        for module in imports(path):
            package, *layer = module.split(".")
            if package == "smd_evo" and layer[:1] == ["experiments"]:
                assert ROOMS.index(room(layer)) <= ROOMS.index(room(own)), f"{path} imports {module}"


def test_the_core_knows_torch_and_numpy_alone():
    for path in (ROOT / "smd_evo" / "core").rglob("*.py"):
        compiler = "numba" if path.stem.startswith("compiled") else "torch"
        compiler = "triton" if path.stem == "compiled_cuda" else compiler
        for module in imports(path):
            known = {*sys.stdlib_module_names, "torch", "numpy", "smd_evo", compiler}
            assert module.split(".")[0] in known, f"{path} imports {module}"


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


def test_no_validation_by_assert():
    """Asserts vanish under -O; the few there are tell the type checker what is known."""
    for path in (ROOT / "smd_evo").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Assert):
                text = ast.unparse(node.test)
                assert text.startswith("isinstance(") or text.endswith(" is not None"), f"{path}: assert {text}"
