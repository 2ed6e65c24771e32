"""What is said of a data set's classes: nothing where all is well, one line for each thing that is not."""

import numpy as np
import pytest

from smd_evo.zoo.balance import remarks


def said(counts, splits=(), classes="abcdef"):
    """The remarks on so many samples of each class, and of each class in each split."""
    numbers = {f"split {place}": np.repeat(np.arange(len(own)), own) for place, own in enumerate(splits)}
    return remarks(classes[: len(counts)], np.repeat(np.arange(len(counts)), counts), numbers)


@pytest.mark.parametrize("counts", [(5, 5), (1, 10), (7, 70, 8)])
def test_nothing_where_all_classes_are_everywhere_and_at_most_ten_times_as_large_as_another(counts):
    assert said(counts, [counts, (1,) * len(counts)]) == []


def test_classes_without_samples():
    (line,) = said((3, 0, 3, 0, 0, 0), [(1, 0, 1)])
    assert line.startswith("data: expected images of all 6 classes, got none of 4 (b, d, e, ...); the outputs for")


def test_classes_that_a_split_lacks():
    (line,) = said((3, 3, 3), [(1, 0, 1), (1, 1, 1), (0, 1, 0)])
    assert line.endswith("got none of 1 (b) in split 0, none of 2 (a, c) in split 2; give more samples")


def test_classes_of_very_different_size():
    (line,) = said((3, 31, 0, 5)[:2], [])
    assert line.startswith("data: classes have from 3 images (a) to 31 (b), so accuracy and cross-entropy hardly")
    assert "balanced_accuracy and macro_f1" in line


def test_a_class_without_samples_is_no_small_one():
    (line,) = said((0, 3, 3))
    assert line.startswith("data: expected images of all 3 classes, got none of 1 (a); ")


def test_each_has_a_line_of_its_own():
    lines = said((1, 0, 30), [(0, 0, 4)])
    assert len(lines) == 3
    assert not any("\n" in line for line in lines)
