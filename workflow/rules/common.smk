# Configuration, paths and wildcards; no science.
import glob
import re
import shlex
import sys
from pathlib import Path

import yaml
from snakemake.exceptions import WorkflowError
from snakemake.logging import logger
from snakemake.utils import validate

from analysis import doctor
from analysis.intake import folders
from analysis.atlas.folder import Folder
from analysis.backends.registry import BACKENDS
from analysis.layout import PICTURES, Private, Results, segment_stage
from analysis.simulate import clinic
from synthsr.errors import ConfigurationError
from synthsr.files import sha256
from synthsr.weights import locate

try:
    validate(config, f"{workflow.basedir}/workflow/schemas/config.schema.yaml")
except WorkflowError as error:
    # The rest of it is the whole schema and the whole configuration.
    said, _, rest = str(error).partition("\n\nFailed validating")
    place = re.search(r"On instance(.*):\n", rest)
    raise WorkflowError(
        f"{said} at config{place[1] if place else ''}; keys: config/README.md"
    ) from None

RESULTS = Results(Path("results"))
PRIVATE = Private(Path(config["private"]))
ATLAS = Folder(RESULTS.atlas)
ATLAS_ROUNDS = sum(config["atlas"]["rounds"])

# Simulated patients are the input if there is no other; the truth about them is then known.
CLINIC = Path("clinic")
IS_SIMULATED = bool(config["clinic"]) and not (config["dicom"] or config["bids"])
if IS_SIMULATED:
    config["truth"] = config["truth"] or str(CLINIC / "truth.tsv")

# Analyses of the study's own atlas, which is asked for by the word, take what they need from it.
OF_ATLAS = {
    "lesion_map.masks": {
        "atlas": "labels.nii.gz",
        "atlas_names": "labels.txt",
        "template": "template_T1w.nii.gz",
    },
    "tbm.images": {"mask": "brain.nii.gz", "template": "template_T1w.nii.gz"},
}
for key, names in OF_ATLAS.items():
    section, name = key.split(".")
    if config[section][name] == "atlas":
        if not config["atlas"]["make"]:
            raise WorkflowError(
                f"{key} is atlas, but atlas.make is false; set it to true."
            )
        open_keys = {key: RESULTS.atlas / file for key, file in names.items()}
        given_keys = {key: value for key, value in config[section].items() if value}
        config[section] = {**config[section], **open_keys, **given_keys}


