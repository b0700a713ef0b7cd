"""Numbers in prose, out of the committed tables: looked up, never typed.

Between `<!-- = KIND WORDS -->` and `<!-- / -->` stands what KIND gives:
  score CAMPAIGN EXPERIMENT METRIC [PROTOCOL]    0.8167 ± 0.0008, mean and sd over the seeds
  each CAMPAIGN EXPERIMENT METRIC [PROTOCOL]     0.8160, 0.8174, of each seed
  images CAMPAIGN EXPERIMENT METRIC [PROTOCOL]   0.8093 to 0.8241, of a typical run over test images
  observer CAMPAIGN METRIC [PROTOCOL [EXPERIMENT]]   the second observer's on the images that all
                                                 runs share, or on those of one experiment
  printed ROW METRIC                             what a paper printed
  verdict CAMPAIGN ROW METRIC                    what the ledger says of it
  claim CAMPAIGN CLAIM                           what the runs say of a claim: verdict and effect
  lead CAMPAIGN A B METRIC                       by how much A lies above B on the same images
  moved CAMPAIGN METRIC                          0.0144 to 0.0238, by how much the protocol alone
                                                 moves it, from experiment to experiment
  cpu CAMPAIGN EXPERIMENT                        440 to 507, CPU-seconds of its trainings
  seeds CAMPAIGN EXPERIMENT                      how many there are
  table CAMPAIGN                                 every experiment under the common protocol, by the
                                                 images that it was scored on
  training CAMPAIGN                              what every experiment was trained with
  claims PAPER CAMPAIGN [CAMPAIGN ...]           every claim of a paper, with what the first of the
                                                 campaigns that measured it found
  verdicts CAMPAIGN [CAMPAIGN ...]               how many claims of all papers have which verdict
PROTOCOL is common unless said. `resegment quote` brings files up to date; a test sees to it.
"""

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pandas as pd

from resegment import files, paths, published, stats
from resegment import verdicts as rules
from resegment.errors import UserError

OPENING = "<!-- = "
QUOTE = re.compile(r"(<!-- = (\w+) ([^>]*?) -->)((?:(?!<!-- = ).)*?)(<!-- / -->)", re.S)
COLUMNS = {"f1": "F1", "se": "Se", "sp": "Sp", "acc": "Acc", "auc": "AUC"}
COMMON = "common"
OBSERVER = "observer2"


def refresh(text: str, where: str) -> str:
    """`text` with every quote as the tables have it. Raises UserError naming `where` and a quote
    of which no table knows."""

    def one(found: re.Match) -> str:
        head, kind, words, _, end = found.groups()
        try:
            if kind not in KINDS:
                raise KeyError(f"{kind} is none of {', '.join(KINDS)}")
            return head + KINDS[kind](*words.split()) + end
        except (KeyError, TypeError, ValueError, FileNotFoundError, UserError) as e:
            line = text.count("\n", 0, found.start()) + 1
            raise UserError(f"{where}, line {line}: {head} quotes nothing: {e}") from None

    closed = {found.start() for found in QUOTE.finditer(text)}
    for found in re.finditer(OPENING, text):
        if found.start() not in closed:
            line = text.count("\n", 0, found.start()) + 1
            raise UserError(f"{where}, line {line}: a quote does not end: add <!-- / --> after it")
    return QUOTE.sub(one, text)


@cache
def _table(campaign: str, name: str) -> pd.DataFrame:
    path = paths.reports(campaign) / f"{name}.csv"
    return pd.DataFrame(files.table(path), dtype=str)


def _rows(campaign: str, name: str, **wanted: str) -> pd.DataFrame:
    found = _table(campaign, name)
    for column, value in wanted.items():
        found = found[found[column] == value]
        if found.empty:
            raise KeyError(f"no {column} {value} in reports/{campaign}/{name}.csv")
    return found


def _scores(campaign: str, metric: str, protocol: str, experiment: str = "") -> pd.DataFrame:
    of = {"experiment": experiment} if experiment else {}
    return _rows(campaign, "scores", metric=metric, protocol=protocol, **of)


def score(campaign: str, experiment: str, metric: str, protocol: str = COMMON) -> str:
    rows = _scores(campaign, metric, protocol, experiment)
    mean, sd = stats.over_seeds(rows[rows.seed != OBSERVER].value.astype(float))
    return f"{mean:.4f}" if pd.isna(sd) else f"{mean:.4f} ± {sd:.4f}"


def each(campaign: str, experiment: str, metric: str, protocol: str = COMMON) -> str:
    rows = _scores(campaign, metric, protocol, experiment)
    return ", ".join(f"{float(v):.4f}" for v in rows[rows.seed != OBSERVER].value)


