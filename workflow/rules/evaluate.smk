rule predict:
    input:
        inputs("predict@{run}"),
    output:
        "runs/{run}/predictions/manifest.json",
    log:
        "logs/predict/{run}.log",
    params:
        repro=REPRO,
    resources:
        gpu=1,
    conda:
        "../envs/resegment.yaml"
    shell:
        "{params.repro} 'predict@{wildcards.run}' > {log:q} 2>&1"


rule score:
    input:
        inputs("score@{run}"),
    output:
        "runs/{run}/scores/manifest.json",
    log:
        "logs/score/{run}.log",
    params:
        repro=REPRO,
    conda:
        "../envs/resegment.yaml"
    shell:
        "{params.repro} 'score@{wildcards.run}' > {log:q} 2>&1"
