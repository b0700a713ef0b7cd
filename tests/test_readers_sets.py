"""Readers of STARE, HRF, ISIC and MoNuSeg on small fakes: traps, splits, broken files."""

import csv
import gzip
import itertools
from dataclasses import replace
from pathlib import Path

import cv2
import fakes
import numpy as np
import pytest

from resegment import fetch, ingest, native
from resegment.datasets import hrf, isic2016, isic2018, monuseg, registry, stare
from resegment.errors import UserError

SPLITS = Path(__file__).parent.parent / "data/splits"
NAMES = list(fakes.MAKERS)


def usable(name: str, root: Path) -> list[str]:
    return [i for i, reason in registry.reader(name).ids(root).items() if reason is None]


def swapped(contents: dict[str, bytes], path: str, data: bytes, tmp_path: Path) -> Path:
    return fakes.folder(tmp_path, contents | {path: data})


# -- records


@pytest.mark.parametrize("name", NAMES)
def test_record(name, tmp_path):
    contents = fakes.MAKERS[name]()
    root = fakes.folder(tmp_path, contents)
    for id in usable(name, root):
        record = registry.reader(name).read(root, id)
        image = next(d for f, d in contents.items() if Path(f).stem == id)
        assert (record.image == fakes.pixels(image)).all()
        assert record.image[record.image.shape[0] // 2, 20, 0] > 100  # RGB: red
        assert record.label.shape == record.fov.shape == record.image.shape[:2]
        assert record.label.dtype == record.fov.dtype == bool and record.label.any()
        assert record.subject == id[:12]
        if name in ("isic2016", "isic2018", "monuseg"):
            assert record.fov_source == "frame" and record.fov.all()
    with pytest.raises(UserError, match="no image 'ISIC_99'"):
        registry.reader(name).read(root, "ISIC_99")


@pytest.mark.parametrize("packed", [False, True])
def test_stare_grey_labels_gz_and_derived_field_of_view(packed, tmp_path):
    contents = fakes.stare_files()
    if packed:
        contents = {f"{f}.gz": gzip.compress(d) for f, d in contents.items()}
    root = fakes.folder(tmp_path, contents)
    assert usable("stare", root) == ["im0001", "im0002"]
    record = stare.read(root, "im0002")
    assert np.flatnonzero(record.label.all(axis=1)).tolist() == [51]
    assert np.flatnonzero(record.observer2.all(axis=1)).tolist() == [71]
    truth = fakes.photograph(1, 121, 140).any(axis=2)
    assert 2 * (record.fov & truth).sum() / (record.fov.sum() + truth.sum()) > 0.98
    assert record.fov_source == "derived" and record.fov[0].any()


def test_field_of_view_at_the_size_of_stare():
    truth = fakes.photograph(0, 605, 700).any(axis=2)
    found = registry.reader("stare").fov.derive(fakes.photograph(0, 605, 700))
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.99


def test_hrf_takes_any_case_and_rgb_masks(tmp_path):
    contents = {f.lower(): d for f, d in fakes.hrf_files().items()}
    root = fakes.folder(tmp_path, contents)
    assert usable("hrf", root) == ["01_dr", "01_g"]
    assert hrf.read(root, "01_g").fov.all()


@pytest.mark.parametrize("turn", [3, 6])
def test_exif_turns_no_image_away_from_its_label(turn, empty_checkout):
    contents = fakes.isic2018_files(2)
    image = "ISIC2018_Task1-2_Training_Input/ISIC_0000001.jpg"
    plain = contents[image]
    exif = fakes.Image.Exif()
    exif[0x112] = turn
    turned = fakes.encoded(".jpg", fakes.photograph(1, 31, 40), exif=exif)
    fetch.add("isic2018", swapped(contents, image, turned, empty_checkout / "mine"))
    ingest.ingest("isic2018")
    rows = native.manifest("isic2018")
    assert [Path(r["image"]).suffix for r in rows.values()] == [".jpg", ".png"]
    assert (native.image("isic2018", rows["ISIC_0000001"]) == fakes.pixels(plain)).all()


# -- MoNuSeg's polygons


def test_polygons_are_united_and_filled():
    regions = monuseg.polygons(fakes.aperio(
        [fakes.square(2, 3, 4), [(0, 0), (9, 9)]], [fakes.square(4, 3, 4), fakes.square(-5, -5, 6)]
    ))  # fmt: skip
    wanted = np.zeros((20, 10), bool)
    wanted[3:7, 2:8] = wanted[0, 0] = True
    assert (monuseg.fill(regions, (20, 10)) == wanted).all()


def test_vertices_between_pixels_and_far_outside():
    full = monuseg.fill([np.array([(-1e9, -1e9), (1e9, -1e9), (1e9, 1e9), (-1e9, 1e9)])], (9, 8))
    assert full.all()
    assert not monuseg.fill([np.array(fakes.square(30.0, 2, 5))], (9, 8)).any()
    disc = np.array([(50.3 + 20.5 * np.cos(t), 40.7 + 20.5 * np.sin(t))
                     for t in np.linspace(0, 2 * np.pi, 200)])  # fmt: skip
    rows, columns = np.mgrid[:90, :100] + 0.5
    truth = np.hypot(columns - 50.3, rows - 40.7) < 20.5
    assert (monuseg.fill([disc], (90, 100)) != truth).sum() < 0.01 * truth.sum()


@pytest.mark.parametrize(("xml", "why"), [
    (b"", "truncated or no Aperio XML"),
    (fakes.aperio([fakes.square(1, 1, 5)])[:-20], "truncated"),
    (b'<!DOCTYPE a [<!ENTITY b "c">]><Annotations>&b;</Annotations>', "DOCTYPE"),
    ('<!DOCTYPE a><Annotations/>'.encode("utf-16"), "DOCTYPE"),
    (b"<html></html>", "its root is html"),
    (b'<Annotations><Region><Vertex X="nan" Y="1"/></Region></Annotations>', "nan"),
    (b'<Annotations><Region><Vertex Y="1"/></Region></Annotations>', "'X'"),
    (b'<Annotations><Vertex X="1" Y="1"/></Annotations>', "outside every Region"),
])  # fmt: skip
def test_broken_xml_is_one_sentence(xml, why, tmp_path):
    id = monuseg.IDS[0]
    fakes.folder(tmp_path, fakes.monuseg_files((id,)))
    next(tmp_path.rglob("*.xml")).write_bytes(xml)
    with pytest.raises(UserError, match=rf"{id}.xml \(label\) .*{why}.*data add monuseg"):
        monuseg.read(tmp_path, id)


@pytest.mark.parametrize("alpha", [255, 100])
def test_rgba_tissue(alpha, tmp_path):
    id = monuseg.IDS[0]
    rgba = np.dstack([fakes.photograph(0), np.full((fakes.H, fakes.W), alpha, np.uint8)])
    fakes.folder(tmp_path, fakes.monuseg_files((id,)))
    next(tmp_path.rglob("*.tif")).write_bytes(fakes.encoded(".tif", rgba))
    if alpha == 255:
        assert (monuseg.read(tmp_path, id).image == rgba[..., :3]).all()
    else:
        with pytest.raises(UserError, match="tif .image. is partly transparent"):
            monuseg.read(tmp_path, id)


# -- broken cases


def pairs() -> list[tuple[str, str, str]]:
    """(set, id, image or label or mask) of one id a set."""
    out = []
    for name in NAMES:
        reader = registry.reader(name)
        names = tuple(fakes.MAKERS[name]())
        id = next(iter(reader.layout(names))) if hasattr(reader, "layout") else reader.IDS[0]
        whats = ("image", "label", "mask") if name == "hrf" else ("image", "label")
        out += [(name, id, what) for what in whats]
    return out


def file_of(name: str, id: str, what: str, contents: dict[str, bytes]) -> str:
    reader = registry.reader(name)
    layout = reader.layout(tuple(contents)) if hasattr(reader, "layout") else {id: reader.files(id)}
    return next(f for f in contents if Path(f).name == Path(layout[id][what]).name)


@pytest.mark.parametrize(("name", "id", "what"), pairs())
def test_missing_cut_and_ill_sized(name, id, what, tmp_path):
    contents = fakes.MAKERS[name]()
    path = file_of(name, id, what, contents)
    root = fakes.folder(tmp_path, contents)
    (root / path).write_bytes(contents[path][: int(0.6 * len(contents[path]))])
    with pytest.raises(UserError, match=rf"{Path(path).name} \({what}\) is truncated"):
        registry.reader(name).read(root, id)
    if not path.endswith("xml") and what != "image":
        (root / path).write_bytes(fakes.encoded(Path(path).suffix, fakes.mask(3, 20, 20)))
        with pytest.raises(UserError, match=rf"{Path(path).name} \({what}\) is 20x20 but image"):
            registry.reader(name).read(root, id)
    before = usable(name, root)
    (root / path).unlink()
    assert usable(name, root) == [i for i in before if i != id]
    assert f"{what} " in registry.reader(name).ids(root)[id]
    with pytest.raises(UserError, match=rf"{Path(path).name} \({what}\) is missing"):
        registry.reader(name).read(root, id)


def test_palette_and_ill_scaled_labels(tmp_path):
    contents = fakes.isic2018_files(2)
    path = "ISIC2018_Task1_Training_GroundTruth/ISIC_0000000_segmentation.png"
    index = fakes.Image.fromarray(fakes.mask(4, 30, 40) // 255, "P")
    index.putpalette([0, 0, 0, 255, 255, 255])
    fakes.folder(tmp_path, contents)
    index.save(tmp_path / path)
    label = isic2018.read(tmp_path, "ISIC_0000000").label
    assert np.flatnonzero(label.all(axis=1)).tolist() == [4]
    cv2.imwrite(str(tmp_path / path), fakes.mask(4, 30, 40) // 255)
    with pytest.raises(UserError, match="no grey value above 1, in the original inside is 255"):
        isic2018.read(tmp_path, "ISIC_0000000")


@pytest.mark.parametrize(("change", "said"), [
    ({"label": np.full((121, 140), 255, np.uint8)}, "label of im0001 is uint8 .*: give bool"),
    ({"label": np.ones((60, 70), bool)}, r"label of im0001 is bool .60, 70.: give bool .121, 140"),
    ({"fov": None}, r"fov of im0001 is None: give bool .121, 140."),
    ({"observer2": np.ones((121, 140))}, "observer2 of im0001 is float64"),
    ({"image": np.zeros((121, 140), np.uint8)}, r"image of im0001 is uint8 .*uint8 .121, 140, 3."),
    ({"id": "im0002"}, "im0001 gave the id 'im0002'"),
])  # fmt: skip
def test_a_record_that_is_none_is_not_ingested(change, said, empty_checkout, monkeypatch):
    fakes.folder(Path("data/raw/stare"), fakes.stare_files())
    read = stare.read
    monkeypatch.setattr(stare, "read", lambda root, id: replace(read(root, id), **change))
    with pytest.raises(UserError, match=f"datasets/stare.py: .*{said}"):
        ingest.ingest("stare")
    assert not Path("data/native/stare").exists()


# -- splits


def split(name: str) -> dict[str, list[str]]:
    with open(SPLITS / f"{name}.csv") as f:
        rows = list(csv.DictReader(f))
    assert [r["id"] for r in rows] == list(registry.reader(name).IDS)
    return {s: [r["id"] for r in rows if r["split"] == s] for s in native.SPLITS}


def disjoint(parts: dict[str, list[str]], subject=lambda id: id) -> bool:
    people = [{subject(i) for i in ids} for ids in parts.values()]
    return not any(a & b for a, b in itertools.combinations(people, 2))


def test_splits_as_files():
    parts = {name: split(name) for name in ("stare", "hrf", "monuseg")}
    counts = {name: [len(ids) for ids in p.values()] for name, p in parts.items()}
    assert counts == {"stare": [8, 2, 10], "hrf": [13, 2, 30], "monuseg": [28, 2, 14]}
    assert parts["stare"]["test"][0] == "im0162" and parts["stare"]["val"][1] == "im0139"
    learn = parts["hrf"]["train"] + parts["hrf"]["val"]
    assert {i[:2] for i in learn} == {f"{k:02d}" for k in range(1, 6)}
    assert parts["monuseg"]["test"] == list(monuseg.TEST)
    assert disjoint(parts["stare"]) and disjoint(parts["hrf"])
    assert disjoint(parts["monuseg"], lambda id: id[:12])


def test_official_numbers_of_isic():
    folder = "ISBI2016_ISIC_Part1"
    names = [f"{folder}_{'Training' if k < 900 else 'Test'}_Data/ISIC_{k}.jpg" for k in range(1279)]
    layout = isic2016.layout(tuple(names))
    learn = [i for i, f in layout.items() if "Training" in f["image"]]
    held = isic2016.isic.hold_out(learn)
    assert [list(held.values()).count(p) for p in ("train", "val")] == [855, 45]
    assert len(layout) - len(learn) == 379
    both = isic2016.layout((names[0], names[0].replace("Training", "Test")))
    assert "_Test_" in both["ISIC_0"]["image"]
    names = tuple(f"Input/ISIC_{k:07d}.jpg" for k in range(2594))
    parts = isic2018.parts(names)
    assert list(parts.values()) == ["train"] * 1900 + ["val"] * 100 + ["test"] * 594
    assert "ISIC2018_Task1-2_Test_Input/ISIC_1.jpg" not in map(isic2018.place, names)
    assert isic2018.place("ISIC2018_Task1-2_Validation_Input/ISIC_1.jpg") is None


@pytest.mark.parametrize(("name", "counts"), [("isic2016", [19, 1, 4]), ("isic2018", [19, 1, 6])])
def test_split_of_isic_comes_from_its_files(name, counts, empty_checkout):
    fetch.add(name, fakes.folder(empty_checkout / "mine", fakes.MAKERS[name]()))
    ingest.ingest(name)
    found = native.split(name, name)
    assert [list(found.values()).count(p) for p in native.SPLITS] == counts
    assert disjoint({p: [i for i in found if found[i] == p] for p in native.SPLITS})
    with pytest.raises(UserError, match="other.csv is missing"):
        native.split("other", name)
    Path("data/splits").mkdir()
    Path(f"data/splits/{name}.csv").write_text("id,split\nISIC_0000000,test\n")
    assert native.split(name, name) == {"ISIC_0000000": "test"}
