# Configuration, paths and wildcards; no science.
import shlex
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.utils import validate

from analysis.intake import folders
from analysis.layout import Private, Results
from synthsr.files import sha256
from synthsr.weights import locate

validate(config, f"{workflow.basedir}/workflow/schemas/config.schema.yaml")

RESULTS = Results(Path("results"))
PRIVATE = Private(Path(config["private"]))

# Commands run in the environment that Snakemake runs in, whether or not it is activated.
shell.prefix(f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH; ")


wildcard_constraints:
    batch=r"\d+",
    level="scans|sessions",


def source_format():
    """Which of the two kinds of input the configuration names."""
    given = [kind for kind in ("dicom", "bids") if config[kind]]
    if len(given) != 1:
        raise WorkflowError(
            "Give the input as --config dicom=FOLDER (DICOM files, any nesting) or --config bids=FOLDER "
            f"(BIDS dataset); {'both are' if given else 'neither is'} set."
        )
    folder = Path(config[given[0]])
    if not folder.is_dir():
        raise WorkflowError(
            f"{given[0]}: {folder} is not a folder. Relative paths start at --directory ({Path.cwd()}); "
            "an absolute path is safer."
        )
    return given[0]


SOURCE_FORMAT = source_format()


def source_state(wildcards):
    """What the inventory must see: the time of the source's folder tells of its top level only."""
    return folders.state(Path(config[SOURCE_FORMAT]), without=Path.cwd())


def weights_hash(network):
    """SHA-256 of configured weights: a change remakes what they made."""
    return sha256(locate(config["weights"][network]))


def batches(stage):
    """Input function: tables of all batches of a stage, known once the inventory has run."""

    def tables(wildcards):
        checkpoints.inventory.get()
        return [
            RESULTS.batches(stage) / path.name
            for path in sorted(RESULTS.batches("select").glob("batch-*.tsv"))
        ]

    return tables


def statistics_tables():
    """Tables of every analysis of this study."""
    tables = [
        RESULTS.statistics(f"ageing-{level}") / "ageing_summary.tsv"
        for level in ("scans", "sessions")
    ]
    if config["truth"]:
        tables.append(RESULTS.statistics("agreement") / "agreement.tsv")
    if config["groups"]["diagnoses"]:
        tables.append(RESULTS.statistics("groups") / "groups.tsv")
    if config["lesions"]:
        tables.append(RESULTS.statistics("asymmetry") / "asymmetry.tsv")
    if config["landmarks"]:
        tables.append(RESULTS.statistics("landmarks") / "landmarks.tsv")
    return tables


def volumes_of_level(wildcards):
    """Table of volumes at scan or session level."""
    return {"scans": RESULTS.volumes, "sessions": RESULTS.session_volumes}[
        wildcards.level
    ]