def images(campaign: str, experiment: str, metric: str, protocol: str = COMMON) -> str:
    rows = _scores(campaign, metric, protocol, experiment)
    ends = rows.loc[rows.seed != OBSERVER, ["ci_low", "ci_high"]].astype(float).mean()
    return f"{ends.ci_low:.4f} to {ends.ci_high:.4f}"


def observer(campaign: str, metric: str, protocol: str = COMMON, experiment: str = "") -> str:
    rows = _scores(campaign, metric, protocol, experiment)
    if not (rows.seed == OBSERVER).any():
        raise KeyError(f"no second observer in reports/{campaign}/scores.csv")
    return _observer(rows[rows.seed == OBSERVER])


def _observer(rows: pd.DataFrame) -> str:
    return f"{float(_only(rows.value, 'values of the second observer')):.4f}"


def _only(found: pd.Series, what: str) -> str:
    """The one value that all rows share."""
    if found.nunique() != 1:
        raise ValueError(f"there are {found.nunique()} {what}")
    return str(found.iloc[0])


def printed(row: str, metric: str) -> str:
    found = published.row(row)
    return str(found.set_index("metric").printed[metric])


def verdict(campaign: str, row: str, metric: str) -> str:
    return _only(_rows(campaign, "ledger", row=row, metric=metric).verdict, "verdicts")


def claim(campaign: str, name: str) -> str:
    found = _rows(campaign, "claims", claim=name).iloc[0]
    ends = f" ({found.low} to {found.high})" if found.low else ""
    return found.verdict + (f": {found.effect}{ends}" if found.effect else "")


def lead(campaign: str, a: str, b: str, metric: str) -> str:
    table = _rows(campaign, "comparisons", metric=metric)
    table = table[((table.a == a) & (table.b == b)) | ((table.a == b) & (table.b == a))]
    if table.empty:
        raise KeyError(f"no test of {a} and {b} in reports/{campaign}/comparisons.csv")
    row = table.iloc[0]
    sign = 1 if row.a == a else -1
    found = [f"{sign * float(row.difference):+.4f}"]
    for over, *ends in (("images", "low", "high"), ("seeds", "seeds_low", "seeds_high")):
        low, high = sorted(sign * float(row[k] or "nan") for k in ends)
        found += [] if pd.isna(low) else [f"{over} {low:+.4f} to {high:+.4f}"]
    p = f"p = {float(row.p_holm):.3f}" if float(row.p_holm) >= 0.001 else "p < 0.001"
    return f"{found[0]} ({', '.join(found[1:])}; {p} after Holm)"


def moved(campaign: str, metric: str) -> str:
    rows = _rows(campaign, "sensitivity", metric=metric).astype({"value": float})
    way = ["experiment", "region", "space", "pooling", "threshold"]
    means = rows.groupby(way).value.mean().groupby("experiment")
    apart = means.max() - means.min()
    return f"{apart.min():.4f} to {apart.max():.4f}"


def cpu(campaign: str, experiment: str) -> str:
    rows = _rows(campaign, "runs", experiment=experiment, key="cost.cpu_seconds")
    low, high = (f"{f(rows.value.astype(float)):,.0f}" for f in (min, max))
    return low if low == high else f"{low} to {high}"


def seeds(campaign: str, experiment: str) -> str:
    rows = _rows(campaign, "scores", experiment=experiment)
    return str(rows.seed[rows.seed != OBSERVER].nunique())


def table(campaign: str) -> str:
    """Markdown: experiments by falling F1, then the second observer; once for each test set."""
    common = _rows(campaign, "scores", protocol=COMMON)
    sets = common.groupby(["dataset", "n_images"], sort=False)
    lines = ["| |" + "".join(f" {x} |" for x in ("parameters", *COLUMNS.values(), "CPU-seconds")),
             "|---" * (len(COLUMNS) + 3) + "|"]  # fmt: skip
    for (dataset, n), known in sets:
        if len(sets) > 1:
            lines.append(f"| **{n} images of {dataset}** |" + " |" * (len(COLUMNS) + 2))
        f1 = {e: score(campaign, e, "f1") for e in dict.fromkeys(known.experiment)}
        for e in sorted(f1, key=f1.get, reverse=True):
            count = _rows(campaign, "runs", experiment=e, key="model.trainable").value.iloc[0]
            cells = (f"{int(count):,}", *(score(campaign, e, m) for m in COLUMNS), cpu(campaign, e))
            lines.append(f"| {e} |" + "".join(f" {cell} |" for cell in cells))
        second = known[known.seed == OBSERVER]
        if len(second):
            cells = (_observer(second[second.metric == m]) for m in COLUMNS if m != "auc")
            lines.append("| second observer | |" + "".join(f" {c} |" for c in (*cells, "", "")))
    return "\n" + "\n".join(lines) + "\n"


