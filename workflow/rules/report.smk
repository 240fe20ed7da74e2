# Stage 8: pictures of scans, in batches, and the report.


rule pictures:
    input:
        scans=RESULTS.batch("segment", "{batch}"),
        lesions=config["report"]["lesions"] or [],
    output:
        update(RESULTS.batch(PICTURES, "{batch}")),
    log:
        "logs/pictures/batch-{batch}.log",
    benchmark:
        "benchmarks/pictures/batch-{batch}.tsv"
    conda:
        "../../envs/synthsr-cohort.yaml"
    params:
        results=RESULTS.root,
        options=lambda wildcards, input: given({"--lesions": input.lesions}),
    shell:
        "python -m analysis pictures {input.scans:q} --out {params.results:q} {params.options:q} > {log:q} 2>&1"


rule report:
    input:
        RESULTS.gate,
        tables_of_backends(),
        statistics_tables(),
        registration_tables(),
        atlas_tables(),
        batches(PICTURES),
        exclusions=person_decisions(),
    output:
        report(
            RESULTS.report,
            caption="../report/index.rst",
            category="Cohort",
            labels={"figure": "report"},
        ),
    log:
        "logs/report.log",
    benchmark:
        "benchmarks/report.tsv"
    conda:
        "../../envs/synthsr-cohort.yaml"
    params:
        results=RESULTS.root,
        options=lambda wildcards, input: given({"--exclusions": input.exclusions}),
    shell:
        "python -m analysis report {params.results:q} {params.options:q} > {log:q} 2>&1"
