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


@dataclass(frozen=True)
class Tip:
    """Where a vessel starts. goal: what it grows towards, "arcade", "macula" or "periphery".

    turn: +1 if it bends clockwise as seen, else -1. bow: an arcade's height / its half length.
    """

    artery: bool
    at: tuple[float, float]
    heading: float
    radius: float
    goal: str
    turn: int
    bow: float = 1.0


@dataclass(frozen=True)
class Vessel:
    """One unbranched path of a tree, away from the disc: points (N, 2) and radii (N,) in px."""

    artery: bool
    points: np.ndarray
    radii: np.ndarray


@dataclass(frozen=True)
class Scene:
    """A record and what it was drawn from. lesions: (H, W) bool, never part of the label."""

    record: Record
    eye: Eye
    vessels: list[Vessel]
    lesions: np.ndarray


def ids(root: Path | None = None) -> dict[str, str | None]:
    """Every id of the sample set -> None: all can be read; `root` is not used."""
    return dict.fromkeys(IDS)


def read(root: Path | None, id: str) -> Record:
    """Draw one image, (270, 262, 3), the same bytes each time. `root` is not used.

    Raises UserError for an unknown id.
    """
    return draw(id).record


def draw(id: str) -> Scene:
    """Draw one image and keep what it shows. Raises UserError for an unknown id."""
    if id not in IDS:
        raise UserError(f"sample has no image {id!r}: its ids are 01 to 16")
    layout, growth, second, sick, light = (np.random.default_rng([int(id), k]) for k in range(5))
    eye = _eye(layout)
    vessels = _grow(eye, growth)
    x, y = eye.centre
    fov = _distance(eye.centre) <= eye.radius
    fov |= _distance((x + 0.7 * eye.radius, y - 0.71 * eye.radius)) <= 6  # the camera's notch
    fov &= abs(ROWS - y) <= eye.radius - 1
    label = (_strokes(vessels) > 0.5) & fov
    observer2 = (_strokes(_second_opinion(vessels, second)) > 0.5) & fov
    dark, bright = _lesions(fov & ~label, eye, sick, ill=int(id) % 3 == 0)
    image = _photograph(eye, vessels, fov, dark, bright, light)
    record = Record(id, id, image, label, fov, "given", observer2)
    return Scene(record, eye, vessels, dark + bright > 0.1)


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

    def angle(this: float, other: float) -> float:
        cosine = (radius**4 + this**4 - other**4) / (2 * radius**2 * this**2)
        return math.acos(min(cosine, 1.0))

    return major, angle(major, minor), angle(minor, major)


def _roots(eye: Eye, rng: np.random.Generator) -> list[Tip]:
    """What leaves the disc, above and below: arcades, nasal and macular arteries and veins."""
    tips = []
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
                at = x, eye.disc[1] + 6 * math.sin(heading)
                tips.append(Tip(artery, at, heading, radius, goal, turn * eye.side, bow + shift))
    return tips


def _grow(eye: Eye, rng: np.random.Generator) -> list[Vessel]:
    """Grow the trees, thickest vessels first, so that thin ones find the ground taken."""
    vessels, tips = [], _roots(eye, rng)
    owner = np.full((2, HEIGHT, WIDTH), -1, np.int32)  # which vein, which artery is at a pixel
    while tips:
        tip = max(tips, key=lambda t: t.radius)
        tips.remove(tip)
        points, radii, branches = _follow(tip, eye, owner, len(vessels), rng)
        if len(points) > 4:
            vessels.append(Vessel(tip.artery, np.array(points), np.array(radii)))
            tips += branches
    return vessels


def _follow(tip: Tip, eye: Eye, owner: np.ndarray, number: int, rng: np.random.Generator):
    """Grow vessel `number` to its end. Returns its points, its radii and the Tips that leave it."""
    (x, y), heading, radius, turn = tip.at, tip.heading, tip.radius, tip.turn
    points, radii, branches = [tip.at], [radius], []
    life = 1000 if radius > 0.7 else 30 + rng.exponential(40)
    branching = rng.uniform(8, 20) + eye.disc_radius * (tip.goal == "arcade")
    tortuosity, wiggle, shared = rng.uniform(0.06, 0.16) / radius**0.3, 0.0, 0
    while len(points) * STEP < life:
        wiggle = 0.85 * wiggle + tortuosity * rng.standard_normal()
        wanted, pull = _direction(tip, x, y, eye)
        error = math.remainder(wanted - heading, 2 * math.pi)
        heading += pull * error + 0.025 * rng.standard_normal()
        x += STEP * math.cos(heading + wiggle)
        y += STEP * math.sin(heading + wiggle)
        # A vessel ends at the camera's rim, at the avascular fovea or once past it, where it would
        # meet one of its kind (these never cross) or run on top of one of the other kind.
        row, column = round(y + 3 * math.sin(heading)), round(x + 3 * math.cos(heading))
        rim = math.dist((x, y), eye.centre) > eye.radius + 3
        if rim or not (0 <= row < HEIGHT and 0 <= column < WIDTH):
            break
        same, other = owner[int(tip.artery), row, column], owner[1 - int(tip.artery), row, column]
        shared = shared + 1 if other >= 0 and radius < 1 else 0
        met = (len(points) > 5 and same not in (-1, number)) or shared > 6
        passed = tip.goal == "macula" and abs(error) > 1.7
        if passed or math.dist((x, y), eye.fovea) < 14:
            break
        if met and math.dist((x, y), eye.disc) > 1.3 * eye.disc_radius:
            break
        cv2.circle(owner[int(tip.artery)], (round(x), round(y)), 1, number, -1)
        radius *= 1 - 0.0015 * STEP
        points.append((x, y))
        radii.append(radius)
        branching -= STEP
        if branching < 0:
            branching = rng.gamma(4, 6.0)
            share = rng.uniform(0.32, 0.55) if rng.random() < 0.65 else rng.uniform(0.55, 0.78)
            minor = max(share * radius, THINNEST)
            if minor > 0.79 * radius:  # 2^(-1/3), more than two equal daughters
                continue
            turn = -turn
            radius, bend, spread = murray(radius, minor)
            inside = tip.goal == "macula" or (tip.goal == "arcade" and turn == -tip.turn)
            away = heading + turn * min(spread, 1.0)
            goal = "macula" if inside else "periphery"
            branches.append(replace(tip, at=(x, y), heading=away, radius=minor, goal=goal))
            heading -= turn * bend
    return points, radii, branches


