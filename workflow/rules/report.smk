# Stage 8: the report.


rule report:
    input:
        RESULTS.gate,
        RESULTS.volumes,
        statistics_tables(),
    output:
        RESULTS.report,
    log:
        "logs/report.log",
    benchmark:
        "benchmarks/report.tsv"
    conda:
        "../../envs/synthsr-cohort.yaml"
    params:
        results=RESULTS.root,
        folder=RESULTS.report.parent,
    shell:
        "python -m analysis report {params.results:q} --out {params.folder:q} > {log:q} 2>&1"
