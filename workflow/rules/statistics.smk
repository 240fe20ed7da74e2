# Stage 7: cohort statistics.


rule ageing:
    input:
        volumes=volumes_of_level,
        participants=RESULTS.sessions,
    output:
        RESULTS.statistics("ageing-{level}") / "ageing_summary.tsv",
        RESULTS.statistics("ageing-{level}") / "ageing_curves.tsv",
        RESULTS.statistics("ageing-{level}") / "ageing_scores.tsv",
        RESULTS.statistics("ageing-{level}") / "ageing.json",
        RESULTS.statistics("ageing-{level}") / "ageing.png",
    log:
        "logs/ageing-{level}.log",
    benchmark:
        "benchmarks/ageing-{level}.tsv"
    conda:
        "../../envs/synthsr-cohort.yaml"
    params:
        knots=config["ageing"]["knots"],
        folder=subpath(output[0], parent=True),
    shell:
        "python -m analysis ageing {input.volumes:q} --participants {input.participants:q}"
        " --knots {params.knots} --out {params.folder:q} > {log:q} 2>&1"


rule agreement:
    input:
        volumes=RESULTS.volumes,
        truth=config["truth"] or [],
        sessions=RESULTS.sessions,
    output:
        RESULTS.statistics("agreement") / "agreement.tsv",
        RESULTS.statistics("agreement") / "agreement_scans.tsv",
        RESULTS.statistics("agreement") / "agreement_pearson.tsv",
        RESULTS.statistics("agreement") / "agreement_slopes.tsv",
        RESULTS.statistics("agreement") / "agreement.json",
        RESULTS.statistics("agreement") / "agreement.png",
        RESULTS.statistics("agreement") / "agreement_differences.png",
    log:
        "logs/agreement.log",
    benchmark:
        "benchmarks/agreement.tsv"
    conda:
        "../../envs/synthsr-cohort.yaml"
    params:
        # Written with input.sessions, but no file of the plan: Snakemake deletes what it is told to make.
        links=PRIVATE.sessions,
        folder=subpath(output[0], parent=True),
    shell:
        "python -m analysis agreement {input.volumes:q} {input.truth:q} --links {params.links:q}"
        " --participants {input.sessions:q} --out {params.folder:q} > {log:q} 2>&1"


rule groups:
    input:
        volumes=RESULTS.session_volumes,
        participants=RESULTS.sessions,
        diagnoses=config["groups"]["diagnoses"] or [],
    output:
        RESULTS.statistics("groups") / "groups.tsv",
        RESULTS.statistics("groups") / "groups.json",
        RESULTS.statistics("groups") / "groups.png",
    log:
        "logs/groups.log",
    benchmark:
        "benchmarks/groups.tsv"
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


rule asymmetry:
    input:
        volumes=RESULTS.session_volumes,
        lesions=config["lesions"] or [],
        sessions=RESULTS.sessions,
    output:
        RESULTS.statistics("asymmetry") / "asymmetry.tsv",
        RESULTS.statistics("asymmetry") / "asymmetry.json",
        RESULTS.statistics("asymmetry") / "asymmetry.png",
    log:
        "logs/asymmetry.log",
    benchmark:
        "benchmarks/asymmetry.tsv"
    conda:
        "../../envs/synthsr-cohort.yaml"
    params:
        # Written with input.sessions, as for agreement.
        links=PRIVATE.sessions,
        folder=subpath(output[0], parent=True),
    shell:
        "python -m analysis asymmetry {input.volumes:q} --lesions {input.lesions:q} --links {params.links:q}"
        " --out {params.folder:q} > {log:q} 2>&1"


rule landmarks:
    input:
        errors=config["landmarks"] or [],
    output:
        RESULTS.statistics("landmarks") / "landmarks.tsv",
        RESULTS.statistics("landmarks") / "landmarks_tests.tsv",
        RESULTS.statistics("landmarks") / "landmarks.json",
        RESULTS.statistics("landmarks") / "landmarks.png",
    log:
        "logs/landmarks.log",
    benchmark:
        "benchmarks/landmarks.tsv"
    conda:
        "../../envs/synthsr-cohort.yaml"
    params:
        folder=subpath(output[0], parent=True),
    shell:
        "python -m analysis landmarks {input.errors:q} --out {params.folder:q} > {log:q} 2>&1"
