"""`data add` of sets without official hashes, and of copies that nobody vouches for."""

import hashlib
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import fakes
import pytest
from typer.testing import CliRunner

from resegment import fetch, ingest
from resegment.cli.data import _described, data
from resegment.datasets import hrf, monuseg, registry, stare, sums
from resegment.errors import UserError

NAMES = list(fakes.MAKERS)


@pytest.fixture(autouse=True)
def few(empty_checkout, monkeypatch):
    """Sets of two images."""
    monkeypatch.setattr(stare, "IDS", stare.IDS[:2])
    monkeypatch.setattr(hrf, "IDS", hrf.IDS[:2])
    monkeypatch.setattr(monuseg, "IDS", (monuseg.IDS[0], monuseg.TEST[0]))


def text(name: str) -> str:
    return Path(f"data/registry/{name}.sha256").read_text()


def official(name: str, contents: dict[str, bytes]) -> dict[str, bytes]:
    """Let the registry know these files as the originals."""
    lines = [f"{hashlib.sha256(d).hexdigest()}  {f}\n" for f, d in sorted(contents.items())]
    Path(f"data/registry/{name}.sha256").write_text("".join(lines))
    return contents


def held(name: str) -> dict[str, bytes]:
    root = Path(f"data/raw/{name}")
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*.*") if p.is_file()}


def known(name: str) -> list[str]:
    module, contents = registry.reader(name), fakes.MAKERS[name]()
    return list(module.IDS if hasattr(module, "IDS") else module.layout(tuple(contents)))


def elsewhere(contents: dict[str, bytes]) -> dict[str, bytes]:
    """Below other top folders, in capitals."""
    return {f"Downloads 2/{f.upper()}": d for f, d in contents.items()}


PACKINGS = {
    "folder": fakes.folder,
    "elsewhere": lambda at, c: fakes.folder(at, elsewhere(c)),
    "zip": fakes.zipped,
    "tar": fakes.tarred,
    "gz-in-tar": lambda at, c: fakes.tarred(at, c, packed=True),
}


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("name", NAMES)
def test_add_takes_any_packing(name, packing, tmp_path):
    source = PACKINGS[packing](tmp_path / "mine", fakes.MAKERS[name]())
    result = fetch.add(name, source, unverified="isic" not in name)
    assert result["usable"] == known(name) and result["unusable"] == {}
    assert result["taken"] == result["added"] == len(held(name))
    assert result["unverified"] == result["taken"] and not result["rejected"]
    root = Path(f"data/raw/{name}")
    assert list(registry.reader(name).ids(root)) == known(name)
    before = text(name)
    again = fetch.add(name, source, unverified="isic" not in name)
    assert (again["added"], again["already"], again["taken"]) == (0, result["added"], 0)
    assert text(name) == before


def test_official_archives_of_isic2016_one_a_part(tmp_path):
    contents = fakes.isic2016_files()
    tops = sorted({f.partition("/")[0] for f in contents})
    flat = [fakes.zipped(tmp_path / top, {Path(f).name: d for f, d in contents.items()
                                          if f.startswith(f"{top}/")}) for top in tops]  # fmt: skip
    result = fetch.add("isic2016", flat)
    assert held("isic2016") == contents and len(result["usable"]) == 24 and result["next"] == ""
    lines = text("isic2016").splitlines()
    assert lines[0].startswith("# No hashes") and lines[1].startswith("# unverified")
    paths = [line[66:] for line in lines[2:]]
    assert paths == sorted(contents)


def test_isic2016_wants_to_be_told_training_from_test(tmp_path):
    source = fakes.folder(tmp_path / "images", {"ISIC_0000001.jpg": b"one"})
    with pytest.raises(UserError, match="a folder or an archive whose name says train or test"):
        fetch.add("isic2016", source)


