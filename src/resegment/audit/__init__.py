"""What published rows imply of themselves: which test pixels can have given them, and which cannot.

Only the printed numbers are used, and the labels' counts (data/published/testsets.csv). A printed
number stands for an interval of half a unit of its last digit on either side. Three questions:

1. Pooled pixels. With prevalence pi, r = (1 - pi)/pi (1 - Sp) false positives and Se true positives
   per vessel pixel, precision is Se/(Se + r), F1 is 2 Se/(1 + Se + r), IoU is Se/(1 + r) and
   1 - Acc is pi (1 - Se + r) (from their definitions). At a known pi every printed interval is two
   straight lines in the plane (Se, r): a row is possible if the half planes have a common point.
   Hence pi = (Sp - Acc)/(Sp - Se) and, with precision P in place of Sp,
   pi = (1 - Acc)/(1 - 2 Se + Se/P).
2. Means of images. Each printed mean is the mean over images of points on the surface
   (Se, Sp) -> (Se, Sp, Acc, P, F1, IoU) at the image's own prevalence. Whether there is such a mean
   is a linear programme in the weights of a grid of points for every image (at the measured
   prevalences), a relaxation: what it refuses is impossible. Without a limit on how images differ
   nearly every row would be possible, so the standard deviation over images is limited, to 0.08 for
   Se and 0.5 of the mean for 1 - Sp. The largest over the test images of 24 networks trained here
   on DRIVE and CHASE_DB1, briefly but to an F1 above 0.6, were 0.074 and 0.38, the medians 0.052
   and 0.27.
3. F1 against IoU. F = 2J/(1 + J) is concave and lies above J, so for any images whatever
   mean J <= mean F1 <= 2 mean J/(1 + mean J) (Jensen), with equality on the right for pooled
   pixels.

`impossible` is said of one set of maps at one threshold, and only where no prevalence will do and
no means of images that differ a quarter more than the limits. A row that no measured test set
explains but another prevalence would is undecidable: another split is no contradiction. Of two rows
that print one run, the cell that alone stands against all the others is named, at the limits
themselves (they let Acc leave what the means of Se and Sp make it by 0.0009 on DRIVE's frame; of
the 24 networks none left it by more than 0.0002). Lesions and nuclei, whose area varies without
limit, have the third question only. A consistent row may still not be of the images that somebody
tests: `unfit` names the measured splits of its dataset whose labels cannot give it.

The linear test of means is that of Fazekas & Kovacs, mlscorecheck (2024), extended to the ratios;
`referee` asks that package itself.
"""

from collections.abc import Iterable

import pandas as pd

from resegment import files, paths, published
from resegment.audit.possible import METRICS, fits, prevalence, read, testsets
from resegment.audit.referee import referee as ask
from resegment.audit.verdict import blamed, digits, judge, spared, without
from resegment.errors import UserError

COLUMNS = ("row", "paper", "table", "method", "dataset", "role", "verdict", "protocol",
           "prevalence", "cells", "sentence", "unfit", "referee")  # fmt: skip


def table(names: Iterable[str] = (), referee: bool = False) -> list[dict]:
    """One row per published row that prints a metric of performance: COLUMNS, in the papers' order.

    names: rows or papers, all where empty. referee: ask mlscorecheck too (a second a row).
    Raises UserError for an unknown name and where the files of data/published disagree.
    """
    known = published.cells()
    known = known[known["metric"].isin(published.SHARES)]
    sets, rows, intervals = tuple(testsets()), {}, {}
    for row, group in known.groupby("row", sort=False):
        rows[row] = group.iloc[0]
        each = zip(group["metric"], group["value"], group["resolution"], strict=True)
        intervals[row] = {metric: (v - unit / 2, v + unit / 2) for metric, v, unit in each}
    names, out, twins = _known(names, rows), [], _twins(set(rows))
    for row, first in rows.items():
        if names and not names & {row, first["paper"]}:
            continue
        printed, dataset = intervals[row], first["dataset"]
        said = _across(row, twins[row], intervals, dataset, sets) if row in twins else None
        said = said or judge(printed, dataset, sets)
        need = prevalence(printed)
        out.append({
            **{k: first[k] for k in ("row", "paper")},
            "table": int(first["table"]),
            "method": first["method"] + (f" ({first['variant']})" if first["variant"] else ""),
            "dataset": dataset,
            "role": first["role"],
            "verdict": said["verdict"],
            "protocol": said["protocol"],
            "prevalence": digits(sum(need) / 2) if need and 0 < sum(need) < 2 else "",
            "cells": said["cells"],
            "sentence": said["sentence"],
            "unfit": said["unfit"],
            "referee": ask(printed, dataset, sets) if referee else "",
        })  # fmt: skip
    return out


