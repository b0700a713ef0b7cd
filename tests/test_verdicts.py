"""The rules by which numbers and claims are judged, one case a rule and its borders."""

import math

import pytest

from resegment import verdicts

NAN = math.nan

NUMBERS = {
    "reduced budget": (("lite", 0.8166, 1e-4, 0.8166, None, (0.8, 0.9)), "not run"),
    "reduced budget and contradiction": (
        ("smoke", 0.8166, 1e-4, 0.8, None, (0.8, 0.9), "A and B"), "not run"),
    "contradiction": (("paper", 0.8, 1e-4, 0.8, None, (0.7, 0.9), "A and B"), "not comparable"),
    "inside both": (("paper", 0.8, 1e-4, 0.8, (0.79, 0.81), (0.7, 0.9)), "reproduced"),
    "inside the seeds only": (("paper", 0.8, 1e-4, 0.808, (0.799, 0.817), (0.805, 0.811)),
                              "reproduced"),
    "inside seeds that scatter": (("paper", 0.8, 1e-4, 0.81, (0.79, 0.83), (0.805, 0.815)),
                                  "not reproduced"),
    "such seeds, and images that meet it, too": (
        ("paper", 0.8, 1e-4, 0.81, (0.79, 0.83), (0.795, 0.825)), "reproduced"),
    "such seeds, and one image alone": (
        ("paper", 0.8, 1e-4, 0.81, (0.79, 0.83), (math.nan, math.nan)), "not reproduced"),
    "inside the images only": (("paper", 0.8, 1e-4, 0.81, (0.805, 0.815), (0.79, 0.83)),
                               "reproduced"),
    "outside both, below": (("paper", 0.8, 1e-4, 0.81, (0.805, 0.815), (0.802, 0.818)),
                            "not reproduced"),
    "outside both, above": (("paper", 0.9, 1e-4, 0.81, (0.805, 0.815), (0.802, 0.818)),
                            "not reproduced"),
    "better is not reproduced": (("paper", 0.8, 1e-4, 0.95, None, (0.94, 0.96)), "not reproduced"),
    "one seed, inside": (("paper", 0.8, 1e-4, 0.81, None, (0.79, 0.83)), "reproduced"),
    "one seed, outside": (("paper", 0.7, 1e-4, 0.81, None, (0.79, 0.83)), "not reproduced"),
    "rounding reaches the bound": (("paper", 0.7999, 2e-4, 0.81, None, (0.8, 0.83)), "reproduced"),
    "rounding falls short": (("paper", 0.7998, 2e-4, 0.81, None, (0.8, 0.83)), "not reproduced"),
    "one image: no interval": (("paper", 0.8, 1e-4, 0.81, None, (math.nan, math.nan)),
                               "not reproduced"),
    "a count that rounds to it": (("paper", 0.04, 0.01, 0.039639, None, None), "reproduced"),
    "a count that does not": (("paper", 0.04, 0.01, 0.0223, None, None), "not reproduced"),
    "undefined": (("paper", 0.8, 1e-4, math.nan, None, (math.nan, math.nan)), "not reproduced"),
    "seeds that would meet any number": (
        ("paper", 0.8412, 0.0001, 0.518, (-0.11, 1.15), (0.51, 0.53)), "not reproduced"),
    "such seeds, and images that meet it": (
        ("paper", 0.8412, 0.0001, 0.838, (0.70, 0.97), (0.83, 0.85)), "not reproduced"),
    "such seeds, and one image": (
        ("paper", 0.74, 0.0001, 0.74, (0.22, 1.25), (math.nan, math.nan)), "not reproduced"),
}  # fmt: skip


@pytest.mark.parametrize("case", NUMBERS)
def test_of_a_number(case):
    arguments, expected = NUMBERS[case]
    said, reason = verdicts.of_number(*arguments)
    assert said == expected
    if said == "not run":
        assert reason == f"paper budget not run; value shown is budget {arguments[0]}"
    if said == "not comparable":
        assert "A and B" in reason


