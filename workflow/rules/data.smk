rule ingest:
    input:
        inputs("ingest@{dataset}"),
    output:
        "data/native/{dataset}/manifest.json",
    log:
        "logs/ingest/{dataset}.log",
    conda:
        "../envs/resegment.yaml"
    params:
        repro=REPRO,
    shell:
        "{params.repro} 'ingest@{wildcards.dataset}' > {log:q} 2>&1"


rule prepare:
    input:
        inputs("prepare@{pairs}", "prepare-large@{pairs}"),
    output:
        "data/prepared/{pairs}/manifest.json",
    log:
        "logs/prepare/{pairs}.log",
    conda:
        "../envs/resegment.yaml"
    threads: 2
    params:
        repro=REPRO,
        stage=stage_of("prepare@{pairs}", "prepare-large@{pairs}"),
    shell:
        "{params.repro} '{params.stage}' > {log:q} 2>&1"
