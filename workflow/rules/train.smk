# Training of networks, a target of its own: --config training=config/train.yaml.

if config["training"]:
    TRAINING_FILE = configuration_file("training", "config/train.yaml")
    TRAINING_RUN = RESULTS.training(TRAINING_FILE.stem)

    # The run's checkpoints are no outputs: a job that was broken off goes on from them.
    rule train_networks:
        input:
            TRAINING_FILE,
        output:
            weights=[
                TRAINING_RUN / f"{name}.safetensors"
                for name in trained_networks(TRAINING_FILE)
            ],
            card=TRAINING_RUN / "MODEL_CARD.md",
        log:
            f"logs/train/{TRAINING_FILE.stem}.log",
        benchmark:
            f"benchmarks/train/{TRAINING_FILE.stem}.tsv"
        conda:
            "../../envs/synthsr-cohort.yaml"
        threads: 16
        params:
            run=TRAINING_RUN,
            device=config["device"],
        shell:
            "python -m synthsr train {input:q} --run {params.run:q} --device {params.device:q}"
            " --threads {threads} > {log:q} 2>&1"
