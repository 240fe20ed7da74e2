# From a hospital's brain MRI archive to cohort science; see README.md and workflow/ARCHITECTURE.md.
#
#   snakemake --cores 16 --directory STUDY --config dicom=/path/to/export
#
from snakemake.utils import min_version

min_version("9.0")


configfile: f"{workflow.basedir}/config/config.yaml"


# What `snakemake --report FILE.html` begins with.
report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/simulate.smk"
include: "workflow/rules/intake.smk"
include: "workflow/rules/synthsr.smk"
include: "workflow/rules/segment.smk"
include: "workflow/rules/qc.smk"
include: "workflow/rules/register.smk"
include: "workflow/rules/atlas.smk"
include: "workflow/rules/statistics.smk"
include: "workflow/rules/arms.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/train.smk"


onsuccess:
    if RESULTS.report.is_file():
        # How many series and scans are in, and decisions on scans that there are none of.
        for name in ("inventory", "gate"):
            print(Path(f"logs/{name}.log").read_text(), end="")
        print(f"Report: {RESULTS.report.resolve()}")


localrules:
    all,
    intake,
    synthetic,
    segmentation,
    volumes,
    registration,
    atlas,
    statistics,
    train,


rule all:
    default_target: True
    input:
        RESULTS.report,
        # By name, as what only leads to the report is not looked for when that is there.
        RESULTS.gate,
        tables_of_backends(),
        statistics_tables(),
        registration_tables(),
        atlas_tables(),


# One target per stage.
rule intake:
    input:
        batches("convert"),


rule synthetic:
    input:
        batches("synthesise"),


rule segmentation:
    input:
        batches("segment"),


rule volumes:
    input:
        RESULTS.volumes,


rule registration:
    input:
        registration_tables(),
        atlas_tables(),


rule atlas:
    input:
        atlas_tables(),


rule statistics:
    input:
        statistics_tables(),


rule train:
    input:
        training_outputs,
