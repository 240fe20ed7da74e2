# Stage 2: synthetic 1 mm T1s, or the scans themselves at 1 mm.


rule synthesise:
    input:
        RESULTS.batch("convert", "{batch}"),
    output:
        update(RESULTS.batch("synthesise", "{batch}")),
    log:
        "logs/synthesise/batch-{batch}.log",
    benchmark:
        "benchmarks/synthesise/batch-{batch}.tsv"
    conda:
        "../../envs/synthsr-cohort.yaml"
    envmodules:
        *tool_modules(),
    threads: 4
    params:
        results=RESULTS.root,
        synthesiser=config["synthesiser"],
        options=synthesiser_options(),
        weights=config["weights"]["synthsr"],
        weights_hash=weights_hash("synthsr"),
        device=config["device"],
        arithmetic=config["arithmetic"],
    shell:
        "python -m analysis synthesise {input:q} --out {params.results:q} --synthesiser {params.synthesiser}"
        " --weights {params.weights:q} --device {params.device:q} --arithmetic {params.arithmetic}"
        " --threads {threads} {params.options:q}"
        " > {log:q} 2>&1"
