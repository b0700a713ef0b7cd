rule train:
    input:
        inputs("train@{run}"),
    output:
        "runs/{run}/weights.safetensors",
        "runs/{run}/history.csv",
        "runs/{run}/manifest.json",
    log:
        "logs/train/{run}.log",
    conda:
        "../envs/resegment.yaml"
    resources:
        gpu=1,
    params:
        repro=REPRO,
    shell:
        "{params.repro} 'train@{wildcards.run}' > {log:q} 2>&1"
