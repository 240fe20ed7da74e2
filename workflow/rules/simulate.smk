# Simulated patients with known truth, a target of its own or the study's input: --config clinic=config/clinic.yaml.

if config["clinic"]:
    CLINIC_FILE = configuration_file("clinic", "config/clinic.yaml")

    # The patients' files are no outputs: a job that was broken off goes on from them.
    rule simulate:
        input:
            CLINIC_FILE,
        output:
            CLINIC / "sessions.tsv",
            CLINIC / "truth.tsv",
            CLINIC / "scans.tsv",
            CLINIC / "clinic.json",
            lesions_of_clinic(CLINIC_FILE),
            landmarks_of_clinic(CLINIC_FILE),
        log:
            "logs/simulate.log",
        benchmark:
            "benchmarks/simulate.tsv"
        conda:
            "../../envs/synthsr-cohort.yaml"
        threads: 16
        params:
            folder=CLINIC,
        shell:
            "python -m analysis simulate {input:q} --out {params.folder:q} --jobs {threads} > {log:q} 2>&1"
