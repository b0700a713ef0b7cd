rule ledger:
    input:
        inputs("ledger-{campaign}"),
    output:
        report(
            "reports/{campaign}/scores.csv",
            caption="../report/scores.rst",
            category="{campaign}",
            labels={"table": "scores of every run under every protocol"},
        ),
        report(
            "reports/{campaign}/ledger.csv",
            caption="../report/ledger.rst",
            category="{campaign}",
            labels={"table": "published against measured"},
        ),
        report(
            "reports/{campaign}/claims.csv",
            caption="../report/claims.rst",
            category="{campaign}",
            labels={"table": "what the papers claim, and what the runs say"},
        ),
        [f"reports/{{campaign}}/{name}.csv" for name in plan.TABLES[3:]],
    log:
        "logs/ledger/{campaign}.log",
    conda:
        "../envs/resegment.yaml"
    params:
        repro=REPRO,
    shell:
        "{params.repro} 'ledger-{wildcards.campaign}' > {log:q} 2>&1"


rule figures:
    input:
        inputs("figures-{campaign}"),
    output:
        "reports/{campaign}/figures/manifest.json",
        "reports/{campaign}/pictures/manifest.json",
    log:
        "logs/figures/{campaign}.log",
    conda:
        "../envs/resegment.yaml"
    params:
        repro=REPRO,
    shell:
        "{params.repro} 'figures-{wildcards.campaign}' > {log:q} 2>&1"


rule report:
    input:
        inputs("report-{campaign}"),
    output:
        report(
            "reports/{campaign}/report.html",
            caption="../report/report.rst",
            category="{campaign}",
            labels={"table": "the whole story, with curves and pictures"},
        ),
    log:
        "logs/report/{campaign}.log",
    conda:
        "../envs/resegment.yaml"
    params:
        repro=REPRO,
    shell:
        "{params.repro} 'report-{wildcards.campaign}' > {log:q} 2>&1"
