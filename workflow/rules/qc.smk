# Stages 4 and 5: the quality gate, and the tables of what passed it.


rule gate:
    input:
        batches("convert"),
        batches("synthesise"),
        batches("segment"),
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
    shell:
        "python -m analysis gate --out {params.results:q} > {log:q} 2>&1"


rule tables:
    input:
        RESULTS.gate,
        RESULTS.series,
        RESULTS.sessions,
        batches("segment"),
    output:
        RESULTS.volumes,
        RESULTS.volumes.with_suffix(".parquet"),
        RESULTS.session_volumes,
        RESULTS.session_volumes.with_suffix(".parquet"),
    log:
        "logs/tables.log",
    benchmark:
        "benchmarks/tables.tsv"
    conda:
        "../../envs/synthsr-cohort.yaml"
    params:
        results=RESULTS.root,
    shell:
        "python -m analysis tables --out {params.results:q} > {log:q} 2>&1"
