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
        inputs("prepare@{pairs}"),
    output:
        "data/prepared/{pairs}/manifest.json",
    log:
        "logs/prepare/{pairs}.log",
    params:
        repro=REPRO,
    threads: 2
    conda:
        "../envs/resegment.yaml"
    shell:
        "{params.repro} 'prepare@{wildcards.pairs}' > {log:q} 2>&1"
