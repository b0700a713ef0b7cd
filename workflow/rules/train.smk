rule train:
    input:
        inputs("train@{run}"),
    output:
        "runs/{run}/weights.safetensors",
        "runs/{run}/history.csv",
        "runs/{run}/manifest.json",
    log:
        "logs/train/{run}.log",
    params:
        repro=REPRO,
    resources:
        gpu=1,
    conda:
        "../envs/resegment.yaml"
    shell:
        "{params.repro} 'train@{wildcards.run}' > {log:q} 2>&1"
