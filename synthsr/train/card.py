"""The model card of a run, made from the run's own files: the same files give the same card."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from .. import files
from ..weights.storage import load_network
from .checkpoint import STATE
from .config import NETWORKS, RANDOM
from .figure import draw_curves
from .provenance import NAME as PROVENANCE
from .record import LOG, VALIDATION

NAME, FIGURE = "MODEL_CARD.md", "training.png"
#: Columns of ``validation.tsv`` in words.
SCORES = {
    "dice": "Dice, 23 structures",
    "cross_entropy": "cross-entropy",
    "distance_mm2": "squared error of the distance to the brain's boundary, mm²",
    "l1": "L1",
    "soft_dice": "soft Dice behind the frozen segmenter",
    "loss": "loss",
    "real_dice": "Dice, real scans",
}
WHAT = {
    "segmentation": "labels every voxel of a brain scan of any contrast and resolution (FreeSurfer's label numbers)",
    "synthsr": "turns a brain scan of any contrast and resolution into a synthetic 1 mm T1",
}
LIMITS = """\
- **Not for diagnosis.** No output has been checked by anybody who could answer for a patient.
- Synthetic intensities are no measurement. Anatomy may be smoothed or invented, most of all inside large lesions and
  where slices are thick; quality follows the quality of the input.
- Validation above is on synthetic scans{maps}{real}. It tells how training went, not how well unknown patients are
  measured: compare with scans of your own whose volumes are known.
