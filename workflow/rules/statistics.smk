# Stage 7: cohort statistics.


rule harmonise:
    input:
        volumes=lambda wildcards: measured_volumes(wildcards.level),
        sites=config["harmonise"]["sites"] or [],
        sessions=RESULTS.sessions,
    output:
        RESULTS.statistics("harmonise-{level}") / "volumes.tsv",
        RESULTS.statistics("harmonise-{level}") / "harmonise_sites.tsv",
        RESULTS.statistics("harmonise-{level}") / "harmonise.json",
        report(
            RESULTS.statistics("harmonise-{level}") / "harmonise.png",
            caption="../report/harmonise.rst",
            category="Statistics",
            labels={"figure": "harmonise, {level}"},
        ),
    log:
        "logs/harmonise-{level}.log",
    benchmark:
        "benchmarks/harmonise-{level}.tsv"
    conda:
        "../../envs/synthsr-cohort.yaml"
    params:
        column=config["harmonise"]["column"],
        keep=config["harmonise"]["keep"],
        # Written with input.sessions, as for agreement.
        links=PRIVATE.sessions,
        folder=subpath(output[0], parent=True),
    shell:
        "python -m analysis harmonise {input.volumes:q} --participants {input.sites:q} --links {params.links:q}"
        " --site {params.column:q} --keep {params.keep:q} --out {params.folder:q} > {log:q} 2>&1"


rule ageing:
    input:
        volumes=lambda wildcards: analysed_volumes(wildcards.level),
        participants=RESULTS.sessions,
    output:
        RESULTS.statistics("ageing-{level}") / "ageing_summary.tsv",
        RESULTS.statistics("ageing-{level}") / "ageing_curves.tsv",
        RESULTS.statistics("ageing-{level}") / "ageing_scores.tsv",
        RESULTS.statistics("ageing-{level}") / "ageing.json",
        report(
            RESULTS.statistics("ageing-{level}") / "ageing.png",
            caption="../report/ageing.rst",
            category="Statistics",
            labels={"figure": "ageing, {level}"},
        ),
    log:
        "logs/ageing-{level}.log",
    benchmark:
        "benchmarks/ageing-{level}.tsv"
    conda:
        "../../envs/synthsr-cohort.yaml"
    params:
        knots=config["ageing"]["knots"],
        folder=subpath(output[0], parent=True),
    shell:
        "python -m analysis ageing {input.volumes:q} --participants {input.participants:q}"
        " --knots {params.knots} --out {params.folder:q} > {log:q} 2>&1"


rule agreement:
    input:
        # As measured, also of harmonised studies: the truth knows no sites.
        volumes=RESULTS.volumes,
        truth=config["truth"] or [],
        sessions=RESULTS.sessions,
    output:
        RESULTS.statistics("agreement") / "agreement.tsv",
        RESULTS.statistics("agreement") / "agreement_scans.tsv",
        RESULTS.statistics("agreement") / "agreement_pearson.tsv",
        RESULTS.statistics("agreement") / "agreement_slopes.tsv",
        RESULTS.statistics("agreement") / "agreement.json",
        report(
            RESULTS.statistics("agreement") / "agreement.png",
            caption="../report/agreement.rst",
            category="Statistics",
            labels={"figure": "agreement"},
        ),
        report(
            RESULTS.statistics("agreement") / "agreement_differences.png",
            caption="../report/agreement_differences.rst",
            category="Statistics",
            labels={"figure": "agreement differences"},
        ),
    log:
        "logs/agreement.log",
    benchmark:
        "benchmarks/agreement.tsv"
    conda:
        "../../envs/synthsr-cohort.yaml"
    params:
        # Written with input.sessions, but no file of the plan: Snakemake deletes what it is told to make.
        links=PRIVATE.sessions,
        folder=subpath(output[0], parent=True),
    shell:
        "python -m analysis agreement {input.volumes:q} {input.truth:q} --links {params.links:q}"
        " --participants {input.sessions:q} --out {params.folder:q} > {log:q} 2>&1"


rule groups:
    input:
        volumes=analysed_volumes("sessions"),
        participants=RESULTS.sessions,
        diagnoses=config["groups"]["diagnoses"] or [],
    output:
        RESULTS.statistics("groups") / "groups.tsv",
        RESULTS.statistics("groups") / "groups.json",
        report(
            RESULTS.statistics("groups") / "groups.png",
            caption="../report/groups.rst",
            category="Statistics",
            labels={"figure": "groups"},
        ),
    log:
        "logs/groups.log",
    benchmark:
        "benchmarks/groups.tsv"
    conda:
        "../../envs/synthsr-cohort.yaml"
    params:
        levels=config["groups"]["levels"],
        # Written with input.participants, as for agreement.
        links=PRIVATE.sessions,
        folder=subpath(output[0], parent=True),
    shell:
        "python -m analysis groups {input.volumes:q} --participants {input.participants:q}"
        " --diagnoses {input.diagnoses:q} --links {params.links:q} --groups {params.levels:q}"
        " --out {params.folder:q} > {log:q} 2>&1"


rule asymmetry:
    input:
        volumes=analysed_volumes("sessions"),
        lesions=config["lesions"] or [],
        sessions=RESULTS.sessions,
    output:
        RESULTS.statistics("asymmetry") / "asymmetry.tsv",
        RESULTS.statistics("asymmetry") / "asymmetry.json",
        report(
            RESULTS.statistics("asymmetry") / "asymmetry.png",
            caption="../report/asymmetry.rst",
            category="Statistics",
            labels={"figure": "asymmetry"},
        ),
    log:
        "logs/asymmetry.log",
    benchmark:
        "benchmarks/asymmetry.tsv"
    conda:
        "../../envs/synthsr-cohort.yaml"
    params:
        # Written with input.sessions, as for agreement.
        links=PRIVATE.sessions,
        folder=subpath(output[0], parent=True),
    shell:
        "python -m analysis asymmetry {input.volumes:q} --lesions {input.lesions:q} --links {params.links:q}"
        " --out {params.folder:q} > {log:q} 2>&1"