def test_isic_ignores_what_is_no_image_and_tells_what_lacks(tmp_path):
    contents = fakes.isic2018_files(4)
    del contents["ISIC2018_Task1_Training_GroundTruth/ISIC_0000002_segmentation.png"]
    contents["ISIC2018_Task1-2_Validation_Input/ISIC_0000009.jpg"] = b"of another part"
    contents["__MACOSX/._ISIC_0000000.jpg"] = b"finder"
    result = fetch.add("isic2018", fakes.folder(tmp_path / "mine", contents))
    assert result["added"] == 7 and len(result["usable"]) == 3
    assert re.search("label .*2_segmentation.png is missing", result["unusable"]["ISIC_0000002"])
    assert "data get isic2018" in result["next"]
    assert registry.reader("isic2018").ids(Path("data/raw/isic2018"))["ISIC_0000002"]


def test_isic_files_once_taken_in_are_held_to_it(tmp_path):
    contents = fakes.isic2018_files(2)
    fetch.add("isic2018", fakes.folder(tmp_path / "mine", contents))
    image = "ISIC2018_Task1-2_Training_Input/ISIC_0000000.jpg"
    before = held("isic2018")
    other = fakes.folder(tmp_path / "other", contents | {image: b"edited"})
    fetch.add("isic2018", other)
    assert held("isic2018") == before
    fetch.add("isic2018", other, unverified=True)
    assert held("isic2018")[image] == b"edited"


@pytest.mark.parametrize("name", ["stare", "hrf", "monuseg"])
def test_altered_copies_are_refused_unless_asked_for(name, tmp_path):
    before = text(name)
    source = fakes.folder(tmp_path / "mine", fakes.MAKERS[name]())
    with pytest.raises(UserError, match="holds no original file.*add .* PATH --unverified"):
        fetch.add(name, source)
    assert text(name) == before and not held(name)


def test_official_bytes_win_and_undo_what_was_unverified(tmp_path):
    originals = official("stare", fakes.stare_files())
    pure = text("stare")
    image = "stare-images/im0001.ppm"
    altered = originals | {image: fakes.encoded(".ppm", fakes.photograph(7, 121, 140))}
    mine, theirs = fakes.folder(tmp_path / "a", altered), fakes.folder(tmp_path / "b", originals)

    result = fetch.add("stare", mine, unverified=True)
    assert (result["taken"], result["unverified"], result["next"]) == (1, 1, "")
    assert held("stare") == altered
    listed = sums.read(Path("data/registry/stare.sha256"))
    assert list(listed.unverified) == [image] and listed.official[image] in pure
    assert f"\n# {listed.official[image]}  {image}\n" in f"\n{text('stare')}"
    assert "# unverified: not the original files\n" in text("stare")
    ingest.ingest("stare")
    assert json.loads(Path("data/native/stare/manifest.json").read_text())["unverified"] == 1
    assert "6 of 6 files" in _described(result) and "1 unverified" in _described(result)

    result = fetch.add("stare", [mine, theirs], unverified=True)
    assert held("stare") == originals and text("stare") == pure
    assert (result["unverified"], result["taken"]) == (0, 0)
    fetch.add("stare", mine, unverified=True)  # an original that is there stays
    alone = fakes.folder(tmp_path / "c", {image: altered[image]})
    with pytest.raises(UserError, match=f"originals are held .* remove data/raw/stare/{image} to"):
        fetch.add("stare", alone, unverified=True)
    assert held("stare") == originals and text("stare") == pure


def test_checkout_of_the_registry_undoes_it(tmp_path):
    pure = text("hrf")
    fetch.add("hrf", fakes.zipped(tmp_path / "mine", fakes.hrf_files()), unverified=True)
    assert text("hrf") != pure
    Path("data/registry/hrf.sha256").write_text(pure)
    (status,) = fetch.status(["hrf"])
    assert len(status["altered"]) == 6 and status["usable"] == [] and status["unverified"] == 0