# Commands run in the environment that Snakemake runs in, whether or not it is activated.
shell.prefix(f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH; ")


# Arms of the comparison whose volumes can be had; without the first, which is the reference, there is none.
ARMS = {
    name: arm
    for name, arm in (config["arms"] or {}).items()
    if "volumes" not in arm or Path(arm["volumes"]).is_file()
}
if not list(ARMS)[1:] or list(ARMS)[0] != list(config["arms"])[0]:
    ARMS = {}
if lacking := [name for name in config["arms"] or {} if name not in ARMS]:
    logger.warning(
        f"Not compared: the arms {', '.join(lacking)}. A study that they need has not been run (paths of volumes start "
        f"at {Path.cwd()}). Run it, then this one again; config/experiments/README.md says how."
    )


# Told before the first network runs, not behind the last; a cluster's nodes may have what this machine has not.
for tool in doctor.lacking(config):
    logger.warning(
        f"The {tool.name} cannot run on this machine: {tool.what}. All else is made, and its jobs fail; mend it and "
        "call again, or take it out of the configuration."
    )


wildcard_constraints:
    arm="[A-Za-z0-9-]+",
    batch=r"\d+",
    level="scans|sessions",
    round=r"\d+",
    shard=r"\d+",


def source_format(wildcards=None):
    """Which of the two kinds of input the configuration names."""
    if IS_SIMULATED:
        return "dicom"
    given = [kind for kind in ("dicom", "bids") if config[kind]]
    if len(given) != 1:
        raise WorkflowError(
            "Give the input as --config dicom=SOURCE (folder of DICOM files and archives, an archive, or a DICOMDIR) or "
            f"--config bids=FOLDER (BIDS dataset); {'both are' if given else 'neither is'} set. "
            "Simulated patients: --config clinic=config/clinic.yaml. Networks are trained by the target train with --config training=FILE."
        )
    path, is_dicom = Path(config[given[0]]), given[0] == "dicom"
    if not (path.is_dir() or (is_dicom and path.is_file())):
        what = "a folder, archive or DICOMDIR" if is_dicom else "a folder"
        raise WorkflowError(
            f"{given[0]}: {path} is not {what}. Relative paths start at --directory ({Path.cwd()}); "
            "an absolute path is safer."
        )
    return given[0]


# Said before anything is planned. Training alone needs no source.
if not config["training"]:
    source_format()


def source(wildcards):
    """Folder of the input, or its archive or DICOMDIR."""
    return CLINIC / "dicom" if IS_SIMULATED else config[source_format()]


def source_or_table(wildcards):
    """What the inventory waits for: the source, or the last table of a clinic to be simulated first."""
    return CLINIC / "scans.tsv" if IS_SIMULATED else source(wildcards)


def source_state(wildcards):
    """What the inventory must see: the time of a folder tells of its top level only."""
    return (
        "simulated"
        if IS_SIMULATED
        else folders.state(Path(source(wildcards)), without=Path.cwd())
    )


def weights_hash(network):
    """SHA-256 of configured weights: a change remakes what they made."""
    return sha256(locate(config["weights"][network]))


def multichannel_hash():
    """The same of the weights that take several scans of a session, if there are any."""
    weights = config["multichannel"]["weights"]
    return sha256(locate(weights)) if weights else None


def batches(stage):
    """Input function: tables of all batches of a stage, known once the inventory has run."""

    def tables(wildcards):
        checkpoints.inventory.get()
        return [
            RESULTS.batches(stage) / path.name
            for path in sorted(RESULTS.batches("select").glob("batch-*.tsv"))
        ]

    return tables


def person_decisions():
    """A person's decisions on scans, if there is such a file."""
    return config["exclusions"] if Path(config["exclusions"]).is_file() else []


def tables_of_backends():
    """Tables of every back end, each also as Parquet and with its dictionary; of people whom no table matched."""
    tables = []
    for number, backend in enumerate(config["backends"]):
        names = ["volumes", "volumes_sessions"]
        if backend in BACKENDS and BACKENDS[backend].keeps_subject:
            names.append("surfaces")
        folder = RESULTS.tables(backend if number else None)
        tables += [
            folder / f"{name}.{kind}"
            for name in names
            for kind in ("tsv", "parquet", "json")
        ]
    if config["participants"]:
        tables.append(RESULTS.tables() / "participants_unmatched.tsv")
    return tables


def tool_modules():
    """Environment modules of FreeSurfer and FSL, for snakemake --sdm env-modules."""
    return [tool["module"] for tool in config["tools"].values() if tool["module"]]


def tool_places(suite):
    """Command-line words of where FreeSurfer or FSL is."""
    tool = config["tools"][suite]
    return given(
        {f"--{name}": tool.get(name) for name in ("home", "container", "licence")}
    )


def synthesiser_options():
    """Command-line words of the synthesiser that is another laboratory's tool: where it is."""
    is_tool = config["synthesiser"] == "mri_synthsr"
    return tool_places("freesurfer") if is_tool else []


def tool_options(backend):
    """Command-line words of a back end that is another laboratory's tool: where it is, and recon-all's own."""
    words = tool_places(BACKENDS[backend].suite.name)
    if backend == "recon-all":
        subjects = config["recon_all"]["subjects"]
        words += [
            "--stages",
            *config["recon_all"]["stages"],
            *given({"--subjects": subjects}),
        ]
    return words


def registration_shards(task):
    """Tables of a task of registration, a job each."""
    numbers = range(1, config["registration"]["shards"] + 1)
    return [RESULTS.registered(task, number) for number in numbers]


def registration_tables():
    """Tables of what the study asks to be registered."""
    asked = {
        "align": config["registration"]["align"],
        "longitudinal": config["registration"]["longitudinal"],
        "landmarks": config["registration"]["points"],
    }
    return [
        table
        for task, given in asked.items()
        if given
        for table in registration_shards(task)
    ]


def registration_options(task, points):
    """Command-line words of a task of registration."""
    keys = config["registration"]
    if task == "landmarks":
        # Written with the inventory, which the gate comes after.
        return [
            "--points",
            points,
            "--links",
            PRIVATE.sessions,
            "--spacing-mm",
            *keys["landmark_spacings_mm"],
        ]
    if task == "longitudinal":
        return [
            "--transform",
            keys["longitudinal"],
            "--through",
            keys["through"],
            "--spacing-mm",
            keys["spacing_mm"],
        ]
    return []


def atlas_tables():
    """What an atlas ends in, if the study asks for one."""
    return [RESULTS.atlas / "atlas.json"] if config["atlas"]["make"] else []


def atlas_shards(table):
    """Tables of all shards: ``table`` gives that of a number."""
    return [table(number) for number in range(1, config["registration"]["shards"] + 1)]


def atlas_options(*names):
    """Command-line words of the keys of the atlas that a task needs."""
    keys = config["atlas"]
    words = given(
        {
            f"--{name.replace('_', '-')}": keys[name]
            for name in names
            if name != "rounds"
        }
    )
    return [*(["--rounds", *keys["rounds"]] if "rounds" in names else []), *words]


def atlas_shard(wildcards):
    """Part of the members, as the command wants it."""
    return f"{int(wildcards.shard)}/{config['registration']['shards']}"


def atlas_round(wildcards):
    """Paths of a round."""
    return ATLAS.round(int(wildcards.round))


def atlas_previous(wildcards):
    """What a round starts from."""
    before = ATLAS.round(int(wildcards.round) - 1)
    return [before.linear, before.template, before.facts]


def atlas_registered(wildcards):
    """Tables that the average of a round needs: of its registrations, or at the start of the prepared brains."""
    if int(wildcards.round) == 0:
        return atlas_shards(ATLAS.prepared_shard)
    return [
        *atlas_shards(atlas_round(wildcards).shard),
        ATLAS.round(int(wildcards.round) - 1).linear,
    ]


def landmark_errors():
    """Table of errors at landmarks: made elsewhere, or by this study's own registrations."""
    own = RESULTS.landmark_errors if config["registration"]["points"] else []
    return config["landmarks"] or own


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
    if ARMS:
        tables += [
            RESULTS.statistics(f"arm-{name}") / "agreement.tsv"
            for name in list(ARMS)[1:]
        ]
        if config["groups"]["diagnoses"]:
            tables.append(RESULTS.statistics("arms") / "groups.tsv")
    if config["lesions"]:
        tables.append(RESULTS.statistics("asymmetry") / "asymmetry.tsv")
    if landmark_errors():
        tables.append(RESULTS.statistics("landmarks") / "landmarks.tsv")
    if config["lesion_map"]["masks"]:
        tables.append(RESULTS.statistics("lesion-map") / "lesions.tsv")
    if config["tbm"]["images"]:
        tables.append(RESULTS.statistics("tbm") / "tbm_maxima.tsv")
    if config["thickness"]["overlays"]:
        tables.append(RESULTS.statistics("thickness") / "thickness_effects.tsv")
    return tables


def measured_volumes(level):
    """Table of volumes as measured, per scan or per session."""
    return {"scans": RESULTS.volumes, "sessions": RESULTS.session_volumes}[level]


def analysed_volumes(level):
    """Table of volumes that statistics read: without differences between sites if the study names these."""
    if config["harmonise"]["sites"]:
        return RESULTS.statistics(f"harmonise-{level}") / "volumes.tsv"
    return measured_volumes(level)


def arm_options(name):
    """Command-line words that choose an arm's scans."""
    arm = ARMS[name]
    spacing_mm = map(str, arm.get("spacing_mm", ()))
    return [
        *given({"--contrast": arm.get("contrast")}),
        *(["--spacing-mm", *spacing_mm] if "spacing_mm" in arm else []),
    ]


def matching(key):
    """Files that match the pattern of a key such as ``tbm.images``; empty if the pattern is not set.

    Of the study's own atlas, which is asked for by the word, what is made last.
    """
    section, name = key.split(".")
    pattern = config[section][name]
    if pattern == "atlas":
        return atlas_tables()
    found = sorted(glob.glob(pattern, recursive=True)) if pattern else []
    if pattern and not found:
        raise WorkflowError(
            f"{key}: no file matches {pattern} (seen from {Path.cwd()})."
        )
    return found


def images(key, found):
    """What a command is told of the images of such a key: the files, or the atlas's folder of them."""
    section, name = key.split(".")
    folders = {"lesion_map": "lesions", "tbm": "logjac_affine"}
    if config[section][name] == "atlas":
        return RESULTS.atlas / folders[section]
    return found


def mni_affine(key):
    """The atlas's affine to MNI space, if the images are the atlas's and it has one."""
    section, name = key.split(".")
    is_told = config[section][name] == "atlas" and config["atlas"]["mni"]
    return RESULTS.atlas / "mni_affine.txt" if is_told else None


def given(options):
    """Command-line words of the options that have a value."""
    return [word for name, value in options.items() if value for word in (name, value)]


def configuration_file(key, example):
    """A configuration of training or of a clinic: below the study folder, or shipped with the pipeline."""
    places = [Path(config[key]), Path(workflow.basedir) / config[key]]
    for place in places:
        if place.is_file():
            return place
    raise WorkflowError(
        f"{key}: neither {places[0].resolve()} nor {places[1]} is a file. Give a {key} configuration "
        f"such as {example}; an absolute path is safer."
    )


def lesions_of_clinic(file):
    """Table of lesions that a clinic's configuration gives: of patients with strokes or tumours."""
    try:
        groups = clinic.read(file).groups
    except ConfigurationError as error:
        raise WorkflowError(f"clinic: {error}")
    has_lesions = any(group.diagnosis in ("Stroke", "Tumour") for group in groups)
    return [CLINIC / "lesions.tsv"] if has_lesions else []


def landmarks_of_clinic(file):
    """Table of landmarks that a clinic's configuration gives: of patients with several sessions."""
    has_landmarks = any(group.sessions > 1 for group in clinic.read(file).groups)
    return [CLINIC / "landmarks.tsv"] if has_landmarks else []


def trained_networks(file):
    """Networks for which a training configuration plans stages."""
    plans = yaml.safe_load(file.read_text(encoding="utf-8"))
    return [
        name
        for name in ("segmentation", "synthsr")
        if isinstance(plans, dict) and (plans.get(name) or {}).get("stages")
    ]


def training_outputs(wildcards):
    """What the target train asks for."""
    if not config["training"]:
        raise WorkflowError(
            "The target train needs a training configuration: --config training=config/train.yaml (or your own; "
            "config/README.md)."
        )
    return rules.train_networks.output
