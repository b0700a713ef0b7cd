"""What the papers claim in words, each claim put to the runs of a campaign.

data/published/claims.csv says what is claimed: of which experiment (`a`), against which (`b`, one
or several), by which metric under the paper's protocol, and how large it was printed. `kind` is
  value    a measures the printed number
  count    a (or a - b) has exactly so many parameters
  effect   a lies above every b
  size     a lies above b by the printed amount
  above    a lies above a number printed for somebody else
  none     no run can decide it; `note` says why
`verdicts` holds the rules. Only runs on the experiments' own datasets count.
"""

import math

from resegment import files, paths, published, stats, verdicts
from resegment.errors import UserError

HEADER = ("claim", "paper", "statement", "dataset", "metric", "protocol", "a", "b", "published",
          "effect", "low", "high", "seeds_low", "seeds_high", "p", "p_holm", "n_seeds", "n_images",
          "budget", "verdict", "reason")  # fmt: skip
UNCOUNTED = "undecided", "the manifest of a run has no count"
AGAINST = ("not supported", "undecided", "supported")  # what refutes one rival refutes "all"


def table(runs: list[dict], measured: dict, apart: dict[str, dict[str, str]]) -> list[dict]:
    """One row (keys: HEADER) for every claim of the papers whose experiments are among the runs.

    runs: resolved runs of one campaign. measured: by run id, `scores` and `bounds` by protocol and
    `model` of its manifest (`ledger.build`). apart: by experiment and cell, why none of its numbers
    can stand beside the cell (`audit.incomparable`). `low` and `high` bound the effect over the
    images, `seeds_*` over the seeds.
    """
    groups: dict[str, list[dict]] = {}
    for run in runs:
        if run["dataset"] == run["rows_dataset"]:
            groups.setdefault(run["experiment"], []).append(run)
    papers = {group[0]["paper"] for group in groups.values()}
    asked = [c for c in published.claims() if c["paper"] in papers]
    tests = {}  # (paper, a, b, metric) -> the paired test of two experiments over the images
    for c in asked:
        for b in c["b"]:
            if c["kind"] in ("effect", "size") and {c["a"], b} <= groups.keys():
                pair = c["paper"], c["a"], b, c["metric"]
                tests[pair] = _paired(groups[c["a"]], groups[b], c["metric"])
    for paper in papers:
        tried = [t for pair, t in tests.items() if pair[0] == paper and not math.isnan(t["p"])]
        for t, p in zip(tried, stats.holm([t["p"] for t in tried]), strict=True):
            t["p_holm"] = float(p)
    return [_row(c, groups, measured, tests, apart) for c in asked]


