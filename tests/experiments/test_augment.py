"""Views of images: the same ones always, near ones first."""

import pickle
from collections.abc import Iterator
from itertools import islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from smd_evo import Evaluator, Lineage
from smd_evo.evaluation.stream import Stream
from smd_evo.experiments.views import Change, changes, views


def images(height=5, width=6):
    return torch.arange(2 * 3 * height * width).view(2, 3, height, width)


def shifted(image, down, right):
    """The slow way: pixel by pixel, the edge repeated."""
    height, width = len(image), len(image[0])
    return [
        [
            image[min(max(row - down, 0), height - 1)][min(max(column - right, 0), width - 1)]
            for column in range(width)
        ]
        for row in range(height)
    ]


def shift_of(view, originals):
    """Which shift of at most 4 pixels a view is."""
    original, found = originals[0, 0].tolist(), view[0, 0].tolist()
    every = ((down, right) for down in range(-4, 5) for right in range(-4, 5))
    return next(shift for shift in every if shifted(original, *shift) == found)


def test_the_first_views_by_name():
    originals = images()
    plain, mirrored = list(views(originals, 5, flips=False)), list(views(originals, 10, flips=True))
    assert plain[0] is originals
    assert [shift_of(view, originals) for view in plain] == [(0, 0), (1, 0), (0, 1), (0, -1), (-1, 0)]
    assert all(torch.equal(a, b) for a, b in zip(mirrored[::2], plain, strict=True))
    assert all(torch.equal(a, b.flip(3)) for a, b in zip(mirrored[1::2], plain, strict=True))


def test_a_shift_repeats_the_edge_in_every_image_and_channel():
    originals = images()
    for view in views(originals, 25, flips=False):
        down, right = shift_of(view, originals)
        for image, channels in zip(originals, view, strict=True):
            assert channels.tolist() == [shifted(channel.tolist(), down, right) for channel in image]


@pytest.mark.parametrize("flips", [False, True])
def test_fifty_views_are_all_different_and_come_by_distance(flips):
    originals = torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    made = list(views(originals, 50, flips))
    assert len({tuple(view.flatten().tolist()) for view in made}) == len(made) == 50
    shifts = [shift_of(view, originals) for view in (made[::2] if flips else made)]
    distances = [down**2 + right**2 for down, right in shifts]
    assert distances == sorted(distances)
    assert set(shifts[:9]) == {(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)}


@given(st.integers(1, 60), st.integers(1, 60), st.booleans())
def test_fewer_views_are_the_first_of_more(few, many, flips):
    originals = torch.randn(2, 1, 8, 9, generator=torch.Generator().manual_seed(1))
    first, second = list(views(originals, few, flips)), list(views(originals, many, flips))
    assert (len(first), len(second)) == (few, many)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=False))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float32])
def test_shape_and_type_stay_and_the_images_are_not_written(dtype):
    originals = images().to(dtype)
    before = originals.clone()
    for view in views(originals, 20, flips=True):
        assert (view.dtype, view.shape) == (dtype, originals.shape)
    assert torch.equal(originals, before)


def test_views_are_made_when_they_are_asked_for():
    lazy = views(images(300, 300), 10_000, flips=True)
    assert isinstance(lazy, Iterator)
    assert len(list(islice(lazy, 3))) == 3


@pytest.mark.parametrize("flips", [False, True])
def test_changes_are_the_views_as_functions(flips):
    originals, wanted = images(), changes(30, flips)
    assert all(torch.equal(a(originals), b) for a, b in zip(wanted, views(originals, 30, flips), strict=True))
    assert len(set(wanted)) == 30
    assert pickle.loads(pickle.dumps(wanted)) == wanted  # for actors


@pytest.mark.parametrize("flips", [False, True])
def test_a_stream_has_the_same_views(network, samples, flips):
    originals, targets = samples
    stream, evaluator = Stream(originals, targets), Evaluator(network, samples, batch_size=7)
    of_stream = [evaluator.on(stream.mapped(change)).predict([Lineage()]) for change in changes(6, flips)]
    of_tensor = [evaluator.on((view, targets)).predict([Lineage()]) for view in views(originals, 6, flips)]
    assert all(torch.equal(a, b) for a, b in zip(of_stream, of_tensor, strict=True))
    assert len({tuple(outputs.flatten().tolist()) for outputs in of_stream}) == 6


def test_what_has_no_views():
    with pytest.raises(ValueError, match=r"images: expected \[n, channels, height, width\], got \[2, 64\]"):
        views(torch.zeros(2, 64), 2, flips=False)
    with pytest.raises(ValueError, match="count: expected a whole number >= 1, got 0"):
        views(images(), 0, flips=False)
    with pytest.raises(ValueError, match="count: expected fewer views of images of 2 x 2 pixels, got 10"):
        views(images(2, 2), 10, flips=False)
    assert len(list(views(images(2, 2), 9, flips=False))) == 9
    with pytest.raises(ValueError, match="of 2 x 2 pixels, got a shift of -2, 0; some would be"):
        Change(-2, 0, mirrored=False)(images(2, 2))
    with pytest.raises(ValueError, match=r"images: expected \[n, channels, height, width\], got \[2, 64\]"):
        Change(0, 0, mirrored=True)(torch.zeros(2, 64))
