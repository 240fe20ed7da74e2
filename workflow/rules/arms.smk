# Arms of a comparison: the same people measured in several ways.


rule select_arm:
    input:
        lambda wildcards: ARMS[wildcards.arm].get("volumes", RESULTS.volumes),
    output:
        RESULTS.arm("{arm}"),
    log:
        "logs/select_arm-{arm}.log",
    benchmark:
        "benchmarks/select_arm-{arm}.tsv"
    conda:
        "../../envs/synthsr-cohort.yaml"
    params:
        options=lambda wildcards: arm_options(wildcards.arm),
    shell:
        "python -m analysis arm {input:q} {params.options:q} --out {output:q} > {log:q} 2>&1"


rule agree_arm:
    input:
        volumes=RESULTS.arm("{arm}"),
        reference=[RESULTS.arm(name) for name in list(ARMS)[:1]],
        sessions=RESULTS.sessions,
    output:
        RESULTS.statistics("arm-{arm}") / "agreement.tsv",
        RESULTS.statistics("arm-{arm}") / "agreement_scans.tsv",
        RESULTS.statistics("arm-{arm}") / "agreement_pearson.tsv",
        RESULTS.statistics("arm-{arm}") / "agreement_slopes.tsv",
        RESULTS.statistics("arm-{arm}") / "agreement.json",
        RESULTS.statistics("arm-{arm}") / "agreement.png",
        RESULTS.statistics("arm-{arm}") / "agreement_differences.png",
    log:
        "logs/agree_arm-{arm}.log",
    benchmark:
        "benchmarks/agree_arm-{arm}.tsv"
    conda:
        "../../envs/synthsr-cohort.yaml"
    params:
        folder=subpath(output[0], parent=True),
    shell:
        "python -m analysis agreement {input.volumes:q} {input.reference:q} --participants {input.sessions:q}"
        " --out {params.folder:q} > {log:q} 2>&1"


rule compare_arms:
    input:
        volumes=[RESULTS.arm(name) for name in ARMS],
        participants=RESULTS.sessions,
        diagnoses=config["groups"]["diagnoses"] or [],
    output:
        RESULTS.statistics("arms") / "groups.tsv",
        RESULTS.statistics("arms") / "groups_methods.tsv",
        RESULTS.statistics("arms") / "groups.json",
        report(
            RESULTS.statistics("arms") / "groups.png",
            caption="../report/arms.rst",
            category="Statistics",
            labels={"figure": "groups by every arm"},
        ),
    log:
        "logs/compare_arms.log",
    benchmark:
        "benchmarks/compare_arms.tsv"
    conda:
        "../../envs/synthsr-cohort.yaml"
    params:
        levels=config["groups"]["levels"],
        # Written with input.participants, as for agreement.
        links=PRIVATE.sessions,
        folder=subpath(output[0], parent=True),
    shell:
        "python -m analysis groups {input.volumes:q} --participants {input.participants:q}"
        " --diagnoses {input.diagnoses:q} --links {params.links:q} --groups {params.levels:q}"
        " --out {params.folder:q} > {log:q} 2>&1"
