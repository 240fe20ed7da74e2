"""Integrity of the label table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from synthsr import labels
from synthsr.errors import DataError

#: Look-up table of a segmentation with 18 classes, and what each stands for here.
EIGHTEEN = {
    "Unknown": (0,), "Cerebral-White-Matter": (2, 41), "Cerebral-Cortex": (3, 42), "Lateral-Ventricle": (4, 43),
    "Inferior-Lateral-Ventricle": (5, 44), "Cerebellum-White-Matter": (7, 46), "Cerebellum-Cortex": (8, 47),
    "Thalamus": (10, 49), "Caudate": (11, 50), "Putamen": (12, 51), "Pallidum": (13, 52), "3rd-Ventricle": (14,),
    "4th-Ventricle": (15,), "Brain-Stem": (16,), "Hippocampus": (17, 53), "Amygdala": (18, 54),
    "Accumbens-area": (26, 58), "VentralDC": (28, 60),
}  # fmt: skip


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


def write_names(path: Path, names: list[tuple[object, str]]) -> Path:
    path.write_text("index\tname\n" + "".join(f"{index}\t{name}\n" for index, name in names), encoding="utf-8")
    return path


def test_names_of_another_segmentation(tmp_path: Path) -> None:
    names = write_names(tmp_path / "dseg.tsv", list(enumerate(EIGHTEEN)))
    assert labels.read_segmentation_names(names) == dict(enumerate(EIGHTEEN.values()))


def test_names_with_a_side_and_names_that_are_merged(tmp_path: Path) -> None:
    """A side that is named stays; what the segmenter does not tell apart becomes what it is reported as."""
    rows = [(7, "Right-Hippocampus"), (9, "CSF"), (30, "Left-choroid-plexus-lateral"), (31, "Lesion"), (99, "Artery")]
    names = write_names(tmp_path / "dseg.tsv", rows)
    assert labels.read_segmentation_names(names) == {7: (53,), 9: (24,), 30: (4,), 31: (2, 41), 99: (0,)}


def test_own_numbers_need_no_table() -> None:
    found = labels.read_segmentation_names(None)
    assert tuple(found) == labels.segmentation_numbers()
    assert all(numbers == (index,) for index, numbers in found.items())


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(0, "Unknown"), (1, "Corpus-Pineale")], r"dseg\.tsv: 'Corpus-Pineale' is no structure"),
        ([("one", "CSF")], "not a table with the columns index and name"),
        ([(1, "CSF"), (1, "Thalamus")], "an index is named twice"),
        ([], "no row"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path: Path, rows: list[tuple[object, str]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        labels.read_segmentation_names(write_names(tmp_path / "dseg.tsv", rows))


def test_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.tsv: not a table"):
        labels.read_segmentation_names(tmp_path / "none.tsv")
