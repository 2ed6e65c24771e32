"""The refusal of a file that is no weights says what it is, or seems to be."""

import gzip
import io
import json
import os
import pickle
import tarfile
import zipfile
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from smd_evo.errors import InvalidValue
from smd_evo.zoo.checkpoint import read_checkpoint
from smd_evo.zoo.file_kinds import looks_like, pickled_globals

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 102530333\n"
INDEX = {
    "metadata": {},
    "weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"},
}


def zipped(*names):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name in names:
            archive.writestr(name, b"content")
    return content.getvalue()


def tarred():
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("weights.pth"))
    return content.getvalue()


def of(save, *arguments):
    content = io.BytesIO()
    save(content, *arguments)
    return content.getvalue()


FILES = {
    "lfs": (LFS.encode(), "a pointer of Git LFS instead of the file; `git lfs pull` fetches it"),
    "annex": (b"/annex/objects/SHA256E-s1--ab.pth\n", "a pointer of git-annex"),
    "html": (b"\n <!DOCTYPE html>\n<html><title>404</title>", "an HTML page, as servers send instead of a file"),
    "html with a mark": (b"\xef\xbb\xbf<html lang=de>", "an HTML page"),
    "xml": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "XML: \"<?xml version='1.0'?><Error>"),
    "json": (b'{"error": "not found"}', "JSON"),
    "index": (
        json.dumps(INDEX).encode(),
        "an index in JSON of weights in 2 files (model-00001-of",
    ),
    "text": (b"hello world\n", "a text: 'hello world'"),
    "empty": (b"", "an empty file"),
    "zeros": (bytes(5000), "a file of 5000 zero bytes"),
    "zip": (zipped("weights/a.bin"), "a zip archive of 'weights/a.bin'; unpack it first"),
    "keras": (zipped("model.weights.h5", "config.json"), "a model of Keras"),
    "npz": (of(lambda file: np.savez(file, a=np.ones(2))), "arrays of NumPy (.npz)"),
    "npy": (of(np.save, np.ones(2)), "an array of NumPy"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(50), "HDF5, as Keras writes it"),
    "tar": (tarred(), "a tar archive; unpack it first"),
    "gzip": (gzip.compress(b"x"), "gzip; unpack it first"),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(50), "a PNG picture"),
    "other": (bytes(range(255, 100, -1)), "bytes of no format that is known here"),
}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("kind", FILES)
def test_it_is_told(tmp_path, kind, suffix):
    content, text = FILES[kind]
    file = tmp_path / f"x{suffix}"
    file.write_bytes(content)
    with pytest.raises(
        InvalidValue, match=r"^checkpoint: expected a file of weights alone, got what cannot be read: "
    ) as caught:
        read_checkpoint(file)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("form", ["torch", "safetensors"])
def test_a_download_that_was_cut_short(tmp_path, form, keep):
    from safetensors.torch import save

    weights = {"a": torch.rand(300)}
    content = of(lambda file: torch.save(weights, file)) if form == "torch" else save(weights)
    (tmp_path / "x").write_bytes(content[: int(keep * len(content))])
    with pytest.raises(InvalidValue, match="damaged or cut short"):
        read_checkpoint(tmp_path / "x")


@pytest.mark.parametrize("form", ["zip", "old", "pickle 2", "pickle 4"])
def test_what_a_pickle_would_import_is_named_and_not_imported(tmp_path, form):
    content = {"weights": [Counter(), os.path.join, np.float64(3)]}
    if form.startswith("pickle"):
        (tmp_path / "x").write_bytes(pickle.dumps(content, int(form[-1])))
    else:
        torch.save(content, tmp_path / "x", _use_new_zipfile_serialization=form == "zip")
    found = pickled_globals(tmp_path / "x")
    assert {"collections.Counter", "posixpath.join"} <= {*found}
    with pytest.raises(InvalidValue, match=r"never unpickled: collections.Counter, .*posixpath.join"):
        read_checkpoint(tmp_path / "x")


@given(st.binary(max_size=400), st.sampled_from([b"", b"PK\x03\x04", b"\x80\x02", b"{", b"<", b"\x80\x04\x95"]))
def test_any_bytes_are_described_in_one_line(tmp_path_factory, content, start):
    file = tmp_path_factory.getbasetemp() / "any"
    file.write_bytes(start + content)
    assert "\n" not in looks_like(file)
    assert isinstance(pickled_globals(file), list)


def test_a_folder_names_the_files_in_it(tmp_path):
    for name in ("network.safetensors", "config.yaml"):
        (tmp_path / name).touch()
    with pytest.raises(InvalidValue, match=r"which is a folder; name a file in it: network.safetensors$"):
        read_checkpoint(tmp_path)


def test_an_ensemble_of_smd_evo_is_no_network(tmp_path):
    from helpers import SmallNet

    from smd_evo import Lineage, ParameterSpace, SparseEnsemble

    SparseEnsemble(ParameterSpace(SmallNet()), [Lineage()]).save(tmp_path / "ensemble.safetensors")
    with pytest.raises(InvalidValue, match=r"got .*, which is 'smd_evo ensemble 1'; take network.saf"):
        read_checkpoint(tmp_path / "ensemble.safetensors")
