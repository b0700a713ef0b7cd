"""The sample set: 16 drawn fundus photographs, so that the whole pipeline runs with no download.

Nothing here is a patient's eye, and no score on it compares with a paper's. `draw` goes from the
eye to its vessel trees, the two annotations and the photograph; every part has its own random
stream. Lengths are px, angles radians; points are (x, y) with y down.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from resegment.datasets.record import Record
from resegment.errors import UserError

IDS = tuple(f"{i:02d}" for i in range(1, 17))
HEIGHT, WIDTH = 270, 262  # px, about half of DRIVE's; no multiple of 16, as real images are none
FINE = 4  # vessels are drawn on a grid this much finer, then averaged: widths below 1 px exist
STEP = 1.5  # px between two points of a vessel
THINNEST = 0.42  # px, the radius below which no vessel branches off
ROWS, COLUMNS = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)


@dataclass(frozen=True)
class Eye:
    """Centres (x, y) and radii in px. side: +1 if the fovea is right of the disc, else -1."""

    side: int
    centre: tuple[float, float]
    radius: float
    disc: tuple[float, float]
    disc_radius: float
    fovea: tuple[float, float]


@dataclass
class Vessel:
    """One unbranched path of a tree, away from the disc; it starts as one point and grows."""

    artery: bool
    points: list[tuple[float, float]]
    radii: list[float]  # px, one per point
    heading: float
    goal: str  # what it grows towards: "arcade", "macula" or "periphery"
    turn: int  # +1 if it bends clockwise as seen, else -1
    bow: float  # of an arcade: height / half length


def ids(root: Path | None = None) -> dict[str, str | None]:
    """Every id of the sample set -> None: all can be read; `root` is not used."""
    return dict.fromkeys(IDS)


def read(root: Path | None, id: str) -> Record:
    """Draw one image, 270 x 262; `root` is not used. Raises UserError for an unknown id."""
    return draw(id)[0]


def draw(id: str) -> tuple[Record, Eye, list[Vessel], np.ndarray]:
    """Draw one image, the same bytes each time, and keep what it was drawn from.

    Returns the record, its eye, its vessels and its lesions, (H, W) bool, never in the label.
    """
    if id not in IDS:
        raise UserError(f"sample has no image {id!r}: its ids are 01 to 16")
    layout, growth, second, sick, light = (np.random.default_rng([int(id), k]) for k in range(5))
    eye = _eye(layout)
    vessels = _grow(eye, growth)
    (x, y), r = eye.centre, eye.radius
    fov = (_distance((x, y)) <= r) | (_distance((x + 0.7 * r, y - 0.71 * r)) <= 6)  # the notch
    fov &= abs(ROWS - y) <= r - 1  # the camera cuts the disc at top and bottom
    label = (_strokes(vessels) > 0.5) & fov
    observer2 = (_strokes(_second_opinion(vessels, second)) > 0.5) & fov
    dark, bright = _lesions(fov & ~label, eye, sick, ill=int(id) % 3 == 0)
    image = _photograph(eye, vessels, fov, dark, bright, light)
    record = Record(id, id, image, label, fov, "given", observer2)
    return record, eye, vessels, dark + bright > 0.1


def _eye(rng: np.random.Generator) -> Eye:
    """The fovea lies 2.4 disc diameters from the disc and a little lower, as in DRIVE."""
    side = 1 if rng.random() < 0.4 else -1
    x, y = 130.5 + rng.uniform(-1, 1), 134.5 + rng.uniform(-1, 1)
    disc = x - side * rng.uniform(80, 92), y + rng.uniform(-14, 4)
    fovea = disc[0] + side * rng.uniform(84, 94), disc[1] + rng.uniform(4, 12)
    return Eye(side, (x, y), 126.0, disc, rng.uniform(16.5, 19.5), fovea)


def _distance(point: tuple[float, float]) -> np.ndarray:
    return np.hypot(COLUMNS - point[0], ROWS - point[1])


def _noise(rng: np.random.Generator, x: float, y: float = 0) -> np.ndarray:
    """Smooth texture, (H, W) float32, mean 0, deviation 1. x, y: its grain in px, y = x if 0."""
    noise = cv2.GaussianBlur(rng.standard_normal((HEIGHT, WIDTH), np.float32), (0, 0), x, sigmaY=y)
    return (noise - noise.mean()) / noise.std()


def murray(radius: float, minor: float) -> tuple[float, float, float]:
    """Split a vessel: the major daughter's radius, and the angles of major and minor to it.

    Murray 1926: r0^3 = r1^3 + r2^3, and the angles at which the blood's flow costs least.
    """
    major = (radius**3 - minor**3) ** (1 / 3)
    a, b, c = radius**2, major**2, minor**2
    angles = ((a * a + b * b - c * c) / (2 * a * b), (a * a + c * c - b * b) / (2 * a * c))
    return major, *(math.acos(min(cosine, 1.0)) for cosine in angles)


def _roots(eye: Eye, rng: np.random.Generator) -> list[Vessel]:
    """What leaves the disc, above and below: arcades, nasal and macular arteries and veins."""
    roots = []
    for turn in (-1, 1):
        bow = rng.uniform(0.78, 0.95)
        apart = rng.choice([-1, 1]) * rng.uniform(0.06, 0.11)  # which of the two is outside
        for artery, shift in ((True, apart), (False, -apart)):
            thick = (1.35 if artery else 1.8) * rng.uniform(0.9, 1.1)
            for goal, degrees, radius in (
                ("arcade", 80 + 150 * shift + rng.uniform(-4, 4), thick),
                ("periphery", 130 + 120 * shift + rng.uniform(-10, 10), 0.55 * thick),
                ("macula", rng.uniform(10, 45), rng.uniform(0.45, 0.6)),
            ):
                angle = turn * math.radians(degrees)
                heading = angle if eye.side > 0 else math.pi - angle
                x = eye.disc[0] - 4 * eye.side + 3 * math.cos(heading)
                at, bend = (x, eye.disc[1] + 6 * math.sin(heading)), turn * eye.side
                roots.append(Vessel(artery, [at], [radius], heading, goal, bend, bow + shift))
    return roots


def _grow(eye: Eye, rng: np.random.Generator) -> list[Vessel]:
    """Grow the trees, thickest vessels first, so that thin ones find the ground taken."""
    vessels, waiting = [], _roots(eye, rng)
    owner = np.full((2, HEIGHT, WIDTH), -1, np.int32)  # which vein, which artery is at a pixel
    while waiting:
        vessel = waiting.pop(max(range(len(waiting)), key=lambda i: waiting[i].radii[0]))
        branches = _extend(vessel, eye, owner, len(vessels), rng)
        if len(vessel.points) > 4:
            vessels.append(vessel)
            waiting += branches
    return vessels


def _extend(vessel: Vessel, eye: Eye, owner: np.ndarray, number: int, rng: np.random.Generator):
    """Grow a vessel, the `number`th, to its end. Returns the list of Vessels that leave it."""
    (x, y), radius, heading, turn = vessel.points[0], vessel.radii[0], vessel.heading, vessel.turn
    mine, others, branches = owner[int(vessel.artery)], owner[1 - int(vessel.artery)], []
    life = 1000 if radius > 0.7 else 30 + rng.exponential(40)
    branching = rng.uniform(8, 20) + eye.disc_radius * (vessel.goal == "arcade")
    tortuosity, wiggle, shared = rng.uniform(0.06, 0.16) / radius**0.3, 0.0, 0
    while len(vessel.points) * STEP < life:
        wiggle = 0.85 * wiggle + tortuosity * rng.standard_normal()
        wanted, pull = _direction(vessel, x, y, eye)
        error = math.remainder(wanted - heading, 2 * math.pi)
        heading += pull * error + 0.025 * rng.standard_normal()
        x, y = x + STEP * math.cos(heading + wiggle), y + STEP * math.sin(heading + wiggle)
        # A vessel ends at the camera's rim, at the avascular fovea or once past it, where it would
        # meet one of its kind (these never cross) or run on top of one of the other kind.
        row, column = round(y + 3 * math.sin(heading)), round(x + 3 * math.cos(heading))
        rim = math.dist((x, y), eye.centre) > eye.radius + 3
        if rim or not (0 <= row < HEIGHT and 0 <= column < WIDTH):
            break
        shared = shared + 1 if others[row, column] >= 0 and radius < 1 else 0
        met = len(vessel.points) > 5 and mine[row, column] not in (-1, number)
        met = (met or shared > 6) and math.dist((x, y), eye.disc) > 1.3 * eye.disc_radius
        passed = vessel.goal == "macula" and abs(error) > 1.7
        if met or passed or math.dist((x, y), eye.fovea) < 14:
            break
        cv2.circle(mine, (round(x), round(y)), 1, number, -1)
        radius *= 1 - 0.0015 * STEP
        vessel.points.append((x, y))
        vessel.radii.append(radius)
        branching -= STEP
        if branching < 0:
            branching = rng.gamma(4, 6.0)
            share = (0.32, 0.55) if rng.random() < 0.65 else (0.55, 0.78)
            minor = max(rng.uniform(*share) * radius, THINNEST)
            if minor > 0.79 * radius:  # 2^(-1/3), more than two equal daughters
                continue
            turn = -turn
            radius, bend, spread = murray(radius, minor)
            inward = {"macula": True, "arcade": turn == -vessel.turn, "periphery": False}
            goal = "macula" if inward[vessel.goal] else "periphery"
            away = heading + turn * min(spread, 1.0)
            branches.append(Vessel(vessel.artery, [(x, y)], [minor], away, goal, turn, 1.0))
            heading -= turn * bend
    return branches


def _direction(vessel: Vessel, x: float, y: float, eye: Eye) -> tuple[float, float]:
    """Where a vessel at (x, y) is drawn to: an angle, and the share it turns there per step."""
    dx, dy = x - eye.fovea[0], y - eye.fovea[1]
    if vessel.goal == "macula":
        return math.atan2(-dy, -0.4 * dx), 0.025
    if vessel.goal == "periphery":
        return math.atan2(y - eye.disc[1] + 0.6 * dy, x - eye.disc[0] + 0.6 * dx), 0.025
    # An arcade runs along an ellipse around the fovea, which opens beyond it.
    length = math.dist(eye.disc, eye.fovea)
    off = math.hypot(dx, dy / vessel.bow) / length - 1 - 0.6 * max(eye.side * dx / length, 0)
    along = math.atan2(dx * vessel.bow * -vessel.turn, dy / vessel.bow * vessel.turn)
    return along - vessel.turn * max(min(2 * off, 0.8), -0.8), 0.1


def _strokes(vessels: list[Vessel], values=None, width: float = 1.0) -> np.ndarray:
    """The share of each pixel that is vessel, (H, W) float32, times the vessel's value, if given.

    Where vessels meet, the thickest one's value stays. width: drawn / true width.
    """
    canvas = np.zeros((FINE * HEIGHT, FINE * WIDTH), np.float32)
    segments = []
    for vessel, value in zip(vessels, values or [1.0] * len(vessels), strict=True):
        fine = (np.array(vessel.points) + 0.5) * FINE - 0.5  # pixel centres onto the FINE grid
        fixed = np.rint(8 * fine).astype(int).tolist()  # OpenCV's fixed point: shift=3
        same = [value] * (len(fixed) - 1)
        segments += zip(vessel.radii[1:], fixed[:-1], fixed[1:], same, strict=True)
    for radius, a, b, value in sorted(segments):
        cv2.line(canvas, a, b, value, max(round(2 * FINE * width * radius), 1), shift=3)
    return cv2.resize(canvas, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)


def _second_opinion(vessels: list[Vessel], rng: np.random.Generator) -> list[Vessel]:
    """The vessels as another person traces them: shifted, wider or thinner, some not seen."""
    hand, seen = rng.uniform(0.9, 1.15), []
    for vessel in vessels:
        if np.mean(vessel.radii) < 0.7 and rng.random() < 0.15:
            continue
        shift = rng.normal(0, 1, (len(vessel.points), 2))
        shift = cv2.GaussianBlur(shift, (1, 0), sigmaX=1, sigmaY=3)  # deviation 0.31
        radii = np.array(vessel.radii) * hand * rng.uniform(0.85, 1.2)
        seen.append(replace(vessel, points=vessel.points + shift, radii=radii))
    return seen


def _lesions(free: np.ndarray, eye: Eye, rng: np.random.Generator, ill: bool) -> np.ndarray:
    """Dark spots (microaneurysms, haemorrhages) and bright ones (exudates) on `free` ground.

    Returns (2, H, W) float32 in 0 to 1, dark and bright; 0 everywhere unless ill.
    """
    maps = np.zeros((2, HEIGHT, WIDTH), np.float32)
    room = cv2.distanceTransform(free.astype(np.uint8), cv2.DIST_L2, 5)
    room[_distance(eye.disc) < 1.6 * eye.disc_radius] = 0
    for kind, reach, number in ((0, 80, rng.integers(12, 26)), (1, 30, rng.integers(12, 36))):
        centre = eye.fovea + rng.normal(0, 20, 2) * kind  # exudates stand in one cluster
        chance = (np.exp(-((_distance(centre) / reach) ** 2.0)) * (room > 3)).ravel().astype(float)
        for place in rng.choice(chance.size, number * ill, p=chance / chance.sum()):
            row, column = divmod(int(place), WIDTH)
            size = min(rng.gamma(3, 0.4) + 0.4, 0.6 * room[row, column] - 0.8)
            ragged = _distance((column, row)) + 0.3 * size * _noise(rng, 1.2).clip(-1, 1)
            maps[kind] = np.maximum(maps[kind], np.clip(size - ragged + 0.5, 0, 1))
    return maps


def _photograph(eye: Eye, vessels, fov, dark, bright, rng: np.random.Generator) -> np.ndarray:
    """Vessels and lesions on the fundus, through the camera: (H, W, 3) uint8 RGB."""
    image = _fundus(eye, rng)
    contrast = rng.uniform(0.7, 1.15)
    # Blood takes little red and most green; a vein's takes more, and an artery's wall shines.
    for artery, colour in ((False, [0.30, 0.62, 0.4]), (True, [0.14, 0.46, 0.3])):
        kind = [v for v in vessels if v.artery == artery]
        depth = [min(0.5 + 0.3 * np.mean(v.radii), 1) * rng.uniform(0.7, 1.15) for v in kind]
        blood = contrast * cv2.GaussianBlur(_strokes(kind, depth), (0, 0), 0.5)
        image *= np.exp(-blood[..., None] * colour)
        shine = [(0.1 + 0.15 * artery) * (np.mean(v.radii) > 0.8) for v in kind]
        shine = cv2.GaussianBlur(_strokes(kind, shine, 0.35), (0, 0), 0.5)
        image *= 1 + shine[..., None] * [0.5, 0.8, 0.6]
    image *= np.exp(-contrast * dark[..., None] * [0.3, 0.6, 0.45])
    image *= 1 + bright[..., None] * rng.uniform(0.6, 1) * [0.25, 0.65, 0.6]

    image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.45, 0.7))
    edge = cv2.GaussianBlur(fov.astype(np.float32), (0, 0), 0.7)[..., None]
    grain = rng.standard_normal(image.shape, np.float32)
    grain += 0.7 * cv2.GaussianBlur(grain, (0, 0), 0.8) + 0.8 * grain.mean(2, keepdims=True)
    image = edge * image + (1 - edge) * [6, 5, 5] + grain * (0.8 + rng.uniform(0.8, 2.2) * edge)
    return np.rint(image).clip(0, 255).astype(np.uint8)


def _fundus(eye: Eye, rng: np.random.Generator) -> np.ndarray:
    """The retina without its vessels, unevenly lit: (H, W, 3) float64, about 0 to 255."""
    tone = np.cumprod([rng.uniform(160, 265), rng.uniform(0.44, 0.56), rng.uniform(0.5, 0.64)])

    # Pigment: broad patches, fine grain, and here and there the choroid's vessels shine through.
    pigment = 0.04 * _noise(rng, 22) + 0.025 * _noise(rng, 7) + 0.015 * _noise(rng, 1.5)
    streaks = 1 - np.minimum(1.3 * abs(_noise(rng, 11, 5)), 1)
    streaks *= np.clip(0.5 + _noise(rng, 30), 0, 1) * rng.choice([0.02, 0.05, 0.12])
    image = tone * np.exp((pigment + streaks)[..., None] * [0.5, 1, 1.1])
    image *= np.exp(0.03 * _noise(rng, 32)[..., None] * [-1, 1, 1.5])

    # The fovea is dark; the disc is bright and its cup brighter, with a faint halo around it.
    spot = 0.7 * np.exp(-((_distance(eye.fovea) / rng.uniform(13, 18)) ** 2))
    spot += 0.3 * np.exp(-((_distance(eye.fovea) / 36) ** 2))
    image *= np.exp(-rng.uniform(0.3, 0.65) * spot[..., None] * [0.7, 1, 0.8])
    slant = np.hypot((COLUMNS - eye.disc[0]) / rng.uniform(0.86, 1), ROWS - eye.disc[1])
    slant = slant / eye.disc_radius + 0.03 * _noise(rng, 6)
    image *= 1 + 0.1 * np.exp(-((slant / 1.8) ** 2))[..., None]
    rim = 0.5 - 0.5 * np.tanh((slant - 1) * eye.disc_radius / 1.8)
    image += rim[..., None] * (tone * [1.3, 1.75, 1.6] - image)
    cup = _distance((eye.disc[0] + 0.25 * eye.side * eye.disc_radius, eye.disc[1]))
    cup = np.exp(-((cup / eye.disc_radius / rng.uniform(0.4, 0.65)) ** 4))
    image *= 1 + cup[..., None] * [0.1, 0.2, 0.45]

    # The flash lies off-centre; far from it red fades first, and the rim glows on the near side.
    x, y = (COLUMNS - eye.centre[0]) / eye.radius, (ROWS - eye.centre[1]) / eye.radius
    angle, off = rng.uniform(0, 2 * math.pi), rng.uniform(0, 0.35)
    near = x * math.cos(angle) + y * math.sin(angle)
    far = x**2 + y**2 + off**2 - 2 * off * near
    image *= np.exp(-rng.uniform(0.1, 0.35) * far[..., None] * [1, 0.8, 0.7])
    image *= 1 - rng.uniform(0.1, 0.6) * np.clip(-near, 0, 1)[..., None] ** 2 * [0.8, 0.35, 0.3]
    glow = np.exp(np.minimum(np.hypot(x, y) - 1, 0) / 0.02) * np.clip(near, 0, 1)
    return image + rng.uniform(10, 50) * glow[..., None] * [0.6, 1, 0.5]
