"""Whatever files hold: reading them gives an object or one line, runs no code and takes no memory.

Valid small files of each kind are changed by chance, always the same: `random.Random` of fixed seeds.
"""

import json
import random
import re
import warnings

import pytest
import torch
import yaml
from compare_helpers import compare_result, compare_results
from helpers import SmallNet, same_bits, state_bits
from junk_helpers import CODE, ODD, changed, changed_bytes, changed_safetensors, little_memory, settled
from report_helpers import CONFIG as CONFIG_OF_ONE
from report_helpers import WINDOW, ensemble_results, finetune_results, window_results, write_protocol, write_run
from test_report_evolution import CONFIG, lines, results

from smd_evo import (
    Evaluator,
    Layout,
    Lineage,
    ParameterSpace,
    RandomSubspace,
    SparseEnsemble,
    sample_mutations,
)
from smd_evo.core.rows import decode_rows, encode_rows
from smd_evo.ensemble.files import load_children, save_children
from smd_evo.errors import InvalidValue, SmdEvoError
from smd_evo.experiments.compare.run import Job, Point, Run, Score, settings_of
from smd_evo.experiments.compare.runs import file_of, store_run, stored_run
from smd_evo.experiments.compare.settings import CompareConfig
from smd_evo.experiments.ensembles.run import choose
from smd_evo.experiments.finetune.settings import FinetuneConfig
from smd_evo.experiments.generations import checkpoints
from smd_evo.experiments.generations.checkpoints import newest, write_checkpoint
from smd_evo.experiments.generations.identity import read_identity
from smd_evo.experiments.generations.metrics import read_metrics
from smd_evo.experiments.generations.settings import EvolutionConfig
from smd_evo.experiments.protocol.files import write_summary
from smd_evo.experiments.settings import load_settings
from smd_evo.experiments.shortlists import Shortlist, load_shortlists, save_shortlists
from smd_evo.experiments.window.settings import WindowConfig
from smd_evo.report.page import render_page
from smd_evo.report.records import read_record

CONFIGS = (FinetuneConfig, EvolutionConfig, WindowConfig, CompareConfig)


@pytest.fixture(autouse=True)
def guarded(tmp_path_factory, monkeypatch):
    """A module that nothing may import can be found, and memory is short."""
    folder = tmp_path_factory.mktemp("code")
    (folder / f"{CODE}.py").write_text("def make(*_):\n    return 1\n")
    monkeypatch.syspath_prepend(str(folder))
    with little_memory():
        yield


@pytest.mark.parametrize("kind", CONFIGS, ids=lambda kind: kind.__name__)
def test_settings_files_of_changed_bytes(tmp_path, kind):
    chance, file = random.Random(1), tmp_path / "config.yaml"
    valid = yaml.safe_dump(kind().as_dict()).encode()
    taken = 0
    for _ in range(120):
        file.write_bytes(changed_bytes(chance, valid))
        taken += isinstance(settled(lambda: kind.read(load_settings(file))), kind)
    assert 0 < taken < 120  # a seed that became another, say; most are seen


@pytest.mark.parametrize("kind", CONFIGS, ids=lambda kind: kind.__name__)
def test_settings_of_any_value(kind):
    chance = random.Random(2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in kind().as_dict():
            for value in (*ODD, [[0.1]], [0.1, [0.2]], 10**5000, "9" * 5000, b"bytes"):
                settled(kind.read, {**kind().as_dict(), name: value})
    for _ in range(100):
        settled(kind.read, changed(chance, kind().as_dict()))


def evolution_folder(folder):
    metrics = lines()
    write_run(folder, results(len(metrics)), CONFIG.as_dict())
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics))
    return folder


RECORDS = {
    "finetune": lambda folder: (
        write_run(write_run(folder, finetune_results()) / "ensemble-a", ensemble_results(), None).parent
    ),
    "window": lambda folder: write_run(folder, window_results(), WINDOW),
    "protocol": write_protocol,
    "compare": lambda folder: write_run(folder, compare_results(compare_result()), compare_result().config.as_dict()),
    "evolution": evolution_folder,
}


@pytest.mark.parametrize("kind", RECORDS)
def test_run_folders_of_reports(tmp_path, kind):
    chance, folder = random.Random(3), RECORDS[kind](tmp_path / "run")
    files = sorted(path for path in folder.rglob("*") if path.suffix in (".json", ".jsonl", ".yaml", ".png"))
    shown = 0
    for number in range(60):
        file = files[number % len(files)]
        before = file.read_bytes()
        if file.suffix == ".json" and chance.random() < 0.7:
            file.write_text(json.dumps(changed(chance, json.loads(before))))
        else:
            file.write_bytes(changed_bytes(chance, before))
        shown += isinstance(settled(lambda: render_page([read_record(folder)])), str)
        file.write_bytes(before)
    assert shown
    assert isinstance(render_page([read_record(folder)]), str)


