rule train:
    input:
        inputs("train@{run}", "train-from@{run}"),
    output:
        "runs/{run}/weights.safetensors",
        "runs/{run}/history.csv",
        "runs/{run}/manifest.json",
    log:
        "logs/train/{run}.log",
    conda:
        "../envs/resegment.yaml"
    threads: threads_of
    resources:
        gpu=1,
    params:
        repro=REPRO,
        stage=stage_of("train@{run}", "train-from@{run}"),
    shell:
        "{params.repro} '{params.stage}' > {log:q} 2>&1"
