"""The registry, `data status` and `data add`: any packing of the right files, and nothing else."""

import gzip
import hashlib
import io
import os
import shutil
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from resegment import fetch, unpack
from resegment.datasets import chase_db1, drive, registry
from resegment.errors import UserError

REAL = os.environ.get("RESEGMENT_REAL_DATA")
needs_data = pytest.mark.skipif(not REAL, reason="RESEGMENT_REAL_DATA names no folder")
HERE = Path(__file__).parent.parent / "data/registry"
RAW = Path("data/raw/drive")

# a DRIVE of three images
ORIGINALS = {
    file: f"content of {file}".encode() * 50 for id in ("01", "02", "21") for file in
    [*drive.files(id).values(), *([f"test/2nd_manual/{id}_manual2.gif"] if id < "20" else [])]
}  # fmt: skip


def declare(name: str, originals: dict[str, bytes]) -> None:
    lines = [f"{hashlib.sha256(data).hexdigest()}  {file}\n" for file, data in originals.items()]
    Path(f"data/registry/{name}.sha256").write_text("".join(lines))


@pytest.fixture
def checkout(tmp_path, monkeypatch) -> Path:
    """An empty checkout whose registry lists the three images."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(HERE, "data/registry")
    declare("drive", ORIGINALS)
    monkeypatch.setattr(drive, "IDS", ("01", "02", "21"))
    return tmp_path


def write(folder: Path, contents: dict[str, bytes]) -> Path:
    for file, data in contents.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(data)
    return folder


def pack_zip(path: Path, contents: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file, data in contents.items():
            archive.writestr(file, data)
    return path


def pack_tar(path: Path, contents: dict[str, bytes], **header) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix in (".gz", ".tgz") else "w") as archive:
        for file, data in contents.items():
            member = tarfile.TarInfo(file)
            member.size = len(data)
            for key, value in header.items():
                setattr(member, key, value)
            archive.addfile(member, io.BytesIO(data))
    return path


def held() -> dict[str, bytes]:
    return {str(p.relative_to(RAW)): p.read_bytes() for p in RAW.rglob("*") if p.is_file()}


def part(name: str) -> dict[str, bytes]:
    return {file: data for file, data in ORIGINALS.items() if file.startswith(name)}


# -- registry


def test_registry_of_the_repository():
    known = registry.load()
    assert list(known)[:5] == ["drive", "chase_db1", "stare", "hrf", "monuseg"]
    for name, count in [("drive", 140), ("chase_db1", 84), ("stare", 60), ("hrf", 135),
                        ("monuseg", 78), ("isic2016", 0), ("isic2018", 0)]:  # fmt: skip
        expected = known[name].expected()
        assert len(expected) == count
        # `add` finds a file by its content and calls one altered by its name: both must be unique
        assert len(set(expected.values())) == count
        assert len({Path(file).name.lower() for file in expected}) == count
        assert known[name].access in ("open", "register", "request")
        assert all(a.url.startswith("https:") for a in known[name].archives if a.url)
        assert known[name].access != "open" or all(a.url for a in known[name].archives)
    for name in ("drive", "chase_db1", "stare", "hrf", "monuseg"):
        module = registry.reader(name)
        needed = {file for id in module.IDS for file in module.files(id).values()}
        # 17 annotations of MoNuSeg's training set have no official hash
        assert len(needed - set(known[name].expected())) == (17 if name == "monuseg" else 0)


def test_unknown_dataset_lists_the_known():
    with pytest.raises(UserError, match="'driv'.*known names are drive, chase_db1, stare"):
        registry.get("driv")


def test_outside_a_checkout(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="datasets.yaml is missing.*root of its checkout"):
        registry.get("drive")


def test_broken_registry(checkout):
    Path("data/registry/datasets.yaml").write_text("drive: {title: [")
    with pytest.raises(UserError, match="datasets.yaml cannot be understood"):
        registry.load()


def test_an_entry_without_its_fields_is_named(checkout):
    with open("data/registry/datasets.yaml", "a") as f:
        f.write("mydata:\n  title: my eyes\n  cite: none\n")
    said = "mydata lacks access, licence, homepage, files, archives.: mend it"
    with pytest.raises(UserError, match=f"datasets.yaml .*{said}"):
        registry.load()


# -- status


def test_status_of_nothing(checkout):
    everything = fetch.status()
    assert [entry["name"] for entry in everything] == list(registry.load())
    (entry,) = fetch.status(["drive"])
    assert (entry["expected"], entry["present"], entry["usable"]) == (len(ORIGINALS), 0, [])
    assert entry["missing"] == list(ORIGINALS)
    assert entry["unusable"]["01"] == "image test/images/01_test.tif is missing"
    assert "training.zip and test.zip at https://drive" in entry["next"]
    assert "resegment data add drive PATH" in entry["next"]
    (stare, isic) = fetch.status(["stare", "isic2016"])
    assert stare["usable"] == [] and "data get stare" in stare["next"]
    assert (isic["expected"], isic["usable"]) == (0, []) and "data get isic2016" in isic["next"]


def test_status_names_altered_and_missing_files(checkout):
    write(RAW, ORIGINALS)
    (RAW / "test/mask/02_test_mask.gif").write_bytes(b"edited")
    (RAW / "training/1st_manual/21_manual1.gif").unlink()
    (entry,) = fetch.status(["drive"])
    assert entry["altered"] == ["test/mask/02_test_mask.gif"]
    assert entry["missing"] == ["training/1st_manual/21_manual1.gif"]
    assert entry["usable"] == ["01"]
    assert entry["unusable"] == {
        "02": "mask test/mask/02_test_mask.gif is altered",
        "21": "label training/1st_manual/21_manual1.gif is missing",
    }


# -- add: every packing


def whole_zip(at: Path) -> Path:
    return pack_zip(at / "DRIVE.zip", {f"DRIVE/{f}": d for f, d in ORIGINALS.items()})


def whole_tar(at: Path) -> Path:
    return pack_tar(at / "d.tar", ORIGINALS)


def whole_tar_gz(at: Path) -> Path:
    return pack_tar(at / "d.tar.gz", {f"./{f}": d for f, d in ORIGINALS.items()})


def whole_tgz(at: Path) -> Path:
    return pack_tar(at / "d.tgz", ORIGINALS)


def unpacked_elsewhere(at: Path) -> Path:
    return write(at / "my eyes/v2", {f.upper(): d for f, d in ORIGINALS.items()}).parent


def flat_and_renamed(at: Path) -> Path:
    return write(at / "flat", {f"{i}.bin": d for i, d in enumerate(ORIGINALS.values())})


def folder_of_archives(at: Path) -> Path:
    (at / "DRIVE").mkdir()
    pack_zip(at / "DRIVE/training.zip", part("training"))
    pack_zip(at / "DRIVE/test.zip", part("test"))
    return at / "DRIVE"


def zip_in_zip(at: Path) -> Path:
    folder = folder_of_archives(at)
    return pack_zip(at / "all.zip", {p.name: p.read_bytes() for p in folder.iterdir()})


def several(at: Path) -> list[Path]:
    return sorted(folder_of_archives(at).iterdir())


def gzipped_files_in_a_tar(at: Path) -> Path:
    return pack_tar(at / "stare.tar", {f"{f}.gz": gzip.compress(d) for f, d in ORIGINALS.items()})


@pytest.mark.parametrize("packing", [
    whole_zip, whole_tar, whole_tar_gz, whole_tgz, unpacked_elsewhere, flat_and_renamed,
    folder_of_archives, zip_in_zip, several, gzipped_files_in_a_tar,
], ids=lambda f: f.__name__)  # fmt: skip
def test_add_takes(packing, checkout):
    source = packing(checkout)
    result = fetch.add("drive", source)
    assert held() == ORIGINALS
    assert (result["added"], result["already"]) == (len(ORIGINALS), 0)
    assert result["missing"] == result["altered"] == result["problems"] == []
    assert result["usable"] == ["01", "02", "21"] and result["next"] == ""
    modes = {stat.S_IMODE(p.stat().st_mode) for p in RAW.rglob("*") if p.is_file()}
    assert modes == {0o444}
    assert not [p for p in Path("data/raw").glob(".drive.*") if p.is_dir()]

    again = fetch.add("drive", source)  # idempotent
    assert (again["added"], again["already"]) == (0, len(ORIGINALS))


def test_add_part_of_it_says_what_lacks(checkout):
    newer = {f: d for f, d in part("test").items() if "manual" not in f}  # today's test.zip
    newer["test/1st_manual/02_MANUAL1.GIF"] = b"drawn anew"
    result = fetch.add("drive", pack_zip(checkout / "test.zip", newer))
    assert result["added"] == 4 and result["usable"] == []
    label = "label test/1st_manual/0"
    assert result["unusable"]["01"] == f"{label}1_manual1.gif is missing"
    assert result["unusable"]["02"].startswith(f"{label}2_manual1.gif is altered in ")
    assert result["unusable"]["02"].endswith("test.zip/test/1st_manual/02_MANUAL1.GIF")
    assert list(result["rejected"]) == ["test/1st_manual/02_manual1.gif"]
    assert fetch.add("drive", write(checkout / "more", ORIGINALS))["usable"] == ["01", "02", "21"]


def test_add_restores_an_altered_original(checkout):
    write(RAW, ORIGINALS)
    (RAW / "test/images/01_test.tif").write_bytes(b"edited")
    assert fetch.add("drive", write(checkout / "copy", ORIGINALS))["added"] == 1
    assert held() == ORIGINALS


def test_add_nothing_that_matches(checkout):
    converted = write(checkout / "png", {"images/01_test.tif": b"resized", "readme.txt": b"hi"})
    with pytest.raises(UserError, match="png holds no original file of DRIVE.*1 have an original"):
        fetch.add("drive", converted)
    assert held() == {}
    with pytest.raises(UserError, match="nowhere does not exist"):
        fetch.add("drive", "nowhere")
    with pytest.raises(UserError, match="holds no original file of ISIC 2018"):
        fetch.add("isic2018", converted)


def test_killed_add_leaves_nothing_for_the_next(checkout):
    write(Path("data/raw/.drive.killed"), {"1": b"half"})
    fetch.add("drive", whole_zip(checkout))
    assert not Path("data/raw/.drive.killed").exists()


def test_interrupted_copy_is_not_seen(checkout, monkeypatch):
    def full(source, target):
        Path(target).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fetch.shutil, "copyfile", full)
    with pytest.raises(UserError, match="No space left on device: free some space"):
        fetch.add("drive", whole_zip(checkout))
    assert held() == {}


# -- add: archives made by an enemy, or cut


@pytest.mark.parametrize(
    "name", ["../../evil", "/tmp/evil", "a/../../evil", "..\\evil", "C:\\evil"]
)
@pytest.mark.parametrize("pack", [pack_zip, pack_tar])
def test_escaping_member_is_refused(pack, name, checkout):
    box = checkout / "in/side/box"
    box.mkdir(parents=True)
    path = pack(box / "bad.arc", {name: b"evil", **ORIGINALS})
    before = sorted(checkout.rglob("*"))
    with pytest.raises(UserError, match="bad.arc: .*evil' leads out of the archive, refused"):
        fetch.add("drive", path)
    new = {p.name for p in checkout.rglob("*")} - {p.name for p in before}
    assert new <= {"raw", ".drive.lock"}


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE,
                                  tarfile.BLKTYPE, tarfile.FIFOTYPE])  # fmt: skip
def test_links_and_devices_are_refused(kind, checkout):
    path = pack_tar(checkout / "bad.tar", {"odd": b""}, type=kind, linkname="/etc/passwd")
    with pytest.raises(UserError, match="bad.tar: 'odd' is a link or a device, refused"):
        fetch.add("drive", path)


def test_link_in_a_zip_is_refused(checkout):
    member = zipfile.ZipInfo("odd")
    member.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile("bad.zip", "w") as archive:
        archive.writestr(member, "/etc/passwd")
    with pytest.raises(UserError, match="bad.zip: 'odd' is a link or a device, refused"):
        fetch.add("drive", "bad.zip")


def test_encrypted_zip_is_refused(checkout):
    data = bytearray(whole_zip(checkout).read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1  # the flag in the first central entry
    Path("locked.zip").write_bytes(data)
    with pytest.raises(UserError, match="locked.zip: 'DRIVE/test/images/01_test.tif' is encrypted"):
        fetch.add("drive", "locked.zip")


@pytest.mark.parametrize("bomb", ["zip", "tar.gz", "nested"])
def test_bomb_is_stopped(bomb, checkout, monkeypatch):
    monkeypatch.setattr(unpack, "MAX_BYTES", 1 << 20)
    zeros = {"zeros": bytes(3 << 20)}
    if bomb == "tar.gz":
        path = pack_tar(checkout / "bomb.tar.gz", zeros)
    else:
        path = pack_zip(checkout / "bomb.zip", zeros)
    if bomb == "nested":
        path = pack_zip(checkout / "outer.zip", {"bomb.zip": path.read_bytes()})
    with pytest.raises(UserError, match="bomb.*over 20000 files or 1 MiB unpacked"):
        fetch.add("drive", path)


def test_too_many_members(checkout, monkeypatch):
    monkeypatch.setattr(unpack, "MAX_FILES", 5)
    with pytest.raises(UserError, match="over 5 files"):
        fetch.add("drive", whole_tar(checkout))


def test_claimed_header_of_a_gigabyte_is_not_read(checkout):
    member = tarfile.TarInfo("x")
    member.type, member.size = tarfile.GNUTYPE_LONGNAME, 1 << 30
    with open("bad.tar", "wb") as f:
        f.write(member.tobuf(tarfile.GNU_FORMAT))
        f.truncate(1 << 30)  # sparse: takes no space
    with pytest.raises(UserError, match="bad.tar is truncated, damaged.*header of"):
        fetch.add("drive", "bad.tar")


@pytest.mark.parametrize("packing", [whole_zip, whole_tar, whole_tar_gz], ids=lambda f: f.__name__)
def test_truncated_archive(packing, checkout):
    path = packing(checkout)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=f"{path.name}.* is truncated, damaged"):
        fetch.add("drive", path)


def test_corrupt_member_is_named(checkout):
    with zipfile.ZipFile("bad.zip", "w") as archive:  # stored, so that only the checksum tells
        for file, data in ORIGINALS.items():
            archive.writestr(file, data)
    data = Path("bad.zip").read_bytes()
    Path("bad.zip").write_bytes(
        data.replace(b"content of test/mask/02", b"kontent of test/mask/02", 1)
    )
    with pytest.raises(UserError, match="test/mask/02_test_mask.gif is truncated, damaged.*CRC"):
        fetch.add("drive", "bad.zip")


def test_broken_header_in_the_middle_of_a_tar(checkout):
    data = bytearray(whole_tar(checkout).read_bytes())
    second = data.index(b"test/1st_manual/01_manual1.gif")
    data[second : second + 200] = b"\xff" * 200
    Path("bad.tar").write_bytes(data)
    with pytest.raises(UserError, match="bad.tar is truncated, damaged"):
        fetch.add("drive", "bad.tar")


def test_broken_archive_in_a_folder_is_told_and_the_rest_taken(checkout):
    folder = folder_of_archives(checkout)
    data = (folder / "test.zip").read_bytes()
    (folder / "test.zip").write_bytes(data[: len(data) // 2])
    result = fetch.add("drive", folder)
    assert result["usable"] == ["21"]
    assert len(result["problems"]) == 1 and "test.zip is truncated" in result["problems"][0]
    (folder / "training.zip").unlink()
    with pytest.raises(UserError, match="holds no original file.*test.zip is truncated"):
        fetch.add("drive", folder)


@needs_data
def test_add_the_real_sets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(HERE, "data/registry")
    for name, folder, count in [("drive", "DRIVE", 40), ("chase_db1", "CHASE_DB1", 28)]:
        result = fetch.add(name, Path(REAL, folder))
        assert len(result["usable"]) == count and result["next"] == ""
        module = {"drive": drive, "chase_db1": chase_db1}[name]
        assert set(module.ids(Path(result["folder"])).values()) == {None}