- Heads unlike the label maps above (children, tumours, operations) are drawn like those that were learnt from."""


def write_card(run: Path) -> Path:
    """Write the card and its figure into the run's folder.

    Parameters
    ----------
    run
        Folder of a run with ``provenance.json``, and for each network trained weights, ``state.json`` and tables.

    Returns
    -------
    Path of the card.
    """
    provenance = json.loads((run / PROVENANCE).read_text(encoding="utf-8"))
    config = provenance["configuration"]
    # A segmenter that is only taken over has weights here, but no state.
    trained = [name for name in NETWORKS if (run / f"{name}.safetensors").is_file() and _state(run, name)]
    if any((run / name / LOG).is_file() for name in trained):
        draw_curves([run], run / FIGURE)
    real = any(scan["labels"] for scan in config.get("validation_scans") or ())
    seen = set(config["training"]) & set(config["validation"])
    sections = [
        f"# Model card: {run.resolve().name}",
        "\n".join(f"- `{name}` {WHAT[name]}." for name in trained),
        "## Weights",
        _weights(run, trained),
        "## Training",
        _stages(config, trained),
        _effort(run, trained, provenance),
        f"![Loss and validation]({FIGURE})",
        "## Data",
        _data(provenance),
        "## Validation",
        _validation(run, trained),
        "## Origin",
        _origin(provenance),
        "## Limits",
        LIMITS.format(
            maps=" of heads that were trained on" if seen else " of heads that were not trained on",
            real=", and on a few real ones" if real else "",
        ),
    ]
    files.write_text(run / NAME, "\n\n".join(sections) + "\n")
    return run / NAME


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def _state(run: Path, name: str) -> dict[str, Any]:
    path = run / name / STATE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _weights(run: Path, trained: Sequence[str]) -> str:
    rows = []
    for name in trained:
        path = run / f"{name}.safetensors"
        loaded = load_network(path)
        size = loaded.network.config
        million = sum(parameter.numel() for parameter in loaded.network.parameters()) / 1e6
        best = loaded.information.get("best_step")
        rows.append(
            [
                f"`{path.name}`",
                f"{path.stat().st_size / 1e6:.1f} MB",
                f"`{loaded.sha256}`",
                f"{size.features} features, {size.levels} levels, stride {size.stride}, {size.norm} norm; "
                f"{million:.1f} million parameters",
                f"{loaded.information['steps']:,} (the last)" if best is None else f"{best:,} (best of the last stage)",
            ]
        )
    return _table(["file", "size", "SHA-256", "network", "step"], rows)


def _stages(config: dict[str, Any], trained: Sequence[str]) -> str:
    rows = []
    for name in trained:
        for stage in config[name]["stages"]:
            loss = "cross-entropy" if name == "segmentation" else stage["regression"].upper()
            if stage["dice_weight"]:
                loss += f" + {stage['dice_weight']:g} (1 − soft Dice)"
            rows.append(
                [
                    name,
                    f"{stage['steps']:,}",
                    f"{' or '.join(str(field) for field in stage['field_mm'])} mm at {stage['voxel_size_mm']} mm",
                    f"{stage['learning_rate']:g} → {stage['final_learning_rate']:g}",
                    loss + (", half of the steps through a synthesiser" if stage["synthesiser"] else ""),
                    stage["images_per_step"],
                ]
            )
    return _table(["network", "steps", "field", "learning rate", "loss", "images a step, per process"], rows)


def _effort(run: Path, trained: Sequence[str], provenance: dict[str, Any]) -> str:
    lines = []
    for name in trained:
        state = _state(run, name)
        start = provenance["configuration"][name]["start_from"]
        if start is None and name == "synthsr":
            origin = "the segmenter's trunk"
        else:
            origin = "random weights" if start in (None, RANDOM) else f"the weights `{Path(start).stem}`"
        lines.append(f"- `{name}`: {state['step']:,} steps in {state['seconds'] / 3600:.1f} hours, from {origin}.")
    device, processes = provenance.get("device"), provenance.get("processes")
    if device:
        lines.append(f"- Lately on {processes} × {device}, bf16, seed {provenance['configuration']['seed']}.")
    if provenance.get("earlier"):
        lines.append(
            f"- Earlier calls with another configuration, data, code or machine: {len(provenance['earlier'])}, see "
            f"`earlier` in `{PROVENANCE}`."
        )
    return "\n".join(lines)


def _data(provenance: dict[str, Any]) -> str:
    config, sha256 = provenance["configuration"], provenance["sha256"]
    maps = sha256.get("label_maps", {})
    training, validation = config["training"], config["validation"]
    rows = [
        [f"`{name}`", training.count(name) or "", "yes" if name in validation else "", f"`{maps.get(name, 'n/a')}`"]
        for name in sorted({*training, *validation})
    ]
    changes = {key: value for key, value in config["generator"].items() if key != "preset"}
    masks = sha256.get("lesion_masks") or {}
    scans = config.get("validation_scans") or []
    lines = [
        f"- Real T1s as targets: {len(config['t1_targets'])}; real scans as input: {len(config.get('scans') or {})}; "
        f"real scans at validation: {len(scans)}, of them with a reference: {sum(bool(s['labels']) for s in scans)}. "
        f"Their SHA-256 are in `{PROVENANCE}`.",
        f"- Lesion masks: {masks['number']}, SHA-256 over all `{masks['sha256']}`."
        if masks.get("number")
        else "- Lesion masks: none.",
        f"- Generator: preset `{config['generator'].get('preset', 'clinical')}`{', changed by' if changes else '.'}",
    ]
    if "masks" in (changes.get("lesions") or {}):
        # Cards are shown to others: no paths of this machine.
        changes["lesions"] = {key: value for key, value in changes["lesions"].items() if key != "masks"}
    if changes:
        lines.append("\n```yaml\n" + yaml.safe_dump(changes, sort_keys=True, allow_unicode=True) + "```")
    return _table(["label map", "trained on", "validated on", "SHA-256"], rows) + "\n\n" + "\n".join(lines)


def _validation(run: Path, trained: Sequence[str]) -> str:
    rows: list[list[Any]] = []
    for name in trained:
        path = run / name / VALIDATION
        if not path.is_file():
            continue
        with path.open(newline="", encoding="utf-8") as stream:
            measured = list(csv.DictReader(stream, delimiter="\t"))
        best = (_state(run, name).get("best") or {}).get("step")
        chosen = [("best of the last stage", row) for row in measured if int(row["step"]) == best]
        chosen.append(("last", measured[-1]))
        for which, row in chosen:
            scores = [f"{words} {float(row[key]):.4f}" for key, words in SCORES.items() if row.get(key, "n/a") != "n/a"]
            rows.append([name, which, row["step"], ", ".join(scores)])
    return _table(["network", "validation", "step", "mean"], rows) if rows else "None."


def _origin(provenance: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in provenance["versions"].items())
    return (
        f"- Code: {versions}; commit `{provenance['commit'] or 'unknown'}`.\n"
        "- Licence: Apache-2.0, as the code; what was learnt from has licences of its own, which its owners know.\n"
        "- Method: Iglesias et al., Science Advances 2023 (SynthSR); Iglesias et al., NeuroImage 2021."
    )