def value(run: dict, metric: str, measured: dict, protocol: str = "") -> float:
    """One run's value of a claim's metric: a score (under the paper's protocol unless said), a
    parameter count, or val_loss_rise, the mean validation loss of the last tenth of the epochs
    over the lowest, minus one."""
    if metric == "val_loss_rise":
        file = paths.run(run["run"]) / "history.csv"
        try:
            losses = [float(row["val_loss"] or "nan") for row in files.table(file, "val_loss")]
        except ValueError as e:
            raise UserError(f"{file}: {e}: {files.AGAIN}") from None
        losses = [x for x in losses if not math.isnan(x)]
        last = losses[-max(1, len(losses) // 10) :]
        return sum(last) / len(last) / min(losses) - 1 if losses and min(losses) else math.nan
    found = measured[run["run"]]
    if metric == "params_m":
        return found["model"].get("trainable", math.nan) / 1e6
    if metric in ("total", "trainable"):
        return found["model"].get(metric, math.nan)
    score = found["scores"][protocol or run["protocol"]][metric]
    return math.nan if score is None else score


def counted(metric: str) -> bool:
    """Whether a metric belongs to the network alone, so that no schedule can change it."""
    return metric in ("params_m", "total", "trainable")


def judged(run: dict, metric: str) -> str:
    """The budget that a verdict goes by: `paper` where the run's reduction cannot matter."""
    return "paper" if counted(metric) and run["full_model"] else run["budget"]


def _paired(a: list[dict], b: list[dict], metric: str) -> dict:
    if metric == "val_loss_rise":  # of a training, not of images
        return {"p": math.nan}
    folders = ([paths.scores(r["run"]) for r in group] for group in (a, b))
    return stats.paired(*folders, a[0]["protocol"], metric)


def _row(claim: dict, groups: dict, measured: dict, tests: dict, apart: dict) -> dict:
    """One claim's row: what was measured, as far as it was, and what the rules say of it."""
    row = dict.fromkeys(HEADER) | {
        "claim": claim["id"], "b": " ".join(claim["b"]), "published": claim["value"],
        **{k: claim[k] for k in ("paper", "statement", "dataset", "metric", "a")},
    }  # fmt: skip
    if claim["kind"] == "none":
        return row | _said(("undecided", claim["note"]))
    absent = [e for e in (claim["a"], *claim["b"]) if e not in groups]
    if absent:
        return row | _said(("not run", f"no run of {absent[0]} in this campaign"))
    a, b = groups[claim["a"]], [groups[e] for e in claim["b"]]
    own = counted(claim["metric"]) or claim["metric"] == "val_loss_rise"  # of no image
    row |= {"n_seeds": len(a), "budget": a[0]["budget"]}
    row |= {"protocol": "" if own else a[0]["protocol"]}
    if claim["kind"] == "count":
        return row | _counts(claim, a, b, measured)
    if claim["kind"] in ("value", "above"):
        return row | _level(claim, a, row["protocol"], measured, apart)
    return row | _lead(claim, a, b, measured, tests)


def _counts(claim: dict, a: list[dict], b: list[list[dict]], measured: dict) -> dict:
    """A count of parameters, or the difference of two."""
    effect = value(a[0], claim["metric"], measured)
    effect -= sum(value(group[0], claim["metric"], measured) for group in b)
    if math.isnan(effect):
        return {"effect": effect} | _said(UNCOUNTED)
    if not all(group[0]["full_model"] for group in (a, *b)):
        return {"effect": effect} | _not_run(a[0]["budget"])
    said = "supported" if effect == claim["value"] else "not supported"
    return {"effect": effect} | _said((said, "counted"))


def _level(claim: dict, a: list[dict], protocol: str, measured: dict, apart: dict) -> dict:
    """One value beside a printed number: its own, or one that it must exceed."""
    values = [value(run, claim["metric"], measured) for run in a]
    mean, seeds, images = stats.over_seeds(values)[0], stats.seed_interval(values), None
    row = {"effect": mean}
    if protocol:
        images = mean_bounds(a, claim["metric"], measured)
        row["n_images"] = measured[a[0]["run"]]["scores"][protocol]["n_images"]
    row |= _bounds(seeds, images)
    budget, printed = judged(a[0], claim["metric"]), claim["value"]
    if counted(claim["metric"]) and math.isnan(mean):
        return row | _said(UNCOUNTED)
    if claim["kind"] == "value":
        reason = apart.get(a[0]["experiment"], {}).get(claim["published"])
        rule = (budget, printed, claim["resolution"], mean, seeds, images, reason)
        return row | _said(verdicts.of_value(verdicts.of_number(*rule), printed, values))
    if budget != "paper":
        return row | _not_run(budget)
    return row | _said(verdicts.of_effect(mean, seeds, images, null=printed))


def _lead(claim: dict, a: list[dict], b: list[list[dict]], measured: dict, tests: dict) -> dict:
    """The lead of one experiment over others: of these, the one that speaks most against it."""
    values = [value(run, claim["metric"], measured) for run in a]
    found = []
    for name, group in zip(claim["b"], b, strict=True):
        others = [value(run, claim["metric"], measured) for run in group]
        test = tests[claim["paper"], claim["a"], name, claim["metric"]]
        effect = stats.over_seeds(values)[0] - stats.over_seeds(others)[0]
        seeds = stats.seed_difference(values, others)
        images = (test["low"], test["high"]) if "low" in test else None
        rule, p = (effect, seeds, images), test.get("p_holm", math.nan)
        sized = claim["kind"] == "size"
        said = verdicts.of_size(claim["value"], *rule) if sized else verdicts.of_effect(*rule, p)
        verdict, reason = said
        rival = f"{name}: " if len(b) > 1 else ""
        row = {"effect": effect, **_bounds(seeds, images), **_said((verdict, rival + reason))}
        found.append(row | {k: test.get(k) for k in ("p", "p_holm", "n_images")})
    shown = min(found, key=lambda row: (AGAINST.index(row["verdict"]), row["effect"]))
    return shown | (_not_run(a[0]["budget"]) if a[0]["budget"] != "paper" else {})


def _bounds(seeds: stats.Interval | None, images: stats.Interval | None) -> dict:
    seeds, images = seeds or (None, None), images or (None, None)
    keys = ("seeds_low", "seeds_high", "low", "high")
    return dict(zip(keys, (*seeds, *images), strict=True))


def mean_bounds(group: list[dict], metric: str, measured: dict) -> stats.Interval:
    """The mean over seeds of the lower and of the upper image-bootstrap bounds of a metric."""
    protocol = group[0]["protocol"]
    ends = zip(*(measured[r["run"]]["bounds"][protocol][metric] for r in group), strict=True)
    low, high = (sum(end) / len(end) for end in ends)
    return low, high


def _said(pair: tuple[str, str]) -> dict:
    return dict(zip(("verdict", "reason"), pair, strict=True))


def _not_run(budget: str) -> dict:
    return _said(("not run", f"paper budget not run; value shown is budget {budget}"))
