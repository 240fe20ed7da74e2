# Stage 6: an unbiased atlas of the included people (docs/atlas.md), if the study asks for it. A round is one job per
# shard, one that averages their transforms, one per shard that adds up their images, and one that finishes the template.


rule atlas_members:
    input:
        RESULTS.gate,
        aligned=registration_shards("align") if config["registration"]["align"] else [],
        lesions=config["atlas"]["lesions"] or [],
    output:
        members=ATLAS.members,
        scans=ATLAS.scans,
    log:
        "logs/atlas_members.log",
    benchmark:
        "benchmarks/atlas_members.tsv"
    conda:
        "../../envs/niftyreg.yaml"
    params:
        folder=ATLAS.root,
        results=RESULTS.root,
        options=lambda wildcards, input: (
            ["--lesions", input.lesions, "--links", PRIVATE.sessions]
            if input.lesions
            else []
        ),
    shell:
        "python -m analysis atlas members --out {params.folder:q} --results {params.results:q} {params.options:q}"
        " > {log:q} 2>&1"


rule atlas_prepare:
    input:
        ATLAS.members,
    output:
        update(ATLAS.root / "prepared" / "shard-{shard}.tsv"),
    log:
        "logs/atlas_prepare/{shard}.log",
    benchmark:
        "benchmarks/atlas_prepare/{shard}.tsv"
    conda:
        "../../envs/niftyreg.yaml"
    params:
        folder=ATLAS.root,
        shard=atlas_shard,
        options=atlas_options("voxel_mm"),
    shell:
        "python -m analysis atlas prepare --out {params.folder:q} --shard {params.shard} {params.options:q}"
        " > {log:q} 2>&1"


rule atlas_register:
    input:
        atlas_previous,
    output:
        update(ATLAS.root / "round-{round}" / "shard-{shard}.tsv"),
    log:
        "logs/atlas_register/{round}-{shard}.log",
    benchmark:
        "benchmarks/atlas_register/{round}-{shard}.tsv"
    conda:
        "../../envs/niftyreg.yaml"
    threads: 2
    params:
        folder=ATLAS.root,
        shard=atlas_shard,
        options=atlas_options("rounds", "spacing_mm", "iterations"),
    shell:
        "python -m analysis atlas register --round {wildcards.round} --out {params.folder:q} --shard {params.shard}"
        " --threads {threads} {params.options:q} > {log:q} 2>&1"


rule atlas_average:
    input:
        atlas_registered,
    output:
        ATLAS.root / "round-{round}" / "linear.tsv",
    log:
        "logs/atlas_average/{round}.log",
    benchmark:
        "benchmarks/atlas_average/{round}.tsv"
    conda:
        "../../envs/niftyreg.yaml"
    params:
        folder=ATLAS.root,
        shards=config["registration"]["shards"],
        options=atlas_options("rounds"),
    shell:
        "python -m analysis atlas average --round {wildcards.round} --out {params.folder:q} --shard 1/{params.shards}"
        " {params.options:q} > {log:q} 2>&1"


rule atlas_add:
    input:
        ATLAS.root / "round-{round}" / "linear.tsv",
    output:
        temp(ATLAS.root / "round-{round}" / "sums-{shard}.nii"),
    log:
        "logs/atlas_add/{round}-{shard}.log",
    benchmark:
        "benchmarks/atlas_add/{round}-{shard}.tsv"
    conda:
        "../../envs/niftyreg.yaml"
    params:
        folder=ATLAS.root,
        shard=atlas_shard,
        options=atlas_options("rounds"),
    shell:
        "python -m analysis atlas add --round {wildcards.round} --out {params.folder:q} --shard {params.shard}"
        " {params.options:q} > {log:q} 2>&1"


rule atlas_finish:
    input:
        lambda wildcards: atlas_shards(atlas_round(wildcards).sums),
        ATLAS.root / "round-{round}" / "linear.tsv",
    output:
        ATLAS.root / "round-{round}" / "template.nii.gz",
        ATLAS.root / "round-{round}" / "round.json",
    log:
        "logs/atlas_finish/{round}.log",
    benchmark:
        "benchmarks/atlas_finish/{round}.tsv"
    conda:
        "../../envs/niftyreg.yaml"
    params:
        folder=ATLAS.root,
        shards=config["registration"]["shards"],
        options=atlas_options("rounds"),
    shell:
        "python -m analysis atlas finish --round {wildcards.round} --out {params.folder:q} --shard 1/{params.shards}"
        " {params.options:q} > {log:q} 2>&1"


rule atlas_carry:
    input:
        ATLAS.members,
        ATLAS.scans,
        ATLAS.round(ATLAS_ROUNDS).linear,
        ATLAS.round(ATLAS_ROUNDS).facts,
    output:
        update(ATLAS.root / "carried" / "shard-{shard}.tsv"),
    log:
        "logs/atlas_carry/{shard}.log",
    benchmark:
        "benchmarks/atlas_carry/{shard}.tsv"
    conda:
        "../../envs/niftyreg.yaml"
    params:
        folder=ATLAS.root,
        shard=atlas_shard,
        options=atlas_options("rounds", "smoothing_mm"),
    shell:
        "python -m analysis atlas carry --out {params.folder:q} --shard {params.shard} {params.options:q}"
        " > {log:q} 2>&1"


rule atlas_collect:
    input:
        atlas_shards(ATLAS.carried_shard),
        [ATLAS.round(number).facts for number in range(ATLAS_ROUNDS + 1)],
    output:
        ATLAS.root / "template_T1w.nii.gz",
        ATLAS.root / "brain.nii.gz",
        ATLAS.root / "labels.nii.gz",
        ATLAS.root / "labels.txt",
        ATLAS.root / "quality.tsv",
        ATLAS.root / "outliers.tsv",
        ATLAS.root / "rounds.tsv",
        ATLAS.root / "atlas.json",
        report(
            ATLAS.root / "atlas.png",
            caption="../report/atlas.rst",
            category="Registration",
            labels={"figure": "atlas"},
        ),
    log:
        "logs/atlas_collect.log",
    benchmark:
        "benchmarks/atlas_collect.tsv"
    conda:
        "../../envs/niftyreg.yaml"
    params:
        folder=ATLAS.root,
        shards=config["registration"]["shards"],
        options=atlas_options("rounds", "mni"),
    shell:
        "python -m analysis atlas collect --out {params.folder:q} --shard 1/{params.shards} {params.options:q}"
        " > {log:q} 2>&1"
