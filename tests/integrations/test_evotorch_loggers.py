"""EvoTorch's loggers on the searchers: what they log is there, and nothing leaves the folder that it is given."""

import copy
import functools
import pickle

import pytest
import torch
import wandb
from evotorch import SolutionBatch
from evotorch.logging import MlflowLogger, PandasLogger, PicklingLogger, StdOutLogger, WandbLogger
from helpers import blobs, trained
from mlflow import MlflowClient
from pandas.api.types import is_numeric_dtype

from smd_evo import Evaluator, FinetuneProblem, Lineage, SubspaceES, SubspaceEvolution

SAMPLES = blobs(shift=2.5)
SEARCHERS = [
    functools.partial(SubspaceEvolution, popsize=6, density=0.1, sigma=0.3),
    functools.partial(SubspaceES, popsize=6, density=0.3, sigma=0.1, center_learning_rate=0.05),
]
every_searcher = pytest.mark.parametrize("make", SEARCHERS, ids=lambda make: make.func.__name__)


def run(make, log):
    """Three generations with a logger: it, the searcher, and the numbers of each generation's status."""
    searcher, expected = make(FinetuneProblem(trained(), SAMPLES, seed=1)), []
    logger = log(searcher)
    searcher.log_hook.append(
        lambda status: expected.append({name: it for name, it in status.items() if isinstance(it, int | float)})
    )
    searcher.run(3)
    assert len(expected) == 3
    assert {"iter", "sigma", "pop_best_eval", "parent_eval", "nonfinite", "evaluations"} <= expected[0].keys()
    return logger, searcher, expected


@every_searcher
def test_standard_output(make, capsys):
    _, _, expected = run(make, StdOutLogger)
    blocks = capsys.readouterr().out.strip().split("\n\n")
    shown = [dict(line.strip().split(" : ") for line in block.splitlines()) for block in blocks]
    assert shown == [{name: str(value) for name, value in numbers.items()} for numbers in expected]


@every_searcher
def test_pandas(make):
    logger, _, expected = run(make, PandasLogger)
    frame = logger.to_dataframe()
    assert all(is_numeric_dtype(dtype) for dtype in frame.dtypes)
    assert frame.index.tolist() == [1, 2, 3]
    assert frame.reset_index().to_dict("records") == expected


@every_searcher
def test_mlflow(make, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # mlflow-skinny brings no database
    client = MlflowClient(tracking_uri=(tmp_path / "runs").as_uri())
    own = client.create_run(client.create_experiment("ours")).info.run_id
    _, _, expected = run(make, lambda searcher: MlflowLogger(searcher, client, own))
    assert client.get_run(own).data.metrics == expected[-1]
    for name in expected[0]:
        history = [(metric.step, metric.value) for metric in client.get_metric_history(own, name)]
        assert sorted(history) == [(step, numbers[name]) for step, numbers in enumerate(expected, 1)]


def test_weights_and_biases(tmp_path, monkeypatch):
    """Offline, and with every folder that it knows in one."""
    folders = [tmp_path / name for name in ("home", "work", "wandb")]
    for folder in folders:
        folder.mkdir()
    monkeypatch.setenv("HOME", str(folders[0]))
    monkeypatch.chdir(folders[1])
    for name in ("DIR", "CACHE_DIR", "CONFIG_DIR", "DATA_DIR", "ARTIFACT_DIR"):
        monkeypatch.setenv(f"WANDB_{name}", str(folders[2]))
    monkeypatch.setenv("WANDB_SILENT", "true")
    try:
        for number, make in enumerate(SEARCHERS):
            log = functools.partial(WandbLogger, mode="offline", dir=folders[2], project="ours", group="smd")
            _, _, expected = run(make, log)
            summary = dict(wandb.run.summary)
            assert {name: summary[f"smd/{name}"] for name in expected[-1]} == expected[-1]
            wandb.finish()
            assert len(list(folders[2].glob("wandb/offline-run-*/run-*.wandb"))) == number + 1
    finally:
        wandb.teardown()
    assert not any(folders[0].iterdir())
    assert not any(folders[1].iterdir())


@every_searcher
def test_pickling_logger(make, tmp_path):
    """Every second generation and the last; what is stored of a solution makes its network again."""
    log = functools.partial(PicklingLogger, interval=2, directory=tmp_path, prefix="ours", verbose=False)
    logger, searcher, expected = run(make, log)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["ours_generation000002.pickle", "ours_generation000003.pickle"]
    stored = logger.unpickle_last_file()
    moves = {"center"} if make.func is SubspaceES else set()  # beside what EvoTorch stores with a policy
    times = {"beginning_time", "now", "elapsed"}
    assert stored.keys() == moves | times | {
        "best",
        "pop_best",
        "median_eval",
        "mean_eval",
        "pop_best_eval",
        "policy",
    }
    for name in ("median_eval", "mean_eval", "pop_best_eval"):
        assert stored[name] == expected[-1][name]
    batch = SolutionBatch(searcher.problem, 1, empty=True)
    batch.set_values(stored["pop_best"][None])
    network = searcher.problem.make_net(batch[0])
    assert float(Evaluator(network, SAMPLES).evaluate([Lineage()]).fitness[0]) == stored["pop_best_eval"]


@every_searcher
def test_a_logged_searcher_goes_on_from_a_copy_with_its_log(make):
    searcher = make(FinetuneProblem(trained(), SAMPLES, seed=1))
    PandasLogger(searcher)
    searcher.run(1)
    for other in (pickle.loads(pickle.dumps(searcher)), copy.deepcopy(searcher)):
        other.run(1)
        (logger,) = other.log_hook
        assert logger.to_dataframe().index.tolist() == [1, 2]
    searcher.run(1)
    assert torch.equal(other.population.values, searcher.population.values)