@pytest.fixture(scope="module")
def parent():
    torch.manual_seed(0)
    return SmallNet().eval()


@pytest.fixture(scope="module")
def files(parent, tmp_path_factory):
    """A children file, an ensemble with and without its parent, and shortlists, each with what reads it."""
    folder, space = tmp_path_factory.mktemp("files"), ParameterSpace(parent)
    recipes = sample_mutations(1, 4, subspace=RandomSubspace(0.05), sigma=0.1)
    data = torch.linspace(-1, 1, 64).view(4, 1, 4, 4), torch.tensor([0, 1, 2, 0])
    result = Evaluator(parent, data, "cross_entropy").evaluate(recipes)
    save_children(folder / "children", space, recipes, result, "cross_entropy")
    ensemble = SparseEnsemble(space, recipes)
    ensemble.save(folder / "ensemble")
    ensemble.save(folder / "whole", include_parent=True)
    shortlist = Shortlist("sparse", 0.05, 0.1, recipes, result.fitness, 1, torch.zeros(4, 7, 3), space.fingerprint())
    save_shortlists(folder / "shortlists", [shortlist])
    return {
        "children": (folder / "children", lambda path: load_children(path, space)),
        "ensemble": (folder / "ensemble", lambda path: SparseEnsemble.load(path, parent)),
        "whole": (folder / "whole", lambda path: SparseEnsemble.load(path, parent)),
        "shortlists": (folder / "shortlists", load_shortlists),
    }


@pytest.mark.parametrize("keep_checksum", [False, True])
@pytest.mark.parametrize("kind", ["children", "ensemble", "whole", "shortlists"])
def test_files_of_children(files, parent, tmp_path, kind, keep_checksum):
    chance, (valid, load) = random.Random(4), files[kind]
    path, before, taken = tmp_path / "file", state_bits(parent), 0
    for _ in range(120):
        path.write_bytes(changed_safetensors(chance, valid, keep_checksum=keep_checksum))
        taken += not isinstance(settled(load, path), SmdEvoError)
    assert taken < 120
    assert not isinstance(settled(load, valid), SmdEvoError)
    assert same_bits(before, state_bits(parent))


@pytest.mark.parametrize("shape", [(4, 5, 3), (4, 0, 3), (4, 4, 1), (4, 4, 0)])
def test_predictions_of_other_samples(parent, shape):
    data = torch.linspace(-1, 1, 64).view(4, 1, 4, 4), torch.tensor([0, 1, 2, 0])
    recipes = sample_mutations(1, 4, subspace=RandomSubspace(0.05), sigma=0.1)
    arm = Shortlist("sparse", 0.05, 0.1, recipes, torch.zeros(4, dtype=torch.float64), 1, torch.zeros(shape), "x")
    few = r"outputs: expected \[n, classes\] of two classes or more"  # one might be for yes or no
    with pytest.raises(
        InvalidValue, match=f"run: expected predictions of 4 validation samples of 3 classes or|{few}"
    ):
        choose(arm, Evaluator(parent, data, "cross_entropy"), "greedy", None, "probabilities")


def test_runs_of_a_comparison(tmp_path):
    chance, job = random.Random(9), Job("openai-es", 1, 0, True)
    points = tuple(Point(mark, Score(0.5, 1.0)) for mark in (0, 100, 200))
    (tmp_path / "runs").mkdir()
    store_run(tmp_path, Run(job, settings_of(job), points, 200, 50, 1.5, None, Score(0.6, float("nan"))))
    file = file_of(tmp_path, job)
    before, taken = file.read_bytes(), 0
    assert stored_run(tmp_path, job).test.accuracy == 0.6
    for _ in range(80):
        if chance.random() < 0.7:
            file.write_text(json.dumps(changed(chance, json.loads(before))))
        else:
            file.write_bytes(changed_bytes(chance, before))
        taken += isinstance(settled(stored_run, tmp_path, job), Run)
    assert taken < 40


def test_results_that_a_protocol_gathers(tmp_path):
    chance, run = random.Random(10), write_run(tmp_path / "net", finetune_results(), CONFIG_OF_ONE)
    before = (run / "results.json").read_text()
    assert not isinstance(settled(write_summary, tmp_path, {"net": "net"}), SmdEvoError)
    for _ in range(60):
        (run / "results.json").write_text(json.dumps(changed(chance, json.loads(before))))
        settled(write_summary, tmp_path, {"net": "net"})


