# Stage 3: segmentations and volumes of the synthetic T1s.


rule segment:
    input:
        RESULTS.batch("synthesise", "{batch}"),
    output:
        update(RESULTS.batch("segment", "{batch}")),
    log:
        "logs/segment/batch-{batch}.log",
    benchmark:
        "benchmarks/segment/batch-{batch}.tsv"
    conda:
        "../../envs/synthsr-cohort.yaml"
    threads: 4
    params:
        results=RESULTS.root,
        weights=config["weights"]["segmentation"],
        weights_hash=weights_hash("segmentation"),
        device=config["device"],
    shell:
        "python -m analysis segment {input:q} --out {params.results:q} --weights {params.weights:q}"
        " --device {params.device:q} --threads {threads} > {log:q} 2>&1"