def test_two_files_of_one_content_are_two_files(tmp_path):
    contents = fakes.isic2018_files(3)
    folder = "ISIC2018_Task1-2_Training_Input"
    contents[f"{folder}/ISIC_0000001.jpg"] = contents[f"{folder}/ISIC_0000000.jpg"]
    source = fakes.folder(tmp_path / "mine", contents)
    for _ in range(2):
        assert len(fetch.add("isic2018", source)["usable"]) == 3


def test_annotations_without_a_hash_need_the_flag(tmp_path):
    id = monuseg.IDS[0]
    contents = {f"train/Tissue_Images/{id}.tif": b"image"}
    official("monuseg", contents)
    source = fakes.folder(tmp_path / "mine", contents | {f"{id}.xml": fakes.aperio([])})
    result = fetch.add("monuseg", source)
    assert result["added"] == 1 and "xml is missing, its hash unknown" in result["unusable"][id]
    assert "--unverified" in result["next"]
    assert fetch.add("monuseg", source, unverified=True)["usable"] == [id]


def test_the_command_says_that_nobody_vouches(tmp_path):
    source = fakes.folder(tmp_path / "mine", fakes.isic2018_files(2))
    answer = CliRunner().invoke(data, ["add", "isic2018", str(source)])
    assert "nobody vouches for 4 of the files" in answer.output and answer.exit_code == 0
    assert "data/registry/isic2018.sha256" in answer.output


def test_jpegs_are_kept_as_they_are(tmp_path):
    contents = fakes.hrf_files()
    fetch.add("hrf", fakes.folder(tmp_path / "mine", contents), unverified=True)
    ingest.ingest("hrf")
    kept = Path("data/native/hrf/01_dr_image.jpg").read_bytes()
    assert kept == contents["images/01_dr.JPG"]
    assert "part" not in Path("data/native/hrf/manifest.csv").read_text()


@pytest.fixture
def mine(monkeypatch):
    """A set whose images and masks have the same names, as its files come."""
    reader = ModuleType("mine")
    reader.IDS = ("eye1", "eye2")
    reader.files = lambda id: {"image": f"images/{id}.png", "label": f"masks/{id}.png"}
    reader.ids = lambda root: {id: registry.missing(root, reader.files(id)) for id in reader.IDS}
    reader.read = None
    monkeypatch.setitem(sys.modules, "resegment.datasets.mine", reader)
    fields = "title access licence homepage cite files".split()
    with open("data/registry/datasets.yaml", "a") as f:
        f.write(f"mine: {{{''.join(f'{field}: x, ' for field in fields)}archives: []}}\n")
    return {f: f.encode() for id in reader.IDS for f in reader.files(id).values()}


@pytest.mark.parametrize("packing", PACKINGS)
def test_files_of_one_name_are_told_by_their_folders(packing, mine, tmp_path):
    result = fetch.add("mine", PACKINGS[packing](tmp_path / "my eyes", mine))
    assert held("mine") == mine and result["usable"] == ["eye1", "eye2"] and result["next"] == ""


def test_files_of_one_name_that_no_folder_tells_are_refused(mine, tmp_path):
    source = fakes.folder(
        tmp_path / "x", {f.replace("masks", "labels"): d for f, d in mine.items()}
    )
    with pytest.raises(
        UserError, match="x/labels/eye1.png may be images/eye1.png or masks/eye1.png"
    ):
        fetch.add("mine", source)
    assert held("mine") == {} and not Path("data/registry/mine.sha256").exists()
    official("mine", mine)  # by their content they are known wherever they lie
    assert len(fetch.add("mine", source)["usable"]) == 2 and held("mine") == mine


def test_an_image_is_never_taken_for_its_missing_mask(mine, tmp_path):
    root, reader = fakes.folder(tmp_path / "x", mine), registry.reader("mine")
    (root / "masks/eye1.png").rename(root / "masks/EYE1.PNG")
    assert registry.locate(root, "masks/eye1.png") == root / "masks/EYE1.PNG"
    (root / "masks/eye2.png").unlink()
    assert reader.ids(root) == {"eye1": None, "eye2": "label masks/eye2.png is missing"}