def test_of_a_claimed_value():
    """What lies between two seeds is not refuted, and what no seed comes near to is."""
    wide = ("paper", 0.837, 1e-4, 0.804, (0.38, 1.23), (0.78, 0.83))
    number = verdicts.of_number(*wide)
    assert verdicts.of_value(number, 0.837, [0.683, 0.730, 1.0])[0] == "undecided"
    assert verdicts.of_value(number, 0.837, [0.683, 0.730, 0.8])[0] == "not supported"
    met = verdicts.of_number("paper", 0.8, 1e-4, 0.8, (0.79, 0.81), (0.7, 0.9))
    assert verdicts.of_value(met, 0.8, [0.79, 0.81])[0] == "supported"
    lite = verdicts.of_number("lite", 0.8, 1e-4, 0.8, (0.79, 0.81), (0.7, 0.9))
    assert verdicts.of_value(lite, 0.8, [0.79, 0.81])[0] == "not run"
    wrong = verdicts.of_number("paper", 0.8, 1e-4, 0.8, None, (0.7, 0.9), "A and B")
    assert verdicts.of_value(wrong, 0.8, [0.79, 0.81])[0] == "undecided"
    for values in ([0.7, NAN, 1.0], [NAN, 0.7, 1.0]):  # in whichever order
        assert verdicts.of_value(number, 0.837, values)[0] == "undecided"


# effect, interval over seeds, over images, p, null
EFFECTS = {
    "above zero under both": ((0.02, (0.01, 0.03), (0.005, 0.03), 0.01), "supported"),
        "the seeds reach zero": ((0.02, (-0.01, 0.03), (0.005, 0.03), 0.01), "undecided"),
    "the images reach zero": ((0.02, (0.01, 0.03), (-0.005, 0.03), 0.01), "undecided"),
    "no longer significant after Holm": ((0.02, (0.01, 0.03), (0.005, 0.03), 0.05), "undecided"),
    "no test, intervals alone": ((0.02, (0.01, 0.03), None, NAN), "supported"),
    "one seed": ((0.02, None, (0.01, 0.03), 0.001), "undecided"),
    "below zero": ((-0.02, (-0.03, -0.01), (-0.05, -0.01), 0.2), "not supported"),
    "below zero under one alone": ((-0.02, (-0.03, -0.01), (-0.05, 0.01), 0.2), "undecided"),
    "zero inside both": ((0.005, (-0.01, 0.02), (-0.02, 0.03), 0.5), "undecided"),
    "undefined": ((NAN, (0.01, 0.03), (NAN, NAN), NAN), "undecided"),
    "one image": ((0.02, (0.01, 0.03), (NAN, NAN), NAN), "undecided"),
    "above a bound": ((0.985, (0.98, 0.99), (0.982, 0.988), NAN, 0.9784), "supported"),
    "below a bound": ((0.96, (0.95, 0.97), (0.955, 0.965), NAN, 0.9784), "not supported"),
}  # fmt: skip
SIZES = {
    "inside, above zero": ((0.02, 0.019, (0.01, 0.03), (0.015, 0.025)), "supported"),
    "inside one of the two": ((0.02, 0.012, (0.01, 0.03), (0.01, 0.015)), "supported"),
    "larger than printed": ((0.02, 0.05, (0.04, 0.06), (0.03, 0.07)), "not supported"),
    "smaller than printed": ((0.02, 0.005, (0.001, 0.01), (-0.01, 0.015)), "not supported"),
    "zero inside as well": ((0.02, 0.015, (-0.01, 0.04), (0.005, 0.025)), "undecided"),
    "one seed": ((0.02, 0.02, None, (0.01, 0.03)), "undecided"),
    "undefined": ((0.02, NAN, None, None), "undecided"),
}


@pytest.mark.parametrize("case", EFFECTS)
def test_of_an_effect(case):
    arguments, expected = EFFECTS[case]
    assert verdicts.of_effect(*arguments)[0] == expected


@pytest.mark.parametrize("case", SIZES)
def test_of_a_size(case):
    arguments, expected = SIZES[case]
    assert verdicts.of_size(*arguments)[0] == expected


def test_every_verdict_has_a_reason():
    judged = [verdicts.of_effect(*case[0]) for case in EFFECTS.values()]
    judged += [verdicts.of_size(*case[0]) for case in SIZES.values()]
    assert {said for said, _ in judged} <= set(verdicts.CLAIM)
    assert all(reason for _, reason in judged)