def training(campaign: str) -> str:
    """Markdown: the steps, crops and learning rate of every experiment's first run."""
    lines = ["| | steps | random crops | optimiser | learning rate |", "|---" * 5 + "|"]
    for e, rows in _table(campaign, "runs").groupby("experiment", sort=False):
        known = rows[rows.seed == rows.seed.iloc[0]].set_index("key").value
        setting = known.filter(like="parameters.train.").rename(lambda k: k.split("train.", 1)[1])
        n, batch = (int(setting[k]) for k in ("samples_per_epoch", "batch_size"))
        epochs, side = int(known["epochs_run"]), setting["augment.crop"]
        cells = (e, f"{epochs * -(-n // batch):,}", f"{epochs * n:,} of {side}x{side}",
                 setting["optimiser.name"], setting["optimiser.lr"])  # fmt: skip
        lines.append("|" + "".join(f" {cell} |" for cell in cells))
    return "\n" + "\n".join(lines) + "\n"


def _claims(campaigns: tuple[str, ...], **of: str) -> list[dict]:
    """Every claim as the first campaign has it that measured it, and `where` that was."""
    tables = [_rows(c, "claims", **of).fillna("").assign(where=c) for c in campaigns]
    out = []
    for _, known in pd.concat(tables).groupby("claim", sort=False):
        measured = known[known.effect != ""]
        out.append((known.assign(where="–") if measured.empty else measured).iloc[0].to_dict())
    return out


def claims(paper: str, *campaigns: str) -> str:
    """Markdown: a paper's claims in its order, with 95 % intervals over images and over seeds.

    What a reduced budget measured of a claim stands there, with its name behind "not run"; of an
    interval over seeds that disagree too far to be judged (`verdicts.WIDE`), that it is so.
    """
    lines = ["| claim | metric | printed | measured | over images | over seeds | in | verdict |",
             "|---" * 8 + "|"]  # fmt: skip
    kinds = {claim["id"]: claim["kind"] for claim in published.claims()}
    for row in _claims(campaigns, paper=paper):
        spans = (_span(row[low], row[high])
                 for low, high in (("low", "high"), ("seeds_low", "seeds_high")))  # fmt: skip
        reduced = f": {row['budget']} only" * (row["verdict"] == "not run" and row["effect"] != "")
        theirs = " (another's)" * (kinds.get(row["claim"]) == "above")
        cells = (row["statement"], row["metric"], _figure(row["published"]) + theirs,
                 _figure(row["effect"]), *spans, row["where"],
                 row["verdict"] + reduced)  # fmt: skip
        lines.append("|" + "".join(f" {cell} |" for cell in cells))
    return "\n" + "\n".join(lines) + "\n"


def verdicts(*campaigns: str) -> str:
    found = _claims(campaigns)
    counts = [(said, sum(row["verdict"] == said for row in found)) for said in rules.CLAIM]
    reduced = sum(row["verdict"] == "not run" and row["effect"] != "" for row in found)
    return (f"{len(found)} claims: " + ", ".join(f"{n} {said}" for said, n in counts)
            + f" ({reduced} of them measured under a reduced budget)")  # fmt: skip


def _span(low: str, high: str) -> str:
    if not low:
        return "–"
    wide = float(high) - float(low) > rules.WIDE
    return f"wider than {rules.WIDE:g}" if wide else f"{_figure(low)} to {_figure(high)}"


def _figure(number: str) -> str:
    """A count as it is, anything else to four digits; a dash for nothing."""
    if not number:
        return "–"
    value = float(number)
    return f"{value:,.0f}" if value.is_integer() and abs(value) > 1 else f"{value:.4f}"


KINDS: dict[str, Callable[..., str]] = {f.__name__: f for f in (
    score, each, images, observer, printed, verdict, claim, lead, moved, cpu, seeds, table,
    training, claims, verdicts
)}  # fmt: skip


def build(path: Path, check: bool = False) -> bool:
    """Bring a file up to date; whether it was not. check: leave it as it is.

    Its line endings stay. Raises UserError as `refresh`, and where the file is no UTF-8.
    """
    try:
        text = path.read_bytes().decode()
    except UnicodeDecodeError as e:
        raise UserError(f"{path} is no UTF-8 from byte {e.start} on: save it as UTF-8") from None
    fresh = refresh(text, str(path))
    if fresh != text and not check:
        with files.atomic(path) as tmp:
            tmp.write_bytes(fresh.encode())
    return fresh != text