def _direction(tip: Tip, x: float, y: float, eye: Eye) -> tuple[float, float]:
    """Where a vessel at (x, y) is drawn to: an angle, and the share it turns there per step."""
    dx, dy = x - eye.fovea[0], y - eye.fovea[1]
    if tip.goal == "macula":
        return math.atan2(-dy, -0.4 * dx), 0.025
    if tip.goal == "periphery":
        return math.atan2(y - eye.disc[1] + 0.6 * dy, x - eye.disc[0] + 0.6 * dx), 0.025
    # An arcade runs along an ellipse around the fovea, which opens beyond it.
    length = math.dist(eye.disc, eye.fovea)
    off = math.hypot(dx, dy / tip.bow) / length - 1 - 0.6 * max(eye.side * dx / length, 0)
    along = math.atan2(dx * tip.bow * -tip.turn, dy / tip.bow * tip.turn)
    return along - tip.turn * max(min(2 * off, 0.8), -0.8), 0.1


def _strokes(vessels: list[Vessel], values=None, width: float = 1.0) -> np.ndarray:
    """The share of each pixel that is vessel, (H, W) float32, times the vessel's value, if given.

    Where vessels meet, the thickest one's value stays. width: drawn / true width.
    """
    canvas = np.zeros((FINE * HEIGHT, FINE * WIDTH), np.float32)
    segments = []
    for vessel, value in zip(vessels, values or [1.0] * len(vessels), strict=True):
        fixed = np.rint(((vessel.points + 0.5) * FINE - 0.5) * 8).astype(int).tolist()  # 3 bits
        ends = zip(vessel.radii[1:], fixed[:-1], fixed[1:], strict=True)
        segments += [(radius, a, b, value) for radius, a, b in ends]
    for radius, a, b, value in sorted(segments):
        cv2.line(canvas, a, b, value, max(round(2 * FINE * width * radius), 1), shift=3)
    return cv2.resize(canvas, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)


def _second_opinion(vessels: list[Vessel], rng: np.random.Generator) -> list[Vessel]:
    """The vessels as another person traces them: shifted, wider or thinner, some not seen."""
    hand, seen = rng.uniform(0.9, 1.15), []
    for vessel in vessels:
        if vessel.radii.mean() < 0.7 and rng.random() < 0.15:
            continue
        shift = rng.normal(0, 1, (len(vessel.points), 2))
        shift = cv2.GaussianBlur(shift, (1, 0), sigmaX=1, sigmaY=3)  # deviation 0.31
        radii = vessel.radii * hand * rng.uniform(0.85, 1.2)
        seen.append(Vessel(vessel.artery, vessel.points + shift, radii))
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
        chance = np.exp(-((_distance(centre) / reach) ** 2)) * (room > 3)
        chance = chance.astype(float).ravel()
        for place in rng.choice(chance.size, number * ill, p=chance / chance.sum()):
            row, column = divmod(int(place), WIDTH)
            size = min(rng.gamma(3, 0.4) + 0.4, 0.6 * room[row, column] - 0.8)
            ragged = _distance((column, row)) + 0.3 * size * _noise(rng, 1.2).clip(-1, 1)
            maps[kind] = np.maximum(maps[kind], np.clip(size - ragged + 0.5, 0, 1))
    return maps


def _rgb(red: float, green: float, blue: float) -> np.ndarray:
    return np.array([red, green, blue], np.float32)


