"""Where everything lies below a study folder: scans, batches, tables and folders of analyses.

Files within the folder of an analysis, of the report, and the head of ``rawdata`` are named by their own module.

A scan is known by its ``scan_id``, the BIDS name of its converted file without extension, such as
``sub-k3f7q2x4mzap_ses-01_acq-ax_run-1_T2w``: entities, then the contrast as suffix.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePath

#: Contrasts the intake keeps, as BIDS suffixes. ``ct`` is this project's own: BIDS has none for CT.
CONTRASTS = ("T1w", "T2w", "FLAIR", "PDw", "ct")
#: Stages that work in batches, in order; ``select`` is written by the inventory.
BATCH_STAGES = ("select", "convert", "synthesise", "segment")
#: The stage behind them that makes the report's pictures of scans.
PICTURES = "pictures"
#: The back end that every study has; the gate measures with it. Others are in ``analysis/backends/registry.py``.
EMBEDDED = "embedded"


def entities(scan_id: str) -> dict[str, str]:
    """Entities and ``suffix`` of a BIDS name: ``sub-1_ses-2_T1w`` → ``{"sub": "1", "ses": "2", "suffix": "T1w"}``."""
    *pairs, suffix = scan_id.split("_")
    return {**dict(pair.split("-", 1) for pair in pairs), "suffix": suffix}


def derivative_name(scan_id: str, suffix: str, *, description: str = "synthsr") -> str:
    """Name of a derivative: the source's contrast moves into ``mod-``, so that T2w and FLAIR do not collide."""
    stem, _, contrast = scan_id.rpartition("_")
    return f"{stem}_mod-{contrast}_desc-{description}_{suffix}"


def description_of(path: str) -> str:
    """What made a 1 mm image, from its name: ``…_desc-synthsr_T1w.nii.gz`` → ``synthsr``."""
    return entities(PurePath(path).name.removesuffix(".nii.gz"))["desc"]


def segment_stage(backend: str) -> str:
    """Stage of a back end: ``segment`` of the embedded one, ``segment-synthseg`` of another."""
    return "segment" if backend == EMBEDDED else f"segment-{backend}"


def sidecar_of(image: Path) -> Path:
    """JSON file beside an image."""
    return image.with_name(image.name.removesuffix(".nii.gz") + ".json")


def shard_name(shard: int) -> str:
    """Name of the table of a shard of participants: ``shard-0001.tsv``."""
    return f"shard-{shard:04d}.tsv"


