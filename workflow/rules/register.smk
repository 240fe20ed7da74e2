# Stage 6: registration of included scans (docs/registration.md); only what the study asks for.


rule register_cohort:
    input:
        RESULTS.gate,
        points=lambda wildcards: (
            config["registration"]["points"] if wildcards.task == "landmarks" else []
        ),
    output:
        update(RESULTS.registration("{task}") / "shard-{shard}.tsv"),
    log:
        "logs/register_cohort/{task}-{shard}.log",
    benchmark:
        "benchmarks/register_cohort/{task}-{shard}.tsv"
    wildcard_constraints:
        task="align|longitudinal|landmarks",
        shard=r"\d+",
    conda:
        "../../envs/niftyreg.yaml"
    threads: 2
    params:
        results=RESULTS.root,
        shard=lambda wildcards: f"{int(wildcards.shard)}/{config['registration']['shards']}",
        options=lambda wildcards, input: registration_options(
            wildcards.task, input.points
        ),
    shell:
        "python -m analysis register-cohort {wildcards.task} --out {params.results:q} --shard {params.shard}"
        " --threads {threads} {params.options:q} > {log:q} 2>&1"


rule collect_landmark_errors:
    input:
        registration_shards("landmarks"),
    output:
        RESULTS.landmark_errors,
    log:
        "logs/collect_landmark_errors.log",
    benchmark:
        "benchmarks/collect_landmark_errors.tsv"
    conda:
        "../../envs/synthsr-cohort.yaml"
    params:
        results=RESULTS.root,
    shell:
        "python -m analysis register-cohort collect --out {params.results:q} > {log:q} 2>&1"
