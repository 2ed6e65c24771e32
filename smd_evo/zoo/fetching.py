"""Weights from the network: asked for once, and one line where there are none."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from smd_evo.errors import InvalidValue, SmdEvoError

__all__ = ["ask_hub", "cached_folder", "fetching", "is_on_hub"]

WEIGHTS = ("model.safetensors", "pytorch_model.bin", "model.safetensors.index.json", "pytorch_model.bin.index.json")
"""Files of which a repository has one."""


def cached_folder(repository: str, revision: str | None = None) -> str | None:
    """Where the cache of the Hugging Face Hub has a repository's files, weights among them; None if it has not."""
    from huggingface_hub import try_to_load_from_cache

    for file in WEIGHTS:
        found = try_to_load_from_cache(repository, file, revision=revision)
        if isinstance(found, str):  # else there is none, or it is known that there is none
            return str(Path(found).parent)
    return None


def ask_hub(repository: str | None, revision: str | None = None) -> None:
    """One request for weights that are not in the cache; libraries need 45 s to find out that there is no network."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError

    if repository and cached_folder(repository, revision) is None:
        with contextlib.suppress(HfHubHTTPError):  # an answer, too
            get_hf_file_metadata(hf_hub_url(repository, WEIGHTS[0], revision=revision))


def is_on_hub(repository: str, file: str) -> bool:
    """Whether a repository has a file, by one request; where there is no network it has none."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    try:
        get_hf_file_metadata(hf_hub_url(repository, file))
    except Exception:  # there are many to say that there is no network
        return False
    return True


@contextlib.contextmanager
def fetching(
    name: str,
    mend: str = "give a checkpoint: a file of its weights, safetensors or torch",
    wanted: str = "expected the weights of {} in the cache or from the network, got neither",
) -> Iterator[None]:
    """A block that fetches weights; libraries have many exceptions to say that there is no network.

    Args:
        name: of the network.
        mend: what to do where they are not to be had.
        wanted: what was to be had.

    Raises:
        InvalidValue: something went wrong in the block.
    """
    try:
        yield
    except SmdEvoError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise InvalidValue(f"model: {wanted.format(name)} ({reason}); {mend}") from error
