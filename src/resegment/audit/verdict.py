"""What is said of a row: consistent, impossible or undecidable, in a sentence with its figures."""

from resegment.audit.possible import (
    METRICS,
    RESIZE,
    Intervals,
    TestSet,
    averaged_at,
    disjoint,
    fits,
    implied_f1,
    jaccard,
    pooled,
    pooled_at,
    prevalence,
    rate,
)

NAMES = {"se": "Se", "sp": "Sp", "acc": "Acc", "precision": "P", "f1": "F1", "iou": "IoU",
         "auc": "AUC"}  # fmt: skip
REGIONS = {"frame": "whole frame", "fov": "field of view"}
POOLINGS = {"pooled": "pooled pixels", "mean of images": "means of images"}


def judge(printed: Intervals, dataset: str, sets: tuple[TestSet, ...]) -> dict[str, str]:
    """verdict, protocol, cells, sentence and unfit of one row: metric -> interval, on `dataset`."""
    own = [s for s in sets if s.dataset == dataset]
    checked = {k: v for k, v in printed.items() if k in METRICS}
    if len(checked) < 3 and not {"f1", "iou"} <= checked.keys():
        only = " and ".join(NAMES[k] for k in printed)
        return said("undecidable", f"The row prints only {only}, which any test set can give.")
    pair = jaccard(checked, not own)
    if disjoint(checked, not own):
        j, f = _mid(checked, "iou"), _mid(checked, "f1")
        rule = f"IoU {j} allows an F1 of {digits(pair[0])} to {digits(pair[1])}, printed is {f}"
        why = "no image has an F1 outside of J to 2J/(1 + J) and averaging can only lower it"
        if own:
            why = "pooled pixels give the upper end, and means of images the rest"
        return said("impossible", f"{rule}: {why}.", cells="f1 iou")
    if not own:
        kind = "no labels of this dataset were counted and its objects vary too much in area for "
        detail = f"F1 lies within the {digits(pair[0])} to {digits(pair[1])} that IoU allows; "
        start = detail if pair and "f1" in checked else ""
        return said("undecidable", _capital(f"{start}{kind}Se, Sp and Acc to decide anything."))
    found = fits(checked, dataset, sets)
    if found:
        splits = list(dict.fromkeys(s.split for s in own))
        parts = {name: tuple(s for s in own if s.split == name) for name in splits}
        unfit = [name for name in splits if not fits(checked, dataset, parts[name])]
        return _consistent(checked, found) | {"unfit": " ".join(unfit)}
    need = _need(checked, own)
    if prevalence(checked) and pooled_at(checked):
        return said("undecidable", f"{need}; the numbers agree with each other, and another "
                     "split or mask may have such labels.")  # fmt: skip
    if other := averaged_at(checked, own):
        return said("undecidable", f"{need}; means of images that differ much, of prevalence "
                     f"{digits(other)}, can give the row.")  # fmt: skip
    drops = [k for k in checked if spared(checked, k, dataset, sets)]
    if len(drops) == 1:
        return blamed(checked, drops[0], fits(without(checked, drops[0]), dataset, sets))
    need_pi, f1 = prevalence(checked), ""
    if need_pi and {"sp", "f1"} <= checked.keys():
        due = _range(sorted(implied_f1(checked, pi) for pi in need_pi))
        f1 = f" and then pooled F1 would be {due}, printed is {_mid(checked, 'f1')}"
    sentence = (
        f"{need}{f1}: no prevalence gives all of them, nor do means "
        "of images that differ as vessel images do."
    )
    return said("impossible", sentence, cells=" ".join(checked))


def said(verdict: str, sentence: str, protocol: str = "", cells: str = "") -> dict[str, str]:
    return {"verdict": verdict, "protocol": protocol, "cells": cells, "sentence": sentence,
            "unfit": ""}  # fmt: skip


def without(printed: Intervals, metric: str) -> Intervals:
    return {k: v for k, v in printed.items() if k != metric}


def _need(printed: Intervals, own: list[TestSet]) -> str:
    """The prevalence that the row needs, beside those that were measured."""
    have = []
    for region, name in REGIONS.items():
        known = [s.prevalence for s in own if (s.region, s.space) == (region, "native")]
        have += [f"{name} {_range((min(known), max(known)))}"] if known else []
    need = prevalence(printed)
    third = "Sp" if "sp" in printed else "P"
    if not need:
        return f"{_list([NAMES[k] for k in printed])} fit no measured test set ({', '.join(have)})"
    return (
        f"Se, {third} and Acc need a prevalence of {_range(need)}, measured are {', '.join(have)}"
    )


