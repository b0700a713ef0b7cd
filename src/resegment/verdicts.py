"""The rules by which a published number and a claim are judged, and nothing else.

Two uncertainties stay apart: over seeds (what training again changes) and over images (what other
test images would change). A number is met if either interval meets it, but the wider seeds scatter
the more numbers they meet: NARROW and WIDE bound that. An effect must hold under both. Under a
reduced budget nothing is judged that the budget could have changed.
"""

import math

from resegment.stats import Interval

NUMBER = ("reproduced", "not reproduced", "not comparable", "not run")
CLAIM = ("supported", "not supported", "undecided", "not run")
SIGNIFICANT = 0.05
NARROW = 0.02  # of metrics from 0 to 1: of the size of the gains that the papers print
WIDE = 0.1


def of_number(
    budget: str,
    printed: float,
    resolution: float,
    mean: float,
    seeds: Interval | None,
    images: Interval | None,
    apart: str | None = None,
) -> tuple[str, str]:
    """(verdict, reason) for one published number; the first rule that fits decides.

    1. not run: the budget is a reduction of the paper's schedule, whatever the value.
    2. not comparable: for the reason `apart`, e.g. that the published row contradicts itself.
    3. not reproduced: the measured metric is undefined; or the interval over seeds is wider than
       WIDE, for such seeds would meet any number, and their mean is that of no run.
    4. reproduced: the printed number, anywhere within half a unit of its last digit
       (`resolution`), meets the interval over images, or that over seeds where it is not wider than
       NARROW. With neither (a parameter count) it must meet the mean itself.
    5. not reproduced: anything else.
    """
    if budget != "paper":
        return "not run", f"paper budget not run; value shown is budget {budget}"
    if apart:
        return "not comparable", apart
    if math.isnan(mean):
        return "not reproduced", "the measured value is undefined"
    named = {"seeds": seeds, "images": images}
    known = {k: v for k, v in named.items() if v and not any(map(math.isnan, v))}
    reach = 0.5 * resolution * (1 + 1e-9)  # the half unit itself counts, though not binary
    reason = ", ".join(f"{k} {low:.4f} to {high:.4f}" for k, (low, high) in known.items())
    if "seeds" in known and known["seeds"][1] - known["seeds"][0] > WIDE:
        return "not reproduced", f"{reason}; the seeds disagree too far to reproduce a number"
    met = [k for k, (low, high) in known.items() if low - reach <= printed <= high + reach]
    if met == ["seeds"] and known["seeds"][1] - known["seeds"][0] > NARROW:
        return "not reproduced", f"{reason}; seeds that scatter so much meet many numbers"
    meets = met if known else abs(mean - printed) <= reach
    return ("reproduced" if meets else "not reproduced"), reason


def of_value(number: tuple[str, str], printed: float, values: list[float]) -> tuple[str, str]:
    """(verdict, reason) for the claim of a number: `of_number`'s, and the seeds' values.

    Undecided, too, where the number is not reproduced and yet lies between two seeds.
    """
    verdict, reason = number
    known = [v for v in values if not math.isnan(v)]
    if verdict == "not reproduced" and known and min(known) <= printed <= max(known):
        return "undecided", f"{reason}; the printed number lies between two of them"
    return dict(zip(NUMBER, ("supported", "not supported", "undecided", "not run"),
                    strict=True))[verdict], reason  # fmt: skip


def of_effect(
    effect: float,
    seeds: Interval | None,
    images: Interval | None,
    p: float = math.nan,
    null: float = 0.0,
) -> tuple[str, str]:
    """(verdict, reason) for the claim that `effect` is above `null`; the first rule decides.

    An effect is a difference of two experiments (null 0), or one value (null: a printed number of
    somebody else's).

    1. undecided: fewer than two seeds on a side, or a side that is undefined.
    2. supported: every interval lies above null and p, adjusted by Holm, is below 0.05 (nan where
       there is no test: the intervals decide).
    3. not supported: every interval ends below null.
    4. undecided: what remains.
    """
    known = [i for i in (seeds, images) if i]
    if math.isnan(effect):
        return "undecided", "the measured difference is undefined"
    if any(math.isnan(end) for i in known for end in i):
        return "undecided", "too few images for an interval"
    if seeds is None:
        return "undecided", "one seed cannot carry a claim: run at least two"
    lows, highs = [i[0] for i in known], [i[1] for i in known]
    if min(lows) > null and (math.isnan(p) or p < SIGNIFICANT):
        return "supported", f"every interval lies above {null:g}"
    if max(highs) < null:
        return "not supported", f"every interval lies below {null:g}"
    return "undecided", f"{null:g} is within an interval, or chance explains the difference"


def of_size(
    published: float, effect: float, seeds: Interval | None, images: Interval | None
) -> tuple[str, str]:
    """(verdict, reason) for the claim that a difference has the printed size.

    As `of_effect`, but what the intervals must hold is the printed size, and it must be above zero.
    """
    known = [i for i in (seeds, images) if i]
    if math.isnan(effect):
        return "undecided", "the measured difference is undefined"
    if any(math.isnan(end) for i in known for end in i):
        return "undecided", "too few images for an interval"
    if seeds is None:
        return "undecided", "one seed cannot carry a claim: run at least two"
    if not any(low <= published <= high for low, high in known):
        return "not supported", "the printed size lies outside every interval"
    if min(low for low, _ in known) > 0:
        return "supported", "the printed size lies within an interval, zero in none"
    return "undecided", "zero and the printed size are both within the intervals"