def _photograph(eye: Eye, vessels, fov, dark, bright, rng: np.random.Generator) -> np.ndarray:
    """Vessels and lesions on the fundus, through the camera: (H, W, 3) uint8 RGB."""
    image = _fundus(eye, rng)
    contrast = rng.uniform(0.7, 1.15)
    # Blood takes little red and most green; a vein's takes more, and an artery's wall shines.
    for artery, colour in ((False, _rgb(0.30, 0.62, 0.4)), (True, _rgb(0.14, 0.46, 0.3))):
        kind = [v for v in vessels if v.artery == artery]
        depth = [min(0.5 + 0.3 * v.radii.mean(), 1) * rng.uniform(0.7, 1.15) for v in kind]
        blood = contrast * cv2.GaussianBlur(_strokes(kind, depth), (0, 0), 0.5)
        image *= np.exp(-blood[..., None] * colour)
        shine = [(0.12 + 0.3 * artery) * (v.radii.mean() > 0.8) for v in kind]
        shine = cv2.GaussianBlur(_strokes(kind, shine, 0.35), (0, 0), 0.5)
        image *= 1 + shine[..., None] * _rgb(0.5, 0.8, 0.6)
    image *= np.exp(-contrast * dark[..., None] * _rgb(0.3, 0.6, 0.45))
    image *= 1 + bright[..., None] * rng.uniform(0.6, 1) * _rgb(0.25, 0.65, 0.6)

    image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.45, 0.7))
    edge = cv2.GaussianBlur(fov.astype(np.float32), (0, 0), 0.7)[..., None]
    grain = rng.standard_normal(image.shape, np.float32)
    grain += 0.7 * cv2.GaussianBlur(grain, (0, 0), 0.8) + 0.8 * grain.mean(2, keepdims=True)
    image = edge * image + (1 - edge) * _rgb(6, 5, 5) + grain * (0.8 + rng.uniform(0.8, 2.2) * edge)
    return np.rint(image).clip(0, 255).astype(np.uint8)


def _fundus(eye: Eye, rng: np.random.Generator) -> np.ndarray:
    """The retina without its vessels, unevenly lit: (H, W, 3) float32, about 0 to 255."""
    red = rng.uniform(160, 265)
    green = red * rng.uniform(0.44, 0.56)
    tone = _rgb(red, green, green * rng.uniform(0.5, 0.64))

    # Pigment: broad patches, fine grain, and here and there the choroid's vessels shine through.
    pigment = 0.04 * _noise(rng, 22) + 0.025 * _noise(rng, 7) + 0.015 * _noise(rng, 1.5)
    streaks = 1 - np.minimum(1.3 * abs(_noise(rng, 11, 5)), 1)
    streaks *= np.clip(0.5 + _noise(rng, 30), 0, 1) * rng.choice([0.02, 0.05, 0.12])
    image = tone * np.exp((pigment + streaks)[..., None] * _rgb(0.5, 1, 1.1))
    image *= np.exp(0.03 * _noise(rng, 32)[..., None] * _rgb(-1, 1, 1.5))

    # The fovea is dark; the disc is bright and its cup brighter, with a faint halo around it.
    spot = 0.7 * np.exp(-((_distance(eye.fovea) / rng.uniform(13, 18)) ** 2))
    spot += 0.3 * np.exp(-((_distance(eye.fovea) / 36) ** 2))
    image *= np.exp(-rng.uniform(0.3, 0.65) * spot[..., None] * _rgb(0.7, 1, 0.8))
    slant = np.hypot((COLUMNS - eye.disc[0]) / rng.uniform(0.86, 1), ROWS - eye.disc[1])
    slant = slant / eye.disc_radius + 0.03 * _noise(rng, 6)
    image *= 1 + 0.1 * np.exp(-((slant / 1.8) ** 2))[..., None]
    rim = 0.5 - 0.5 * np.tanh((slant - 1) * eye.disc_radius / 1.8)
    image += rim[..., None] * (tone * _rgb(1.3, 1.75, 1.6) - image)
    cup = _distance((eye.disc[0] + 0.25 * eye.side * eye.disc_radius, eye.disc[1]))
    cup = np.exp(-((cup / eye.disc_radius / rng.uniform(0.4, 0.65)) ** 4))
    image *= 1 + cup[..., None] * _rgb(0.1, 0.2, 0.45)

    # The flash lies off-centre; far from it red fades first, and the rim glows on the near side.
    x, y = (COLUMNS - eye.centre[0]) / eye.radius, (ROWS - eye.centre[1]) / eye.radius
    angle, off = rng.uniform(0, 2 * math.pi), rng.uniform(0, 0.35)
    near = x * math.cos(angle) + y * math.sin(angle)
    far = x**2 + y**2 + off**2 - 2 * off * near
    image *= np.exp(-rng.uniform(0.1, 0.35) * far[..., None] * _rgb(1, 0.8, 0.7))
    image *= 1 - rng.uniform(0.1, 0.6) * np.clip(-near, 0, 1)[..., None] ** 2 * _rgb(0.8, 0.35, 0.3)
    glow = np.exp(np.minimum(np.hypot(x, y) - 1, 0) / 0.02) * np.clip(near, 0, 1)
    return image + rng.uniform(10, 50) * glow[..., None] * _rgb(0.6, 1, 0.5)
