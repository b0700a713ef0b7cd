rule predict:
    input:
        inputs("predict@{run}"),
    output:
        "runs/{run}/predictions/manifest.json",
    log:
        "logs/predict/{run}.log",
    conda:
        "../envs/resegment.yaml"
    resources:
        gpu=1,
    params:
        repro=REPRO,
    shell:
        "{params.repro} 'predict@{wildcards.run}' > {log:q} 2>&1"


rule score:
    input:
        inputs("score@{run}"),
    output:
        "runs/{run}/scores/manifest.json",
    log:
        "logs/score/{run}.log",
    conda:
        "../envs/resegment.yaml"
    params:
        repro=REPRO,
    shell:
        "{params.repro} 'score@{wildcards.run}' > {log:q} 2>&1"
