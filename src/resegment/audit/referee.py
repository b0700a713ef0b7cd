"""What an independent package says of the same rows: mlscorecheck, by Fazekas and Kovacs."""

import logging

from resegment.audit.possible import Intervals, TestSet


def referee(printed: Intervals, dataset: str, sets: tuple[TestSet, ...]) -> str:
    """What mlscorecheck says of each native test set: pooled, and means of Se, Sp and Acc.

    It takes the counts of testsets.csv to the pixel, IoU is not among its scores, and it sets no
    limit on how images differ: its "means" says less than `averaged`. "" with fewer than three
    scores.
    """
    from mlscorecheck.check.binary import check_1_testset_no_kfold, check_n_testsets_mos_no_kfold

    logging.getLogger("mlscorecheck").setLevel(logging.WARNING)  # it narrates every step
    theirs = {"se": "sens", "sp": "spec", "acc": "acc", "precision": "ppv", "f1": "f1"}
    scores = {theirs[k]: sum(v) / 2 for k, v in printed.items() if k in theirs}
    eps = max(((v[1] - v[0]) / 2 for v in printed.values()), default=0)
    linear = {k: v for k, v in scores.items() if k in ("acc", "sens", "spec")}
    own = [s for s in sets if s.dataset == dataset and s.space == "native"]
    if not own or len(scores) < 3:
        return ""
    found: dict[str, list[str]] = {"pooled": [], "means": []}
    for one in own:
        counts = [{"p": v, "n": n - v} for v, n in zip(one.vessel, one.pixels, strict=True)]
        whole = {"p": sum(one.vessel), "n": sum(one.pixels) - sum(one.vessel)}
        if not check_1_testset_no_kfold(whole, scores, eps)["inconsistency"]:
            found["pooled"].append(f"{one.region} of {one.split}")
        if len(linear) == 3:
            said = check_n_testsets_mos_no_kfold(counts, linear, eps, verbosity=0)
            found["means"] += [] if said["inconsistency"] else [f"{one.region} of {one.split}"]
    means = ", ".join(found["means"]) or "impossible"
    return (f"pooled {', '.join(found['pooled']) or 'impossible'}; means "
            f"{means if len(linear) == 3 else 'not testable without Se, Sp and Acc'}")  # fmt: skip
