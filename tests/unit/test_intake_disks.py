"""Disks that are full or closed for writing, and two runs on one folder: nothing half-written, the rerun completes."""

from __future__ import annotations

import gc
import multiprocessing
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import dicom_maker as maker
import kill_intake
import pytest

from analysis.cli import main
from analysis.intake.key import Key
from analysis.intake.lock import locked
from analysis.layout import Private, Results

Remount = Callable[[str], None]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[tuple[Path, Remount]]:
    """A small disk of its own in memory, and what gives it other options, such as ``size=1m`` and ``ro``."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options: str) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True, capture_output=True)

    try:
        mount("size=16k")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs the right to mount a file system")

    def remount(options: str) -> None:
        gc.collect()  # closes the index of the run before, as the end of its process would
        mount(f"remount,{options}")

    try:
        yield folder, remount
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for number in range(3):
        maker.write_series(
            tmp_path / "export", patient=f"P{number}", study=f"1.2.{number + 1}", places=maker.positions(12, 9.0)
        )
    return tmp_path / "export"


def undisturbed(source: Path, root: Path, key: Path) -> dict[str, bytes]:
    """What an intake with that key leaves."""
    shutil.copytree(key.parent, Private(root / "private").root, ignore=lambda *_: {"index.sqlite"})
    kill_intake.intake(source, root, batch_size=2)
    return kill_intake.contents(root)


def commands(source: Path, root: Path) -> Iterator[list[str]]:
    folders = ["--out", str(root / "results"), "--private", str(root / "private")]
    yield ["inventory", str(source), "--batch-size", "2", *folders]
    for batch in sorted(Results(root / "results").batches("select").glob("batch-*.tsv")):
        yield ["convert", str(batch), *folders]


def test_full_disk(tmp_path: Path, source: Path, disk: tuple[Path, Remount], capsys: pytest.CaptureFixture) -> None:
    root, remount = disk
    (root / "private").mkdir(mode=0o700)
    Key.of(Private(root / "private").key)
    (tmp_path / "key").mkdir()
    shutil.copy2(Private(root / "private").key, tmp_path / "key")
    expected = undisturbed(source, tmp_path / "undisturbed", tmp_path / "key" / "pseudonyms.key")
    codes = []
    for size in ("32k", "128k", "200k", "16m"):
        remount(f"size={size}")
        for command in commands(source, root):
            codes.append(main(command))
            assert list(kill_intake.half_written(root)) == []
            if codes[-1]:
                break
    assert set(codes) == {0, 69} and codes.count(69) >= 2 and codes[-1] == 0
    assert "No space left" in (told := capsys.readouterr().err) and "P1" not in told
    assert kill_intake.contents(root) == expected
    assert not list(root.rglob(".part-*"))


def test_disk_closed_for_writing(tmp_path: Path, source: Path, disk: tuple[Path, Remount]) -> None:
    root, remount = disk
    remount("size=16m,ro")
    deidentify = ["deidentify", str(source), "--out", str(root / "shared")]
    assert [main(command) for command in (*commands(source, root), deidentify)] == [69, 69]
    assert list(root.iterdir()) == []
    remount("rw")
    assert [main(command) for command in commands(source, root)] == [0, 0, 0]
    before = kill_intake.contents(root)
    remount("ro")
    assert {main(command) for command in commands(source, root)} <= {0, 69}
    assert main(deidentify) == 69 and kill_intake.contents(root) == before
    remount("rw")
    assert main(deidentify) == 0 and len(list((root / "shared").rglob("*.dcm"))) == 36


def test_full_disk_while_de_identifying(source: Path, disk: tuple[Path, Remount]) -> None:
    root, remount = disk
    remount("size=64k")
    deidentify = ["deidentify", str(source), "--out", str(root / "shared")]
    assert main(deidentify) == 69
    written = list((root / "shared").rglob("*.dcm"))
    assert 0 < len(written) < 36 and not list(root.rglob(".part-*"))
    before = {path: path.read_bytes() for path in written}
    remount("size=16m")
    assert main(deidentify) == 0 and len(list((root / "shared").rglob("*.dcm"))) == 36
    assert {path: path.read_bytes() for path in written} == before


@pytest.mark.parametrize("name", ["inventory", "deidentify", "fetch"])
def test_a_second_run_waits_its_turn(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    maker.write_series(tmp_path / "export", places=maker.positions(1, 6.0))
    (tmp_path / "pacs.yaml").write_text("{retrieve: web, url: 'http://127.0.0.1:1/'}")
    (tmp_path / "table.tsv").write_text("accession_number\nA\n")
    given = {"fetch": [str(tmp_path / "pacs.yaml"), str(tmp_path / "table.tsv"), "--out", str(tmp_path / "private")]}
    arguments = given.get(name, [str(tmp_path / "export"), "--out", str(tmp_path / "out")])
    with locked(tmp_path / "private"):
        assert main([name, *arguments]) == 69
    assert "another run is at work" in capsys.readouterr().err
    assert not (tmp_path / "out").exists() and {path.name for path in (tmp_path / "private").iterdir()} == {".lock"}


def test_two_conversions_of_a_batch_at_once_are_as_one(tmp_path: Path, source: Path) -> None:
    root = tmp_path / "both"
    inventory, *_ = commands(source, root)
    assert main(inventory) == 0
    expected = undisturbed(source, tmp_path / "undisturbed", Private(root / "private").key)
    batches = list(commands(source, root))[1:]
    context = multiprocessing.get_context("fork")
    runs = [context.Process(target=lambda: [main(command) for command in batches]) for _ in range(2)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert [run.exitcode for run in runs] == [0, 0]
    assert kill_intake.contents(root) == expected
