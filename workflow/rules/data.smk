def pairs_stage(wildcards):
    """Large derived sets have a stage of their own, which DVC does not cache."""
    stages = (f"{name}@{wildcards.pairs}" for name in ("prepare", "prepare-large"))
    return next(stage for stage in stages if stage in STAGES)


rule ingest:
    input:
        inputs("ingest@{dataset}"),
    output:
        "data/native/{dataset}/manifest.json",
    log:
        "logs/ingest/{dataset}.log",
    params:
        repro=REPRO,
    conda:
        "../envs/resegment.yaml"
    shell:
        "{params.repro} 'ingest@{wildcards.dataset}' > {log:q} 2>&1"


rule prepare:
    input:
        lambda w: inputs(pairs_stage(w))(w),
    output:
        "data/prepared/{pairs}/manifest.json",
    log:
        "logs/prepare/{pairs}.log",
    params:
        repro=REPRO,
        stage=pairs_stage,
    threads: 2
    conda:
        "../envs/resegment.yaml"
    shell:
        "{params.repro} '{params.stage}' > {log:q} 2>&1"
