# Each rule only asks DVC to bring one stage up to date. DVC decides by content what is stale;
# Snakemake decides when and where it runs. The graph itself comes from resegment.engines.plan.
import sys

from resegment import config as settings
from resegment import paths
from resegment.engines import dvc_state, plan
from resegment.errors import UserError

try:
    PARAMS = settings.load()
    plan.check(PARAMS)
    STAGES = plan.stages(PARAMS)
    THREADS = {
        key: run["train"]["threads"]
        for run in settings.runs(PARAMS)
        for key in [run["run"], *(paths.cross(run["run"], on) for on in run["cross"])]
    }
    if workflow.is_main_process:
        dvc_state.refresh(STAGES)
except UserError as mistake:
    sys.exit(f"resegment: {mistake}")


wildcard_constraints:
    dataset="[a-z0-9_-]+",
    pairs="[a-z0-9_-]+/[a-z0-9_-]+",
    run="[a-z0-9_-]+/[a-z0-9_-]+/s[0-9]+(/on-[a-z0-9_-]+)?",
    campaign="[a-z0-9_-]+",


# --single-item: neighbours' inputs stay unlocked; --wait-for-lock: a busy lock is no failure;
# exec: were only a shell killed, DVC would record what Snakemake takes away of a failed job.
REPRO = "exec dvc --wait-for-lock repro --single-item" + (
    " --force" if config.get("force") else ""
)


def stage_of(*patterns):
    """The stage that makes a job's files: one verb may stand in dvc.yaml in several forms."""

    def of(wildcards):
        stages = [pattern.format(**wildcards) for pattern in patterns]
        if known := [stage for stage in stages if stage in STAGES]:
            return known[0]
        raise UserError(
            f"no active campaign has {stages[0]}: name one that has in `active` of params.yaml, "
            "then run `resegment plan`"
        )

    return of


def threads_of(wildcards):
    """How many threads a run's network computes with."""
    return THREADS.get(wildcards.run, 1)


def inputs(*patterns):
    """The files a job needs: what its stage reads of other stages, and DVC's opinion of it."""

    def of(wildcards):
        stage = stage_of(*patterns)(wildcards)
        return [dvc_state.marker(stage), *STAGES[stage]["inputs"]]

    return of
