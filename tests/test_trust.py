"""A run folder may come from anybody: none of its words is imported or contacted unless its user says so."""

import shutil
import sys

import pytest
import yaml
from cli_helpers import here, refused
from evolution_helpers import TINY, options

from smd_evo.early import check_resumed
from smd_evo.errors import InvalidValue
from smd_evo.experiments.finetune.files import is_finished, read_config, stored_config
from smd_evo.experiments.generations import files as evolution
from smd_evo.experiments.generations.verification import verify_history
from smd_evo.experiments.trust import check_trust, needs_trust
from smd_evo.zoo import also, models, sources

CODE = "code_of_somebody"
OWN_SETTINGS = {"model": "evolution_helpers:network", "data": "evolution_helpers:data"}
OWN = ["--model", "evolution_helpers:network", "--data", "evolution_helpers:data", "--device", "cpu"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of a single generation and one over three, of the tests' own functions."""
    folder = tmp_path_factory.mktemp("runs")
    brief = ["--fitness-samples", "60", "--validation-samples", "60", "--children", "6", "--sigma", "0.1"]
    for name, more in (
        ("one", ["--density", "0.2"]),
        ("many", options(TINY | {"generations": 3, "model": None, "data": None})),
    ):
        arguments = more if name == "many" else [*brief, *more]
        result = here("finetune", *OWN, *arguments, "--out", str(folder / name))
        assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture
def foreign(runs, tmp_path):
    """Copies of them whose settings name a module that can be found: in the current folder and in their own."""

    def copied(name, **settings):
        run = tmp_path / name
        shutil.copytree(runs / name, run)
        for folder in (tmp_path, run):
            (folder / f"{CODE}.py").write_text("from evolution_helpers import data, network\n")
        config = yaml.safe_load((run / "config.yaml").read_text())
        config |= settings or {"model": f"{CODE}:network", "data": f"{CODE}:data"}
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        return run

    sys.modules.pop(CODE, None)
    yield copied
    sys.modules.pop(CODE, None)


def unfinished(run):
    (run / "results.json").unlink()
    return run


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("one", ["verify"]),
        ("one", ["ensemble"]),
        ("one", ["export", "--out", "w.safetensors"]),
        ("many", ["verify"]),
        ("many", ["export", "--child", "soup", "--out", "w.safetensors"]),
        ("many", ["resume"]),
    ],
    ids=lambda part: part if isinstance(part, str) else part[0],
)
def test_a_folder_that_names_functions_is_refused_in_one_line_and_taken_with_trust(foreign, tmp_path, name, command):
    run = foreign(name)
    if command == ["resume"]:
        unfinished(run)
    arguments = [command[0], str(run), *command[1:]]
    result = here(*arguments, cwd=tmp_path)
    refused(result, f"model '{CODE}:network', data '{CODE}:data'", "--trust")
    assert CODE not in sys.modules
    result = here(*arguments, "--trust", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert sys.modules[CODE].__file__ == str(tmp_path / f"{CODE}.py")


def test_what_is_given_again_needs_no_trust(foreign, tmp_path):
    run = unfinished(foreign("many"))
    result = here("resume", str(run), "--model", f"{CODE}:network", cwd=tmp_path)
    refused(result, f"data '{CODE}:data'", "--trust")
    assert CODE not in sys.modules
    given = ["--model", f"{CODE}:network", "--data", f"{CODE}:data"]
    result = here("resume", str(run), *given, cwd=tmp_path)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("command", ["verify", "ensemble"])
def test_no_module_comes_from_the_run_itself(foreign, command):
    run = foreign("one")
    refused(here(command, ".", "--trust", cwd=run), "run: expected to be called from another folder than the run's")
    assert CODE not in sys.modules


def test_nor_by_pythons_path(foreign, tmp_path, monkeypatch):
    run = foreign("one")
    (tmp_path / f"{CODE}.py").unlink()
    monkeypatch.syspath_prepend(str(run))
    refused(here("verify", str(run), "--trust", cwd=tmp_path), "model: expected a module outside of the run's folder")
    assert CODE not in sys.modules


SERVERS = {"log": {"log": ["csv", "wandb"]}, "ray_address": {"ray_address": "10.0.0.1:6379", "actors": 2}}


@pytest.mark.parametrize(("name", "settings"), SERVERS.items(), ids=SERVERS)
def test_servers_are_not_contacted(foreign, name, settings):
    """Nor does verify, which needs none, want to be trusted with them."""
    run = foreign("many", **OWN_SETTINGS, **settings)
    named = {"log": "wandb", "ray_address": "10.0.0.1:6379"}[name]
    with pytest.raises(InvalidValue, match=f"{name} '{named}'; if it is yours"):
        check_resumed(run, OWN_SETTINGS, trust=False)
    check_resumed(run, {**OWN_SETTINGS, **settings}, trust=False)
    check_resumed(run, {}, trust=True)
    with pytest.raises(InvalidValue, match="model 'evolution_helpers:network', data 'evolution_helpers:data'; if it"):
        verify_history(run)


def test_what_only_reads_a_folder_imports_nothing(foreign, tmp_path):
    run = foreign("one")
    assert here("report", str(run), cwd=tmp_path).returncode == 0
    config = stored_config(run)
    assert is_finished(run, config)
    many = foreign("many")
    assert here("report", str(many), cwd=tmp_path).returncode == 0
    refused(here("report", str(unfinished(many)), cwd=tmp_path), f"smd-evo resume {many} --trust goes on with it")
    assert CODE not in sys.modules


def test_the_functions_behind_the_commands_trust_nothing_either(foreign):
    run = foreign("one")
    with pytest.raises(InvalidValue, match=CODE):
        read_config(run)
    assert read_config(run, trust=True).model == f"{CODE}:network"
    with pytest.raises(InvalidValue, match=CODE):
        evolution.resume(unfinished(foreign("many")), {})


@pytest.mark.parametrize(
    "name",
    [
        *("demo-cnn", "timm:resnet18", "timm:", "torchvision:resnet18", "cifar-resnet20", "os:system", "timm.data:x"),
        *("a.b:c", "demo-cnn:x", "timm :x", "TIMM:x", ":x", "x:", "digits", "imagenet:x", "imagefolder:x"),
        "cifar10:x",
    ],
)
def test_names_need_trust_exactly_where_something_would_be_imported(name, monkeypatch):
    """Whatever leads to :func:`smd_evo.zoo.names.user_object` is among what needs trust."""
    asked = []

    def noted(what, name, known):
        asked.append(what)
        raise InvalidValue("stop")

    for module in (models, sources):
        monkeypatch.setattr(module, "user_object", noted)
    for what, use in (
        ("model", lambda: models.build_model(name, 3, "nowhere")),
        ("data", lambda: sources.open_source(name)),
        ("also", lambda: also.open_also(name, "imagefolder:x", ("a", "b"), None)),
    ):
        asked.clear()
        with pytest.raises(InvalidValue):
            use()
        assert not asked or what in needs_trust({what: name})


def test_looking_for_a_module_does_not_import_its_package(tmp_path, monkeypatch):
    package = tmp_path / "package_of_somebody"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    check_trust(tmp_path / "run", {"model": "package_of_somebody.inner:make"}, {}, trust=True)
    assert "package_of_somebody" not in sys.modules
