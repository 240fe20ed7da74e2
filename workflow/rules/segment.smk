# Stage 3: segmentations and volumes, by the embedded segmenter and by any other back end (docs/back-ends.md); after the
# gate, of several scans of a session together.


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
        arithmetic=config["arithmetic"],
    shell:
        "python -m analysis segment {input:q} --out {params.results:q} --weights {params.weights:q}"
        " --device {params.device:q} --arithmetic {params.arithmetic} --threads {threads} > {log:q} 2>&1"


# Of the embedded back end (the rule above) the table is in batches/segment, of another in batches/segment-BACKEND.
rule segment_by_tool:
    input:
        RESULTS.batch("synthesise", "{batch}"),
    output:
        update(RESULTS.batches(segment_stage("{backend}")) / "batch-{batch}.tsv"),
    log:
        "logs/segment-{backend}/batch-{batch}.log",
    benchmark:
        "benchmarks/segment-{backend}/batch-{batch}.tsv"
    wildcard_constraints:
        backend="|".join(BACKENDS),
    conda:
        "../../envs/synthsr-cohort.yaml"
    envmodules:
        *tool_modules(),
    threads: 4
    params:
        results=RESULTS.root,
        options=lambda wildcards: tool_options(wildcards.backend),
    shell:
        "python -m analysis segment {input:q} --out {params.results:q} --backend {wildcards.backend}"
        " --threads {threads} {params.options:q} > {log:q} 2>&1"


rule multichannel:
    input:
        RESULTS.gate,
        batches("convert"),
    output:
        update(RESULTS.multichannel_sessions),
    log:
        "logs/multichannel.log",
    benchmark:
        "benchmarks/multichannel.tsv"
    conda:
        "../../envs/synthsr-cohort.yaml"
    threads: 4
    params:
        results=RESULTS.root,
        weights=config["multichannel"]["weights"] or "none",
        weights_hash=multichannel_hash(),
        contrasts=config["multichannel"]["contrasts"],
        segmentation=config["weights"]["segmentation"],
        segmentation_hash=weights_hash("segmentation"),
        device=config["device"],
    shell:
        "python -m analysis multichannel --out {params.results:q} --weights {params.weights:q}"
        " --contrasts {params.contrasts} --segmentation {params.segmentation:q} --device {params.device:q}"
        " --threads {threads} > {log:q} 2>&1"
