"""What a page says beyond the ledger: claims, paired tests, protocols, the audit, the papers."""

import pandas as pd

from resegment import paths, verdicts
from resegment.figures.tradeoffs import COMMON, SWITCHES

MOVED = ("f1", "se", "sp", "acc", "auc")  # what the table of protocols shows
OWN = ("proposed", "ablation", "baseline_retrained")  # measured by the authors themselves


def records(table: pd.DataFrame) -> list[dict]:
    """Rows of a table, None where a cell is empty."""
    return table.astype(object).where(table.notna(), None).to_dict("records")


def claims(table: pd.DataFrame, found: list[dict]) -> list[dict]:
    """Claims with the place of the runs of `a` on the page, None where it was not run."""
    targets = {e["name"]: e["target"] for e in found}
    return [{**row, "target": targets.get(row["a"])} for row in records(table)]


def comparisons(table: pd.DataFrame) -> list[dict]:
    """Paired tests by test set, those with the second observer apart, with how many pairs differ
    (over images, over seeds and in the test after Holm), and whether so few images could show it at
    all: Wilcoxon's least p is 2 / 2^n for n subjects."""
    return [
        {
            "dataset": name,
            "n_images": n,
            "n_subjects": subjects,
            "observer": observer,
            "n_seeds": rows.n_seeds.max(),
            "rows": records(rows),
            "differ": sum(map(_differ, records(rows))),
            "testable": len(rows) * 2 / 2**subjects < verdicts.SIGNIFICANT,
        }
        for (name, n, subjects, observer), rows in table.groupby(
            ["dataset", "n_images", "n_subjects", table.b == "observer2"], sort=False
        )
    ]


def _differ(row: dict) -> bool:
    """Whether one of a pair lies above the other by the rules that claims go by."""
    over = [(row[low], row[high]) for low, high in (("seeds_low", "seeds_high"), ("low", "high"))]
    if None in (row["difference"], row["p_holm"], *over[0], *over[1]):
        return False
    if row["difference"] < 0:
        over = [(-high, -low) for low, high in over]
    said, _ = verdicts.of_effect(abs(row["difference"]), *over, row["p_holm"])
    return said == "supported"


def sensitivity(table: pd.DataFrame, found: list[dict]) -> list[dict]:
    """By experiment: every protocol with its scores (means over seeds), and for each metric the
    common protocol's value, the lowest, the highest and the protocols that gave them."""
    table = table.astype(dict.fromkeys(SWITCHES, str))
    means = table.groupby(["experiment", *SWITCHES, "metric"]).value.mean()
    parts = []
    for e in found:
        if e["name"] not in means.index.get_level_values(0):
            continue
        wide = means[e["name"]].unstack("metric").reindex(columns=MOVED)
        spans = {}
        for metric in MOVED:
            values = wide[metric].dropna()
            if len(values):
                ends = {"low": values.idxmin(), "high": values.idxmax()}
                spans[metric] = {
                    "common": values.get(COMMON),
                    "moved": values.max() - values.min(),
                    **{end: (values[key], ", ".join(key)) for end, key in ends.items()},
                }
        rows = [(key, row.to_dict()) for key, row in wide.iterrows()]
        parts.append({**e, "spans": spans, "protocols": rows})
    return parts


def papers(
    names: dict, found: list[dict], said: list[dict], audit: list[dict], deviations: list[dict]
) -> list[dict]:
    """A page for every paper of the campaign: its claims by verdict, its experiments, the audit's
    verdicts on its own rows, the places where it was silent, and what a person noted."""
    path = paths.PUBLISHED / "notes.csv"
    notes = records(pd.read_csv(path, dtype=str)) if path.exists() else []
    parts = []
    for paper in dict.fromkeys(e["paper"] for e in found if e["paper"]):
        mine = [c for c in said if c["paper"] == paper]
        own = [r for r in audit if r["paper"] == paper and r["role"] in OWN]
        parts.append({
            "paper": paper,
            "title": names.get(paper, paper),
            "claims": mine,
            "verdicts": {v: [c for c in mine if c["verdict"] == v] for v in verdicts.CLAIM},
            "experiments": [e for e in found if e["paper"] == paper],
            "audit": own,
            "deviations": [d for d in deviations if d["paper"] == paper],
            "notes": {
                kind: [n["text"] for n in notes if n["paper"] == paper and n["kind"] == kind]
                for kind in ("easy", "difficult")
            },
        })  # fmt: skip
    return parts
