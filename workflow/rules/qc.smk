# Stages 4 and 5: the quality gate, and the tables of what passed it.


rule gate:
    input:
        batches("convert"),
        batches("synthesise"),
        batches("segment"),
        exclusions=person_decisions(),
    output:
        RESULTS.gate,
    log:
        "logs/gate.log",
    benchmark:
        "benchmarks/gate.tsv"
    conda:
        "../../envs/synthsr-cohort.yaml"
    params:
        results=RESULTS.root,
        options=lambda wildcards, input: given({"--exclusions": input.exclusions}),
    shell:
        "python -m analysis gate --out {params.results:q} {params.options:q} > {log:q} 2>&1"


rule tables:
    input:
        RESULTS.gate,
        RESULTS.series,
        RESULTS.sessions,
        *(batches(segment_stage(backend)) for backend in config["backends"]),
        participants=config["participants"] or [],
        multichannel=(
            RESULTS.multichannel_sessions if config["multichannel"]["weights"] else []
        ),
    output:
        tables_of_backends(),
    log:
        "logs/tables.log",
    benchmark:
        "benchmarks/tables.tsv"
    conda:
        "../../envs/synthsr-cohort.yaml"
    params:
        results=RESULTS.root,
        backends=config["backends"],
        # The links are written with RESULTS.sessions, as for agreement.
        options=lambda wildcards, input: given(
            {
                "--participants": input.participants,
                "--links": PRIVATE.sessions if input.participants else None,
                "--multichannel": input.multichannel,
            }
        ),
    shell:
        "python -m analysis tables --out {params.results:q} --backends {params.backends} {params.options:q}"
        " > {log:q} 2>&1"