@dataclass(frozen=True)
class Results:
    """Paths below the results folder of a study.

    Attributes
    ----------
    root
        The folder, usually ``results``.
    """

    root: Path

    @property
    def series(self) -> Path:
        """One row per series found, with decision and reason."""
        return self.root / "intake" / "series.tsv"

    @property
    def low_field(self) -> Path:
        """Low-field T1 and T2 that go together; only where there are any."""
        return self.root / "intake" / "low_field.tsv"

    @property
    def sessions(self) -> Path:
        """Age and sex per session."""
        return self.root / "intake" / "sessions.tsv"

    def batches(self, stage: str) -> Path:
        """Folder of a stage's batch tables: of :data:`BATCH_STAGES`, :data:`PICTURES` or :func:`segment_stage`."""
        if stage not in (*BATCH_STAGES, PICTURES) and not stage.startswith("segment-"):
            raise ValueError(f"unknown batch stage {stage!r}")
        return self.root / "batches" / stage

    def batch(self, stage: str, batch: str) -> Path:
        """Table of one batch of one stage; ``batch`` such as ``0001``."""
        return self.batches(stage) / f"batch-{batch}.tsv"

    def anat(self, dataset: str, scan_id: str) -> Path:
        """Folder of a scan's files in a dataset such as ``rawdata``, ``synthsr``, ``segmentation-embedded``."""
        parts = entities(scan_id)
        folder = self.root / dataset / f"sub-{parts['sub']}"
        if "ses" in parts:
            folder /= f"ses-{parts['ses']}"
        return folder / "anat"

    def raw(self, scan_id: str) -> Path:
        """Converted scan."""
        return self.anat("rawdata", scan_id) / f"{scan_id}.nii.gz"

    def synthetic(self, scan_id: str) -> Path:
        """Synthetic 1 mm T1."""
        return self.anat("synthsr", scan_id) / f"{derivative_name(scan_id, 'T1w')}.nii.gz"

    def interpolated(self, scan_id: str) -> Path:
        """Scan interpolated to 1 mm, in studies without SynthSR; it stays what it is, a T2w or another."""
        stem, _, contrast = scan_id.rpartition("_")
        return self.anat("cubic", scan_id) / f"{stem}_desc-cubic_{contrast}.nii.gz"

    def multichannel(self, session: str, ending: str) -> Path:
        """What is made of several scans of a session, such as ``sub-1_ses-01``; ``ending`` such as ``T1w.nii.gz``."""
        return self.anat("multichannel", f"{session}_T1w") / f"{session}_desc-multichannel_{ending}"

    @property
    def multichannel_sessions(self) -> Path:
        """One row per session of which several scans made one synthetic T1."""
        return self.root / "multichannel" / "sessions.tsv"

    def segmentation(self, scan_id: str, *, description: str = "synthsr", backend: str = EMBEDDED) -> Path:
        """Label map of a back end; ``description`` says what made the image it is of."""
        name = derivative_name(scan_id, "dseg", description=description)
        return self.anat(f"segmentation-{backend}", scan_id) / f"{name}.nii.gz"

    def scan_volumes(self, scan_id: str, *, description: str = "synthsr", backend: str = EMBEDDED) -> Path:
        """Volumes of one scan by a back end; beside it a JSON file of where they come from."""
        name = derivative_name(scan_id, "volumes", description=description)
        return self.anat(f"segmentation-{backend}", scan_id) / f"{name}.tsv"

    def scan_surfaces(self, scan_id: str, *, description: str = "synthsr", backend: str) -> Path:
        """Thickness and area of one scan's cortex by a back end that has them."""
        name = derivative_name(scan_id, "surfaces", description=description)
        return self.anat(f"segmentation-{backend}", scan_id) / f"{name}.tsv"

    def subject(self, scan_id: str, *, backend: str) -> Path:
        """FreeSurfer subject of one scan."""
        return self.root / f"segmentation-{backend}" / "subjects" / scan_id

    @property
    def gate(self) -> Path:
        """Quality measures and the decision per scan."""
        return self.root / "qc" / "scans.tsv"

    def tables(self, backend: str | None = None) -> Path:
        """Folder of the tables of the study's first back end, or of another."""
        return self.root / "tables" / backend if backend else self.root / "tables"

    @property
    def volumes(self) -> Path:
        """Long table of volumes, one row per scan and structure (beside it the same as Parquet)."""
        return self.tables() / "volumes.tsv"

    @property
    def session_volumes(self) -> Path:
        """Long table of volumes, one row per session and structure: the median over its scans."""
        return self.tables() / "volumes_sessions.tsv"

    def registration(self, task: str) -> Path:
        """Folder of a task of ``register-cohort``: ``align``, ``longitudinal`` or ``landmarks``."""
        return self.root / "registration" / task

    def registered(self, task: str, shard: int) -> Path:
        """Table of one shard of such a task."""
        return self.registration(task) / shard_name(shard)

    def aligned(self, scan_id: str) -> Path:
        """Scan whose header lays it on its session's reference scan."""
        stem, _, contrast = scan_id.rpartition("_")
        return self.anat("aligned", scan_id) / f"{stem}_desc-aligned_{contrast}.nii.gz"

    def longitudinal(self, scan_id: str) -> Path:
        """Folder of a later session's scan registered with the first session's."""
        return self.registration("longitudinal") / scan_id

    @property
    def landmark_errors(self) -> Path:
        """Errors of registration at landmarks, directly and through SynthSR."""
        return self.registration("landmarks") / "errors.tsv"

    @property
    def atlas(self) -> Path:
        """Folder of the study's atlas; what lies below it: :mod:`analysis.atlas.folder`."""
        return self.root / "atlas"

    def arm(self, name: str) -> Path:
        """Volumes of one arm of a comparison, one row per session and structure."""
        return self.root / "arms" / f"{name}.tsv"

    def statistics(self, analysis: str) -> Path:
        """Folder of one analysis."""
        return self.root / "statistics" / analysis

    def training(self, run: str) -> Path:
        """Folder of one training run."""
        return self.root / "training" / run

    @property
    def report(self) -> Path:
        """The report's first page."""
        return self.root / "report" / "index.html"

    def scan_page(self, scan_id: str, *, kind: str = "html") -> Path:
        """A scan's page in the report; of kind ``png`` its picture, of kind ``js`` what the viewer shows of it."""
        return self.report.parent / "scans" / f"{scan_id}.{kind}"


@dataclass(frozen=True)
class Private:
    """Paths below the folder that holds what identifies people (mode 0700, never below results).

    Attributes
    ----------
    root
        The folder, usually ``private``.
    """

    root: Path

    @property
    def series(self) -> Path:
        """Linking table: series to UIDs, patient, dates."""
        return self.root / "series.tsv"

    @property
    def sessions(self) -> Path:
        """Linking table: sessions to study UIDs and patient identifiers."""
        return self.root / "sessions.tsv"

    @property
    def files(self) -> Path:
        """Every file of every series."""
        return self.root / "files.tsv"

    @property
    def index(self) -> Path:
        """Headers of the source's files (SQLite)."""
        return self.root / "index.sqlite"

    @property
    def unpacked(self) -> Path:
        """What archives of the source hold."""
        return self.root / "unpacked"

    @property
    def key(self) -> Path:
        """Secret of the pseudonyms (mode 0600); without it earlier ones cannot be made again."""
        return self.root / "pseudonyms.key"

    def conversion(self, scan_id: str) -> Path:
        """What dcm2niix said of a scan: its whole sidecar and its messages."""
        return self.root / "conversions" / f"{scan_id}.json"
