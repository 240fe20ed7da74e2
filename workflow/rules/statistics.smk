# Stage 7: cohort statistics.


rule ageing:
    input:
        volumes=volumes_of_level,
        participants=RESULTS.sessions,
    output:
        RESULTS.statistics("ageing-{level}") / "ageing_summary.tsv",
        RESULTS.statistics("ageing-{level}") / "ageing_curves.tsv",
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
        volumes=RESULTS.session_volumes,
        truth=config["truth"] or [],
        sessions=RESULTS.sessions,
    output:
        RESULTS.statistics("agreement") / "agreement.tsv",
        RESULTS.statistics("agreement") / "agreement.json",
        RESULTS.statistics("agreement") / "agreement.png",
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
        " --out {params.folder:q} > {log:q} 2>&1"