def _consistent(printed: Intervals, found: dict[TestSet, str]) -> dict[str, str]:
    exact = [s for s, how in found.items() if how == "pooled"]
    named = exact or list(found)
    regions = list(dict.fromkeys(s.region for s in found))
    where = " or ".join(
        f"the {REGIONS[s.region]} of {s.split} ({digits(s.prevalence)})" for s in named
    )
    need = prevalence(printed)
    third = "Sp" if "sp" in printed else "P"
    start = f"Se, {third} and Acc need a prevalence of {_range(need)}: " if need else ""
    pooling = ""
    if exact:
        pooling = ", pooled"
        strict = any(pooled(printed, s.prevalence, s.prevalence) for s in exact)
        to = "" if strict else f", its prevalence being up to {RESIZE:.1%} off (size, mask),"
        sentence = f"{start}pooled pixels of {where}{to} give every printed digit"
        if "f1" in printed and (f1 := implied_f1(printed, named[0].prevalence)):
            sentence += f"; F1 {digits(f1)} follows, printed is {_mid(printed, 'f1')}"
    elif pooled_at(printed):
        sentence = (f"{start}{where} gives the row if images were averaged, or pooled with a mask "
                    "or labels that differ a little from those measured")  # fmt: skip
    else:
        pooling = ", mean of images"
        sentence = f"{start}means of images over {where} can give the row, pooled pixels cannot"
    if len(regions) > 1:
        return said("consistent", _capital(sentence) + ". The region stays open.")
    return said("consistent", _capital(sentence) + ".", protocol=regions[0] + pooling)


def spared(printed: Intervals, metric: str, dataset: str, sets: tuple[TestSet, ...]) -> bool:
    """Whether the others fit a test set so well that `metric` alone stands against them.

    Four others that fit are enough. Three are where they are Se, Sp and Acc, whose prevalence is
    then the one measured, and where to leave out Sp or Acc instead would explain nothing: a slip in
    either can move that prevalence from one region's to the other's. Without Se only pooled pixels
    can be tested.
    """
    rest = without(printed, metric)
    how = fits(rest, dataset, sets).values()
    if "pooled" not in how:
        return len(rest) > 3 and metric != "se" and bool(how)
    if len(rest) > 3:
        return True
    instead = (fits(without(printed, k), dataset, sets).values() for k in ("sp", "acc"))
    return rest.keys() == {"se", "sp", "acc"} and not any("pooled" in found for found in instead)


def blamed(printed: Intervals, metric: str, found: dict[TestSet, str]) -> dict[str, str]:
    """One cell alone stands against the others, which fit a test set."""
    one, rest = next(iter(found.items())), without(printed, metric)
    where = f"{POOLINGS[one[1]]} of the {REGIONS[one[0].region]} ({digits(one[0].prevalence)})"
    due = _due(rest, metric, one[0].prevalence)
    force = f" and make {NAMES[metric]} about {digits(due)}" if due else ""
    others = _list([f"{NAMES[k]} {_mid(printed, k)}" for k in METRICS if k in rest])
    only = ", unless it was taken at another threshold" if metric == "f1" else ""
    sentence = (f"{others} fit {where}{force}; {NAMES[metric]} is printed as "
                f"{_mid(printed, metric)}, which fits none{only}.")  # fmt: skip
    return said("impossible", sentence, cells=metric)


def _due(rest: Intervals, metric: str, pi: float) -> float | None:
    """The value that `rest` forces on `metric`, pooled at prevalence `pi`."""
    fpr = rate(rest, pi) if "se" in rest else None
    if fpr is None:
        return None
    if "precision" in rest and "acc" in rest and "sp" not in rest:
        pi = sum(prevalence(rest)) / 2  # P, Se and Acc are sharper than the labels
        fpr = rate(rest, pi)
    se, r = sum(rest["se"]) / 2, (1 - pi) / pi * fpr
    return {"sp": 1 - fpr, "acc": pi * se + (1 - pi) * (1 - fpr), "precision": se / (se + r),
            "f1": 2 * se / (1 + se + r), "iou": se / (1 + r)}.get(metric)  # fmt: skip


def digits(x: float) -> str:
    return f"{x:.4f}"


def _range(ends) -> str:
    low, high = map(digits, ends)
    return low if low == high else f"{low} to {high}"


def _mid(printed: Intervals, metric: str) -> str:
    return digits(sum(printed[metric]) / 2)


def _list(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]