def test_recipes():
    chance, layout = random.Random(5), Layout.flat(50)
    valid = ("random:0.02|absolute|0000000000000005|0000000000000007|0.1", "partition:3|relative|5|7|-0.1")
    valid += ("neuron:0.5:static|absolute|5|0|1e-3", "lowrank:2|absolute|5|0|1.0", "tensor:1:layer|absolute|5|0|2.0")
    numbers = ("9" * 30, "-1", "nan", "inf", "1e400", "0x5", "1_0", "9" * 5000, "", " ", "\u0663", "1e-320")
    taken = 0
    for number in range(600):
        text = valid[number % len(valid)]
        if chance.random() < 0.5:
            parts = re.split("([|:])", text)
            parts[chance.randrange(len(parts))] = chance.choice(numbers)
            text = "".join(parts)
        else:
            text = changed_bytes(chance, text.encode()).decode("latin1")
        found = settled(Lineage.decode, text)
        if isinstance(found, Lineage) and len(found) < 10:
            assert Lineage.decode(found.encode()) == found
            taken += 1
            for step in found.steps:
                settled(step.delta, layout)
    assert taken > 20


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lowrank:1000000000|absolute|1|0|1.0", "rank: expected at most 1024"),
        ("partition:99999999999999|absolute|1|0|1.0", "parts: expected at most 2"),
        ("random:0.1|absolute|" + "f" * 17 + "|0|1.0", "mutation: expected SUBSPACE"),
        ("random:0.1|absolute|" + "f" * 100_000 + "|0|1.0", "mutation: expected SUBSPACE"),
        (">".join(["random:0.1|absolute|1|0|1.0"] * 1_000_000), "lineage: expected at most 100,000 steps"),
    ],
    ids=["rank", "parts", "key", "long key", "steps"],
)
def test_recipes_that_ask_for_terabytes_are_refused(text, message):
    with pytest.raises(InvalidValue, match=message) as caught:
        Lineage.decode(text)
    assert len(str(caught.value)) < 300


def test_rows():
    chance, rule = random.Random(6), RandomSubspace(0.1)
    valid = encode_rows([Lineage((step,)) for step in sample_mutations(1, 6, subspace=rule, sigma=0.1)], 2)
    odd = (0, -1, 2**63 - 1, -(2**63), 0x7FF8000000000000, 0x7FF0000000000000, 1)
    for _ in range(80):
        rows = valid.clone()
        for _ in range(chance.choice((1, 2, 5))):
            rows.view(-1)[chance.randrange(rows.numel())] = chance.choice(odd)
        found = settled(lambda rows=rows: decode_rows(rows, subspace=rule))
        if not isinstance(found, SmdEvoError):
            for lineage in found[:2]:
                for step in lineage.steps:
                    assert len(step.delta(Layout.flat(50))) == 5


STATE = {"generation": 4, "sigma": 0.1, "late": [{"w": torch.ones(2)}], "best": {"w": torch.zeros(2)}, "none": None}


def test_checkpoints(tmp_path):
    """Also ones that are sealed again by whoever changed them."""
    chance, folder = random.Random(7), tmp_path / "checkpoints"
    (tmp_path / "run.json").write_text("{}")
    write_checkpoint(tmp_path, 4, STATE, 1)
    files = sorted(folder.iterdir())
    before = {file: file.read_bytes() for file in files}
    for number in range(120):
        file = files[number % 2]
        content = before[file]
        if file.suffix == ".json" and chance.random() < 0.7:
            about = changed(chance, json.loads(content))
            file.write_bytes(checkpoints._sealed(about) if isinstance(about, dict) else json.dumps(about).encode())
        else:
            file.write_bytes(changed_bytes(chance, content))
        settled(newest, tmp_path)
        file.write_bytes(content)
    assert newest(tmp_path)[0] == 4


@pytest.mark.parametrize("name", ["run.json", "metrics.jsonl", "history.jsonl"])
def test_records_of_a_run(tmp_path, name):
    chance, identity = random.Random(8), dict.fromkeys(("smd_evo", "torch", "device", "fingerprint", "data"), "x")
    lines = [{"generation": number, "changes": [{"fold": ""}], "validation": None} for number in (1, 2, 3)]
    identity |= {"format": 1, "settings": {"seed": 1, "model": f"{CODE}:make"}}
    for _ in range(150):
        if name == "run.json":
            value = changed(chance, identity) if chance.random() < 0.6 else identity
            text = json.dumps(value)
        else:
            text = "".join(json.dumps(line) + "\n" for line in (changed(chance, lines) or []))
        (tmp_path / name).write_bytes(
            changed_bytes(chance, text.encode()) if chance.random() < 0.5 else text.encode()
        )
        if name == "run.json":
            settled(read_identity, tmp_path)
        else:
            settled(read_metrics, tmp_path, 3, name)
            assert len(read_metrics(tmp_path, None, name)) <= 4
