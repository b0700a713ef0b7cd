# Each rule only asks DVC to bring one stage up to date. DVC decides by content what is stale;
# Snakemake decides when and where it runs. The graph itself comes from resegment.engines.plan.
import sys

from resegment import config as settings
from resegment.engines import dvc_state, plan
from resegment.errors import UserError

try:
    PARAMS = settings.load()
    plan.check(PARAMS)
    STAGES = plan.stages(PARAMS)
    if workflow.is_main_process:
        dvc_state.refresh(STAGES)
except UserError as mistake:
    sys.exit(f"resegment: {mistake}")


wildcard_constraints:
    dataset="[a-z0-9_-]+",
    pairs="[a-z0-9_-]+/[a-z0-9_-]+",
    run="[a-z0-9_-]+/[a-z0-9_-]+/s[0-9]+",
    campaign="[a-z0-9_-]+",


# --single-item: neighbours' inputs stay unlocked; --wait-for-lock: a busy lock is no failure.
REPRO = "dvc --wait-for-lock repro --single-item" + (
    " --force" if config.get("force") else ""
)


def inputs(pattern):
    """The files a job needs: what its stage reads of other stages, and DVC's opinion of it."""

    def of(wildcards):
        stage = pattern.format(**wildcards)
        return [dvc_state.marker(stage), *STAGES[stage]["inputs"]]

    return of


def pairs_stage(wildcards):
    """Large derived sets have a stage of their own, which DVC does not cache."""
    stages = (f"{name}@{wildcards.pairs}" for name in ("prepare", "prepare-large"))
    return next(stage for stage in stages if stage in STAGES)
