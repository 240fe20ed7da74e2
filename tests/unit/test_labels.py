"""Integrity of the label table."""

from __future__ import annotations

import numpy as np
import pytest

from synthsr import labels


def test_numbers_and_names_are_unique_and_sorted() -> None:
    numbers = [label.number for label in labels.table()]
    assert numbers == sorted(set(numbers)) and numbers[0] == 0
    assert len({label.name for label in labels.table()}) == len(numbers)


def test_values_are_in_range() -> None:
    for label in labels.table():
        assert label.tissue in {"background", "white", "grey", "deep_grey", "csf", "bone", "soft"}, label
        assert all(0 <= part <= 255 for part in label.colour) and 0 <= label.t1_grey <= 255, label


def test_segmentation_has_33_channels_with_background_first() -> None:
    numbers = labels.segmentation_numbers()
    assert len(numbers) == 33 and numbers[0] == 0
    assert labels.intracranial_numbers() == numbers[1:]


def test_segment_as_targets_exist() -> None:
    for label in labels.table():
        assert label.segment_as in labels.segmentation_numbers(), label
        assert labels.by_number()[label.segment_as].segment_as == label.segment_as, label


def test_mirror_is_an_involution_that_changes_sides() -> None:
    opposite = {"left": "right", "right": "left", "midline": "midline"}
    for label in labels.table():
        partner = labels.by_number()[labels.mirror_number(label.number)]
        assert labels.mirror_number(partner.number) == label.number
        assert partner.side == opposite[label.side]
        assert (partner.tissue, partner.t1_grey) == (label.tissue, label.t1_grey), label


def test_segmenting_and_mirroring_commute() -> None:
    for label in labels.table():
        partner = labels.by_number()[labels.mirror_number(label.number)]
        assert partner.segment_as == labels.mirror_number(label.segment_as), label


@pytest.mark.parametrize("mirror", [labels.mirror_of_index(), labels.mirror_of_channel()], ids=["index", "channel"])
def test_mirror_arrays_are_involutions(mirror: np.ndarray) -> None:
    np.testing.assert_array_equal(mirror[mirror], np.arange(mirror.size))


def test_index_arrays_agree_with_the_table() -> None:
    lookup, channel = labels.index_lookup(), labels.channel_of_index()
    for index, label in enumerate(labels.table()):
        assert lookup[label.number] == index
        assert labels.segmentation_numbers()[channel[index]] == label.segment_as
        assert labels.table()[labels.mirror_of_index()[index]].number == labels.mirror_number(label.number)
    assert np.count_nonzero(lookup >= 0) == len(labels.table())