rule landmarks:
    input:
        errors=landmark_errors(),
    output:
        RESULTS.statistics("landmarks") / "landmarks.tsv",
        RESULTS.statistics("landmarks") / "landmarks_tests.tsv",
        RESULTS.statistics("landmarks") / "landmarks.json",
        report(
            RESULTS.statistics("landmarks") / "landmarks.png",
            caption="../report/landmarks.rst",
            category="Statistics",
            labels={"figure": "landmarks"},
        ),
    log:
        "logs/landmarks.log",
    benchmark:
        "benchmarks/landmarks.tsv"
    conda:
        "../../envs/synthsr-cohort.yaml"
    params:
        folder=subpath(output[0], parent=True),
    shell:
        "python -m analysis landmarks {input.errors:q} --out {params.folder:q} > {log:q} 2>&1"


rule lesion_map:
    input:
        masks=matching("lesion_map.masks"),
        participants=config["lesion_map"]["participants"] or [],
        atlas=config["lesion_map"]["atlas"] or [],
        atlas_names=config["lesion_map"]["atlas_names"] or [],
        template=config["lesion_map"]["template"] or [],
    output:
        RESULTS.statistics("lesion-map") / "lesions.tsv",
        RESULTS.statistics("lesion-map") / "lesion_maxima.tsv",
        RESULTS.statistics("lesion-map") / "lesion_regions.tsv",
        RESULTS.statistics("lesion-map") / "lesion_count.nii.gz",
        RESULTS.statistics("lesion-map") / "lesion_probability.nii.gz",
        RESULTS.statistics("lesion-map") / "lesion_map.json",
        report(
            RESULTS.statistics("lesion-map") / "lesion_map.png",
            caption="../report/lesion_map.rst",
            category="Statistics",
            labels={"figure": "lesion map"},
        ),
    log:
        "logs/lesion_map.log",
    benchmark:
        "benchmarks/lesion_map.tsv"
    conda:
        "../../envs/synthsr-cohort.yaml"
    params:
        masks=lambda wildcards, input: images("lesion_map.masks", input.masks),
        # Options that are left out where their key is not set.
        options=lambda wildcards, input: given(
            {
                "--participants": input.participants,
                "--score": config["lesion_map"]["score"],
                "--atlas": input.atlas,
                "--atlas-names": input.atlas_names,
                "--template": input.template,
                "--mni-affine": mni_affine("lesion_map.masks"),
            }
        ),
        folder=subpath(output[0], parent=True),
    shell:
        "python -m analysis lesion-map {params.masks:q} {params.options:q} --out {params.folder:q} > {log:q} 2>&1"


rule tbm:
    input:
        images=matching("tbm.images"),
        participants=config["tbm"]["participants"] or [],
        mask=config["tbm"]["mask"] or [],
        template=config["tbm"]["template"] or [],
    output:
        RESULTS.statistics("tbm") / "tbm_maxima.tsv",
        RESULTS.statistics("tbm") / "tbm_z.nii.gz",
        RESULTS.statistics("tbm") / "tbm_p_fdr.nii.gz",
        RESULTS.statistics("tbm") / "tbm_median_difference.nii.gz",
        RESULTS.statistics("tbm") / "tbm_auroc.nii.gz",
        RESULTS.statistics("tbm") / "tbm.json",
        report(
            RESULTS.statistics("tbm") / "tbm.png",
            caption="../report/tbm.rst",
            category="Statistics",
            labels={"figure": "tbm"},
        ),
    log:
        "logs/tbm.log",
    benchmark:
        "benchmarks/tbm.tsv"
    conda:
        "../../envs/synthsr-cohort.yaml"
    params:
        groups=config["tbm"]["groups"],
        images=lambda wildcards, input: images("tbm.images", input.images),
        options=lambda wildcards, input: given(
            {
                "--mask": input.mask,
                "--template": input.template,
                "--mni-affine": mni_affine("tbm.images"),
            }
        ),
        folder=subpath(output[0], parent=True),
    shell:
        "python -m analysis tbm {params.images:q} --participants {input.participants:q} --groups {params.groups:q}"
        " {params.options:q} --out {params.folder:q} > {log:q} 2>&1"


rule thickness:
    input:
        overlays=matching("thickness.overlays"),
        participants=config["thickness"]["participants"] or [],
    output:
        RESULTS.statistics("thickness") / "thickness_effects.tsv",
        RESULTS.statistics("thickness") / "thickness_means.tsv",
        RESULTS.statistics("thickness") / "thickness.json",
        report(
            RESULTS.statistics("thickness") / "thickness.png",
            caption="../report/thickness.rst",
            category="Statistics",
            labels={"figure": "thickness"},
        ),
    log:
        "logs/thickness.log",
    benchmark:
        "benchmarks/thickness.tsv"
    conda:
        "../../envs/synthsr-cohort.yaml"
    params:
        contrast=config["thickness"]["contrast"],
        correct=config["thickness"]["correct"],
        folder=subpath(output[0], parent=True),
    shell:
        "python -m analysis thickness {input.overlays:q} --participants {input.participants:q}"
        " --contrast {params.contrast:q} --correct {params.correct:q} --out {params.folder:q} > {log:q} 2>&1"
