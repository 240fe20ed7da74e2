"""Synthesis and segmentation run again: a scan is remade when any of its files is lost or altered, and only then."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import torch

from analysis import batch, cli, tsv
from analysis.layout import Results, sidecar_of
from synthsr import labels
from synthsr.networks import UNet, UNetConfig
from synthsr.weights.storage import save_network

SCANS = [f"sub-{number}_ses-01_T1w" for number in (1, 2, 3)]


def run(results: Results) -> None:
    """Both stages, with tiny networks of random weights."""
    outputs = {"synthesise": 1, "segment": len(labels.segmentation_numbers())}
    for before, (stage, channels) in zip(("convert", "synthesise"), outputs.items(), strict=True):
        weights = results.root.parent / f"{stage}.safetensors"
        if not weights.exists():
            torch.manual_seed(0)
            save_network(UNet(UNetConfig(1, channels, 2, 2, 2)), weights, {"task": stage})
        options = ["--out", str(results.root), "--weights", str(weights), "--device", "cpu", "--threads", "1"]
        assert cli.main([stage, str(results.batch(before, "0001")), *options]) == 0
        assert set(batch.read(results.batch(stage, "0001"))["status"]) == {batch.DONE}


def files(results: Results) -> dict[Path, tuple[bytes, int]]:
    folders = [results.root / name for name in ("synthsr", "segmentation-embedded", "batches")]
    found = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in found}


def test_any_file_of_a_scan_is_verified(tmp_path: Path) -> None:
    results, rng = Results(tmp_path / "results"), np.random.default_rng(0)
    rows = []
    for scan_id in SCANS:
        path = results.raw(scan_id)
        path.parent.mkdir(parents=True)
        nib.save(nib.Nifti1Image(rng.uniform(0, 100, (24, 24, 6)).astype(np.float32), np.diag([1, 1, 4, 1])), path)
        row = dict.fromkeys(batch.COLUMNS, "x") | {"scan_id": scan_id, "contrast": "T1w", "status": batch.DONE}
        rows.append(row | {"path": path.relative_to(results.root).as_posix()})
    tsv.write(pd.DataFrame(rows), results.batch("convert", "0001"))
    run(results)
    before = files(results)
    flipped, deleted = results.segmentation(SCANS[0]), sidecar_of(results.synthetic(SCANS[1]))
    content = bytearray(flipped.read_bytes())
    content[len(content) // 2] ^= 1
    flipped.write_bytes(content)
    deleted.unlink()
    run(results)
    after = files(results)
    assert {path: content for path, (content, _) in after.items()} == {
        path: content for path, (content, _) in before.items()
    }
    remade = {path for path in before if after[path] != before[path]}
    assert {flipped, deleted} <= remade
    assert remade <= {flipped, results.synthetic(SCANS[1]), deleted}
