"""The state of a source: changes with all that the inventory would see, and with nothing else."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from analysis.intake import folders


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A patient's study with an image that is not fetched, a table, and a study folder that is not to be looked at."""
    root = tmp_path / "source"
    anat = root / "sub-1" / "ses-1" / "anat"
    anat.mkdir(parents=True)
    (anat / "1.dcm").touch()
    (anat / "sub-1_ses-1_T1w.nii.gz").symlink_to(tmp_path / "annex.nii.gz")
    (root / "sub-1" / "sub-1_sessions.tsv").touch()
    (root / "participants.tsv").touch()
    (root / "sub-1" / "Export.ZIP").touch()
    (root / "sub-1" / "DICOMDIR").touch()
    (root / "study").mkdir()
    (root / "circle").symlink_to(root)
    for folder, _, names in os.walk(root):
        for path in (Path(folder), *(Path(folder, name) for name in names)):
            os.utime(path, (1, 1), follow_symlinks=False)
    return root


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "sub-1" / "ses-2").mkdir(),
        lambda root: (root / "sub-1" / "ses-1" / "anat" / "1.dcm").unlink(),
        lambda root: (root / "sub-1" / "ses-1").rename(root / "sub-1" / "ses-3"),
        lambda root: (root / "participants.tsv").write_text("participant_id\n"),
        lambda root: (root / "sub-1" / "sub-1_sessions.tsv").write_text("session_id\n"),
        lambda root: (root / "sub-1" / "Export.ZIP").write_text("another export"),
        lambda root: (root / "sub-1" / "DICOMDIR").write_text("another table"),
        lambda root: (root.parent / "annex.nii.gz").touch(),  # fetched
    ],
)
def test_what_the_inventory_sees_changes_the_state(source: Path, change: Callable[[Path], object]) -> None:
    before = folders.state(source, without=source / "study")
    change(source)
    assert folders.state(source, without=source / "study") != before


def test_place_and_results_do_not(source: Path) -> None:
    before = folders.state(source, without=source / "study")
    (source / "study" / "results").mkdir()
    moved = source.rename(source.with_name("elsewhere"))
    (moved / "circle").unlink()
    (moved / "circle").symlink_to(moved)
    os.utime(moved, (1, 1))
    assert folders.state(moved, without=moved / "study") == before


def test_state_of_an_archive_and_of_a_dicomdir(source: Path) -> None:
    archive, table = source / "sub-1" / "Export.ZIP", source / "sub-1" / "DICOMDIR"
    before = folders.state(archive), folders.state(table)
    assert len({*before, folders.state(source)}) == 3
    (source / "sub-1" / "ses-1" / "anat" / "2.dcm").touch()
    assert folders.state(archive) == before[0] and folders.state(table) != before[1]
    archive.write_text("another export")
    assert folders.state(archive) != before[0]
