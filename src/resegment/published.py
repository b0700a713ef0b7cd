"""What the papers printed, and where this project departs from them: the tables in data/published.

cells.csv          one row per printed number. A row id is paper-table-row ("rga-2-08"), a cell id
                   row.metric. Percent are stored as fractions (`unit` says what was printed), with
                   the digits the paper printed: they say how far the number was rounded.
tables.csv         one row per printed table.
claims.csv         what the papers claim in words, and the experiments that can tell (`claims`).
testsets.csv       the labels of known test sets, image by image (`audit`).
same_run.csv       rows that print a run of another table once more (`audit`).
deviations.csv     where a paper is silent or contradicts itself: what it says, what is done here
                   and why; the files in `where` cite the id.
"""

import difflib
import re

import pandas as pd

from resegment import files, paths
from resegment.errors import UserError

SCHEMA = {
    "cells": ("cell", "paper", "table", "row", "method", "variant", "role", "rerun", "dataset",
              "metric", "value", "unit", "note"),
    "tables": ("paper", "table", "caption", "dataset", "units", "notes"),
    "deviations": ("id", "paper", "paper_says", "done", "why", "where"),
    "claims": ("id", "paper", "statement", "kind", "dataset", "metric", "a", "b", "published",
               "note"),
}  # fmt: skip
KEYS = {
    "cells": ["cell"],
    "tables": ["paper", "table"],
    "deviations": ["id"],
    "claims": ["id"],
}
KINDS = ("value", "count", "effect", "size", "above", "none")
PAPERS = ("rga", "rsan", "bcdu", "hybridnetseg", "mininet")
ROLES = ("proposed", "ablation", "baseline_retrained", "quoted", "dataset", "architecture")
SHARES = ("se", "sp", "acc", "precision", "f1", "iou", "auc")  # fractions of one


def _read(name: str) -> pd.DataFrame:
    path = paths.PUBLISHED / f"{name}.csv"
    try:
        rows = files.table(path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: it is part of the checkout, restore it") from None
    if not rows or tuple(rows[0]) != SCHEMA[name]:
        raise UserError(f"{path}: the columns must be {', '.join(SCHEMA[name])}")
    table = pd.DataFrame(rows, columns=SCHEMA[name], dtype=str)
    twice = table[table.duplicated(KEYS[name])]
    if len(twice):
        key = " ".join(twice.iloc[0][KEYS[name]])
        raise UserError(f"{path}: {key} stands there twice: remove one")
    return table


def _demand(table: pd.DataFrame, name: str, wrong: pd.Series, rule: str) -> None:
    if wrong.any():
        first = " ".join(table[wrong].iloc[0][KEYS[name]].astype(str))
        raise UserError(f"{paths.PUBLISHED / name}.csv: {first}: {rule}")


def cells() -> pd.DataFrame:
    """Every printed number, in the order of the tables.

    Beside the columns of the file: `value` (float), `printed` (its text) and `resolution`, one
    unit of the last printed digit. Raises UserError naming the first cell that breaks the schema.
    """
    t = _read("cells")
    _demand(t, "cells", ~t["paper"].isin(PAPERS), f"paper is one of {', '.join(PAPERS)}")
    _demand(t, "cells", ~t["role"].isin(ROLES), f"role is one of {', '.join(ROLES)}")
    _demand(t, "cells", ~t["rerun"].isin(["true", "false"]), "rerun is true or false")
    _demand(t, "cells", ~t["table"].str.fullmatch(r"[0-9]{1,4}"), "table is a number")
    stem = t["paper"] + "-" + t["table"] + "-"
    named = [r.startswith(s) and r[len(s) :].isdigit() for r, s in zip(t["row"], stem, strict=True)]
    _demand(t, "cells", ~pd.Series(named), "row is paper-table-row")
    _demand(t, "cells", t["cell"] != t["row"] + "." + t["metric"], "cell is row.metric")
    _demand(
        t,
        "cells",
        ~t["value"].str.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,12})?"),
        "value is a plain number",
    )
    t["printed"] = t["value"]
    t["resolution"] = [10.0 ** -len(v.partition(".")[2]) for v in t["printed"]]
    t["value"] = t["value"].astype(float)
    share = t["metric"].isin(SHARES)
    _demand(t, "cells", share & (t["value"] > 1), "a share is a fraction of one, not percent")
    known_unit = t["unit"].isin(["fraction", "percent"])
    _demand(t, "cells", share & ~known_unit, "the unit of a share is fraction or percent")
    t["table"] = t["table"].astype(int)
    t["rerun"] = t["rerun"] == "true"
    return t


def tables() -> pd.DataFrame:
    """Every printed table: caption, dataset, units, notes."""
    t = _read("tables")
    _demand(t, "tables", ~t["table"].str.fullmatch(r"[0-9]{1,4}"), "table is a number")
    t["table"] = t["table"].astype(int)
    return t


def deviations() -> pd.DataFrame:
    """Every departure from a paper; `paper` is `all` where it concerns every paper."""
    return _read("deviations")


def applying(paper: str | None) -> list[str]:
    """Ids of the deviations that concern a paper's runs, the shared ones among them."""
    t = deviations()
    return list(t["id"][t["paper"].isin(["all", paper])])


def claims() -> list[dict]:
    """Every claim: the columns of the file, `b` as a list, and the printed number it goes by.

    `published` is a number, a cell, or a difference of two cells (empty: none is printed): `value`
    (float or None) and `resolution`, one unit of the last digit printed (0 for a number).
    """
    t, known = _read("claims"), cells().set_index("cell")
    _demand(t, "claims", ~t["paper"].isin(PAPERS), f"paper is one of {', '.join(PAPERS)}")
    _demand(t, "claims", ~t["kind"].isin(KINDS), f"kind is one of {', '.join(KINDS)}")
    out = []
    for claim in t.to_dict("records"):
        terms, value, resolution = claim["published"].split(" - "), None, 0.0
        if terms[0] in known.index:
            absent = [x for x in terms if x not in known.index]
            wrong = pd.Series(bool(absent) & (t["id"] == claim["id"]))
            _demand(t, "claims", wrong, f"cells.csv has no cell {' '.join(absent)}")
            value = known["value"][terms[0]] - sum(known["value"][x] for x in terms[1:])
            value, resolution = round(value, 6), known["resolution"][terms[0]]
        elif claim["published"]:
            if not re.fullmatch(r"-?[0-9]{1,12}(\.[0-9]{1,12})?", claim["published"]):
                wrong = t["id"] == claim["id"]
                _demand(t, "claims", wrong, "published is a number, a cell, or cell - cell")
            value = float(claim["published"])
        out.append({**claim, "b": claim["b"].split(), "value": value, "resolution": resolution})
    return out


def row(row_id: str, known: pd.DataFrame | None = None) -> pd.DataFrame:
    """The cells of one published row, e.g. "rga-2-08", out of `known` (default: all cells).

    Raises UserError with the nearest row ids if there is none.
    """
    known = cells() if known is None else known
    found = known[known["row"] == row_id]
    if found.empty:
        near = difflib.get_close_matches(row_id, list(dict.fromkeys(known["row"])), n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "see its column `row`"
        where = paths.PUBLISHED / "cells.csv"
        raise UserError(f"{where} has no row {row_id!r} (params.yaml: experiments.*.rows): {hint}")
    return found
