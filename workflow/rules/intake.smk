# Stages 0 and 1: what is there, what is kept, and its conversion to BIDS without identifiers.


checkpoint inventory:
    input:
        source_or_table,
        series_rules=f"{workflow.basedir}/config/series_rules.yaml",
    output:
        series=RESULTS.series,
        sessions=RESULTS.sessions,
    log:
        "logs/inventory.log",
    benchmark:
        "benchmarks/inventory.tsv"
    conda:
        "../../envs/synthsr-cohort.yaml"
    threads: 8
    params:
        source=source,
        format=source_format,
        private=PRIVATE.root,
        results=RESULTS.root,
        batch_size=config["batch_size"],
        state=source_state,
    shell:
        "python -m analysis inventory {params.source:q} --format {params.format} --out {params.results:q}"
        " --private {params.private:q} --batch-size {params.batch_size} --rules {input.series_rules:q}"
        " --processes {threads} > {log:q} 2>&1"


rule convert:
    input:
        RESULTS.batch("select", "{batch}"),
    output:
        update(RESULTS.batch("convert", "{batch}")),
    log:
        "logs/convert/batch-{batch}.log",
    benchmark:
        "benchmarks/convert/batch-{batch}.tsv"
    conda:
        "../../envs/synthsr-cohort.yaml"
    params:
        private=PRIVATE.root,
        results=RESULTS.root,
        deface=given({"--deface": config["deface"]}),
        deface_weights=sha256(locate(config["deface"])) if config["deface"] else "",
        device=config["device"],
    shell:
        "python -m analysis convert {input:q} --private {params.private:q} --out {params.results:q}"
        " {params.deface:q} --device {params.device} > {log:q} 2>&1"