def _known(names: Iterable[str], rows: Iterable[str]) -> set[str]:
    """The names, which must be rows or papers."""
    if absent := sorted({*names} - {*rows, *published.PAPERS}):
        where = f"a row of {paths.PUBLISHED / 'cells.csv'} with a metric of performance"
        raise UserError(
            f"{absent[0]!r} is neither a paper ({', '.join(published.PAPERS)}) nor {where}"
        )
    return set(names)


def record() -> None:
    """Write `table()` to data/published/audit.csv: it follows from the other files there alone, so
    that it is solved once for everybody (a test holds the two together)."""
    with files.atomic(paths.PUBLISHED / "audit.csv") as tmp:
        pd.DataFrame(table(), columns=COLUMNS).to_csv(tmp, index=False, lineterminator="\n")


def recorded(names: Iterable[str] = ()) -> list[dict]:
    """The rows of data/published/audit.csv: as `table` gives them, in no time."""
    t = read(paths.PUBLISHED / "audit.csv", " ".join(COLUMNS))
    names = _known(names, t["row"])
    if not t["table"].str.fullmatch("[0-9]{1,4}").all():
        raise UserError(f"{paths.PUBLISHED / 'audit.csv'}: table is a number: `resegment audit "
                        "--write` makes it again")  # fmt: skip
    rows = [{**r, "table": int(r["table"])} for r in t.to_dict("records")]
    return [r for r in rows if not names or names & {r["row"], r["paper"]}]


def incomparable(rows: list[dict], tested: str = "") -> dict[str, str]:
    """Cell id -> why no measured number can stand beside it; rows: as from `table`.

    It contradicts the rest of its row; or the row is of other test images than `tested`, a split of
    testsets.csv (first to last id).
    """
    wrong = {
        f"{r['row']}.{m}": f"the published row is of other images than the {tested} tested here: "
        + r["sentence"].rstrip(".")
        for r in rows if tested in r["unfit"].split() for m in published.SHARES
    }  # fmt: skip
    return wrong | {
        f"{r['row']}.{m}": f"the published row contradicts itself: {r['sentence'].rstrip('.')}"
        for r in rows for m in r["cells"].split()
    }  # fmt: skip


def _twins(rows: set[str]) -> dict[str, str]:
    """Row -> the other row that prints the same run (data/published/same_run.csv)."""
    path = paths.PUBLISHED / "same_run.csv"
    pairs = read(path, "row same_as why")
    absent = sorted({*pairs["row"], *pairs["same_as"]} - rows)
    if absent:
        raise UserError(f"{path}: cells.csv has no row {absent[0]} with a metric: correct it")
    both = dict(zip(pairs["row"], pairs["same_as"], strict=True))
    return both | {b: a for a, b in both.items()}


def _across(row: str, twin: str, intervals: dict, dataset: str, sets: tuple) -> dict | None:
    """The verdict on `row` where one of its cells stands against all that it and its twin print."""
    own, other = ({k: v for k, v in intervals[r].items() if k in METRICS} for r in (row, twin))
    every = other | own
    if any(own[k] != other[k] for k in own.keys() & other.keys()):
        return None  # printed differently: which is right cannot be told, each is judged alone
    if every.keys() == own.keys() or fits(every, dataset, sets):
        return None
    drops = [k for k in every if spared(every, k, dataset, sets)]
    if len(drops) != 1 or drops[0] not in own:
        return None
    said = blamed(every, drops[0], fits(without(every, drops[0]), dataset, sets))
    return said | {"sentence": f"The same run is {twin}: {said['sentence']}"}


def text(rows: list[dict]) -> str:
    """The table as lines: row, method, verdict, protocol, and the sentence below."""
    counts = {v: sum(r["verdict"] == v for r in rows) for v in ("consistent", "impossible",
                                                               "undecidable")}  # fmt: skip
    out = []
    for r in rows:
        wrong = f" [{r['cells']}]" if r["cells"] else ""
        out += [f"{r['row']:18} {r['verdict']:12} {r['protocol'] or '-':22} {r['dataset']:10} "
                f"{r['method']}{wrong}", f"    {r['sentence']}"]  # fmt: skip
        out += [f"    mlscorecheck: {r['referee']}"] if r["referee"] else []
    return "\n".join([*out, ", ".join(f"{n} {v}" for v, n in counts.items())])
