rule predict:
    input:
        inputs("predict@{run}", "predict-cross@{run}"),
    output:
        "runs/{run}/predictions/manifest.json",
    log:
        "logs/predict/{run}.log",
    conda:
        "../envs/resegment.yaml"
    threads: threads_of
    resources:
        gpu=1,
    params:
        repro=REPRO,
        stage=stage_of("predict@{run}", "predict-cross@{run}"),
    shell:
        "{params.repro} '{params.stage}' > {log:q} 2>&1"


rule score:
    input:
        inputs("score@{run}", "score-cross@{run}"),
    output:
        "runs/{run}/scores/manifest.json",
    log:
        "logs/score/{run}.log",
    conda:
        "../envs/resegment.yaml"
    params:
        repro=REPRO,
        stage=stage_of("score@{run}", "score-cross@{run}"),
    shell:
        "{params.repro} '{params.stage}' > {log:q} 2>&1"
