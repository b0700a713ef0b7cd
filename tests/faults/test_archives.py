"""Archives and downloads that are cut, altered or made by an enemy: refused by name, or harmless.

Everything goes through the command line. After each one the whole temporary tree is listed: what is
new stands in data/raw/<name>/, and every file there has the content of its original.
"""

import contextlib
import gzip
import hashlib
import io
import os
import random
import re
import resource
import shutil
import stat
import struct
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import fakes
import pytest

from resegment import cli, fetch, unpack
from resegment.datasets import drive
from resegment.errors import UserError

HERE = Path(__file__).parents[2] / "data/registry"
TEXTS = {
    file: f"content of {file} ".encode() * 40
    for id in ("01", "21")
    for file in drive.files(id).values()
}
SKIN = fakes.isic2018_files(3)
SKIN = {file: data for file, data in SKIN.items() if "superpixels" not in file}
SETS = {"drive": TEXTS, "isic2018": {f: d for f, d in SKIN.items() if "ATTR" not in f}}


class Place:
    """A checkout in a folder of its own, and what stands around it."""

    def __init__(self, top: Path):
        self.top, self.box = top, top / "in/side/box"
        self.box.mkdir(parents=True)

    def listed(self) -> dict[str, bytes | None]:
        """Every path below the top, with the content of files outside of the raw data."""
        out = {}
        for path in sorted(self.top.rglob("*")):
            name = path.relative_to(self.top).as_posix()
            if not re.match(r"work/data/(raw/\w+/|registry/\w+\.sha256)", name):
                out[name] = path.read_bytes() if path.is_file() else None
        return out

    def add(self, *words: str) -> tuple[int, str, str]:
        """(exit code, standard output, standard error) of `resegment data add WORDS`."""
        before, out, err = self.listed(), io.StringIO(), io.StringIO()
        argv, sys.argv = sys.argv, ["resegment", "data", "add", *map(str, words)]
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                cli.main()
            code = 0
        except SystemExit as end:
            code = end.code or 0
        finally:
            sys.argv = argv
        after = self.listed()
        for name in (
            "work/data/raw",
            f"work/data/raw/{words[0]}",
            f"work/data/raw/.{words[0]}.lock",
        ):
            before[name] = after.get(name)
        assert {n: c for n, c in before.items() if n in after or c} == after  # nothing outside
        for file, data in self.held(words[0]).items():
            assert SETS[words[0]][file] == data, f"{file} is not the original"
        return code, out.getvalue(), err.getvalue()

    def refused(self, *words: str) -> str:
        """The one sentence with which an archive is refused."""
        code, _, said = self.add(*words)
        assert code == 1 and said.startswith("resegment: ") and said.endswith("\n")
        assert said[:-1].isprintable(), repr(said)  # one line, no control characters
        assert len(said) < 1500 and "Traceback" not in said
        return said

    def held(self, name: str) -> dict[str, bytes]:
        root = Path(f"data/raw/{name}")
        return {p.relative_to(root).as_posix(): p.read_bytes()
                for p in root.rglob("*") if p.is_file()}  # fmt: skip

    def clean(self) -> None:
        shutil.rmtree("data/raw", ignore_errors=True)
        for file in HERE.glob("isic*.sha256"):
            shutil.copy(file, "data/registry")


@pytest.fixture
def place(tmp_path, monkeypatch) -> Place:
    """A checkout whose registry lists six texts as DRIVE, and no hashes of ISIC 2018."""
    for folder in ("work", "tmp"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr(os, "fsync", lambda file: None)  # no power fails here
    shutil.copytree(HERE, "data/registry")
    lines = [f"{hashlib.sha256(data).hexdigest()}  {file}\n" for file, data in TEXTS.items()]
    Path("data/registry/drive.sha256").write_text("".join(lines))
    monkeypatch.setattr(drive, "IDS", ("01", "21"))
    return Place(tmp_path)


def zipped(contents: dict[str, bytes], how: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", how) as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
    return out.getvalue()


def tarred(contents: dict[str, bytes], form: int = tarfile.PAX_FORMAT, **header) -> bytes:
    """A tar; header: fields of the first member alone."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for name, data in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            for key, value in header.items():
                setattr(member, key, value)
            header = {}
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


def gz(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


PACKINGS: dict[str, Callable[[dict[str, bytes]], bytes]] = {
    "deflated.zip": zipped,
    "stored.zip": lambda c: zipped(c, zipfile.ZIP_STORED),
    "bzip2.zip": lambda c: zipped(c, zipfile.ZIP_BZIP2),
    "lzma.zip": lambda c: zipped(c, zipfile.ZIP_LZMA),
    "plain.tar": tarred,
    "gnu.tar": lambda c: tarred(c, tarfile.GNU_FORMAT),
    "all.tar.gz": lambda c: gz(tarred(c)),
    "all.tgz": lambda c: gz(tarred(c, tarfile.USTAR_FORMAT)),
    "nested.zip": lambda c: zipped({"inner.zip": zipped(c)}),
    "stare.tar": lambda c: tarred({f"{f}.gz": gz(d) for f, d in c.items()}),
}


# -- cut and altered at random


def batter(place: Place, name: str, packing: str, seeds: range, change) -> None:
    """Change an archive as each seed says and add it: refused, or every file is the original.

    A tar of nothing but zeros from a header on is a whole tar of fewer files.
    """
    whole, file = PACKINGS[packing](SETS[name]), place.box / packing
    for seed in seeds:
        data = change(bytearray(whole), random.Random(f"{packing} {seed}"))
        file.write_bytes(data)
        try:
            code, out, said = place.add(name, file)
            if code == 0:
                lacks = SETS[name].keys() - place.held(name).keys()
                told = "  next: " in out if name == "drive" else f"  problem  {file}" in out
                fewer = packing.endswith(".tar") and whole.startswith(data.rstrip(b"\0"))
                assert not lacks or told or fewer, f"{lacks} got lost"
            else:
                assert code == 1 and packing in said and said[:-1].isprintable(), said
                assert said.startswith("resegment: ")
        except Exception as error:
            error.add_note(f"{packing}, seed {seed}")
            raise
        place.clean()


def cut(data: bytearray, draw: random.Random) -> bytes:
    return bytes(data[: draw.randrange(len(data))])


def cut_at_a_block(data: bytearray, draw: random.Random) -> bytes:
    return bytes(data[: 512 * draw.randrange(1 + len(data) // 512)])


def flip(data: bytearray, draw: random.Random) -> bytes:
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return bytes(data)


def byte(data: bytearray, draw: random.Random) -> bytes:
    data[draw.randrange(len(data))] = draw.randrange(256)
    return bytes(data)


def hole(data: bytearray, draw: random.Random) -> bytes:
    start = draw.randrange(len(data))
    data[start : start + draw.choice((1, 4, 100, 512))] = b""
    return bytes(data)


def zeros(data: bytearray, draw: random.Random) -> bytes:
    start, size = draw.randrange(len(data)), draw.choice((2, 16, 512, 4096))
    data[start : start + size] = bytes(len(data[start : start + size]))
    return bytes(data)


def bad_ends(data: bytearray, draw: random.Random) -> bytes:
    """A few bytes of the tables at an archive's ends."""
    for _ in range(draw.randrange(1, 4)):
        near = draw.randrange(min(400, len(data)))
        data[near if draw.random() < 0.3 else -1 - near] = draw.choice((0, 1, 255, 127, 128))
    return bytes(data)


# A tar without gzip holds no checksum of its members: there the registry alone knows what is right.
CHECKED = [p for p in PACKINGS if p not in ("plain.tar", "gnu.tar")]
WAYS = [cut, cut_at_a_block, flip, byte, hole, zeros, bad_ends]
BATTERED = [("drive", p) for p in PACKINGS] + [("isic2018", p) for p in CHECKED]
named = pytest.mark.parametrize(("name", "packing"), BATTERED)
ways = pytest.mark.parametrize("way", WAYS, ids=lambda f: f.__name__)


@pytest.mark.fault(
    "Bad archives",
    "An archive is cut, or bits, bytes or blocks of it are changed, at seeded random places",
    "It is refused or its loss told by name; every file taken has the content of the original",
)
@named
def test_changed_at_random(name, packing, place, tried):
    for k, way in enumerate(WAYS):
        batter(place, name, packing, range(100 * k, 100 * k + 6), way)
    tried(6 * len(WAYS))


@pytest.mark.fault(
    "Bad archives",
    "The same, for many more seeds",
    "It is refused or its loss told by name; every file taken has the content of the original",
)
@pytest.mark.campaign
@named
@ways
def test_changed_at_random_for_long(name, packing, way, place, tried):
    batter(place, name, packing, range(1000, 1060), way)
    tried(60)


@pytest.mark.fault(
    "Bad archives",
    "A tar of a set without official hashes is cut where one member ends",
    "It is refused by name: its end mark lacks",
)
def test_tar_cut_between_members(place, tried):
    whole = tarred(SKIN)
    with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
        ends = [m.offset_data + -(-m.size // 512) * 512 for m in archive]
    for end in ends:
        (place.box / "skin.tar").write_bytes(whole[:end])
        said = place.refused("isic2018", place.box / "skin.tar")
        assert "skin.tar is truncated" in said and "no end mark" in said
        place.clean()
    tried(len(ends))


@pytest.mark.fault(
    "Bad archives",
    "A tar of a set without official hashes has lost a member's header, or a second tar follows it",
    "What stands before is taken, and a line names the tar and says that the rest was not read",
)
def test_more_behind_the_end_of_a_tar(place, tried):
    files = SETS["isic2018"]
    whole, half = tarred(files), dict(list(files.items())[:3])
    with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
        heads = [m.offset for m in archive][1:]
    tars = [whole[:at] + bytes(512) + whole[at + 512 :] for at in heads]
    for data in [*tars, tarred(half) + whole, tarred(half) + b"left by an old writer"]:
        (place.box / "skin.tar").write_bytes(data)
        code, out, _ = place.add("isic2018", place.box / "skin.tar")
        assert code == 0 and place.held("isic2018")
        assert "skin.tar: what stands behind its end mark was not read" in out
        place.clean()
    tried(len(tars) + 2)


# -- names


OUT = [
    "../evil", "a/../../evil", "..", "../", "evil/..", "..\\evil", "a\\..\\..\\evil", "/tmp/evil",
    "//server/share/evil", "\\\\server\\share\\evil", "C:\\evil", "c:evil", "C:/evil", "z:",
    "./../evil", "....//..//evil", "a/b/c/../../../../evil", "..\\../evil", "/", "\\evil",
]  # fmt: skip
DISGUISED = [
    "%2e%2e%2fevil", "..%2fevil", "..%c0%afevil", "\uff0e\uff0e/evil", "..\u2215evil",
    "\u2025/evil", "~/evil", "~root/evil", "$HOME/evil", "`touch evil`", "$(touch evil)",
    "; touch evil", "...", ". ./evil", ".. /evil", "|touch evil", "-rf", "CON", "aux.png",
    "evil.", "evil ", "a" * 255, "a/" * 400 + "evil", "evil\ufeff", "\u202egnp.live",
    "evil::$DATA",
]  # fmt: skip


def tar_by_pax(name: str) -> bytes:
    return tarred({"short": b"evil", **TEXTS}, pax_headers={"path": name})


PACKED = {
    "zip": lambda name: zipped({name: b"evil", **TEXTS}),
    "tar": lambda name: tarred({name: b"evil", **TEXTS}, tarfile.GNU_FORMAT),
    "pax.tar": tar_by_pax,
    "tar.gz": lambda name: gz(tarred({name: b"evil", **TEXTS})),
    "in.zip": lambda name: zipped({"a.tar": tarred({name: b"evil", **TEXTS})}),
}


@pytest.mark.fault(
    "Bad archives",
    "A member's name leads out of the archive: dots, absolute, drives, backslashes, by pax header",
    "The archive and the member are named, nothing is written outside",
)
@pytest.mark.parametrize("packing", PACKED)
def test_names_that_lead_out(packing, place, tried):
    for name in OUT:
        if (name, packing) == ("/", "pax.tar"):
            continue  # read as an empty name
        (place.box / f"bad.{packing}").write_bytes(PACKED[packing](name))
        said = place.refused("drive", place.box / f"bad.{packing}")
        shown = "." if name == "../" and packing != "zip" else name.rstrip("/")
        assert f"bad.{packing}" in said and "leads out of the archive, refused" in said, name
        assert repr(shown)[1:-1] in said, name
        assert not place.held("drive")
    tried(len(OUT) - (packing == "pax.tar"))


@pytest.mark.fault(
    "Bad archives",
    "A member's name would lead out if it were decoded, expanded, normalised or run",
    "It is a name like any other: the originals beside it are taken, nothing is written outside",
)
@pytest.mark.parametrize("packing", PACKED)
def test_names_in_disguise(packing, place, tried):
    for name in DISGUISED:
        (place.box / f"odd.{packing}").write_bytes(PACKED[packing](name))
        assert place.add("drive", place.box / f"odd.{packing}")[0] == 0, name
        assert place.held("drive") == TEXTS
        place.clean()
    tried(len(DISGUISED))


@pytest.mark.fault(
    "Bad archives",
    "A member's name holds a NUL, or has thousands of characters",
    "The archive and the beginning of the name are told, nothing is taken from it",
)
def test_names_no_file_can_have(place, tried):
    cases = [
        zipped({"ISIC_0000000.jpgX.exe": b"evil"}).replace(b"gX.exe", b"g\0.exe"),
        tarred({"short": b"evil"}, pax_headers={"path": "ISIC_0000000.jpg\0.exe"}),
        zipped({"long/" * 13_000 + "ISIC_0000000.jpg": b"evil"}),
        tarred({"long/" * 13_000 + "ISIC_0000000.jpg": b"evil"}),
        tarred({"l" * 65_000 + "/ISIC_0000000.jpg": b"evil"}, tarfile.GNU_FORMAT),
    ]
    for data in cases:
        (place.box / "bad.tar").write_bytes(data)
        said = place.refused("isic2018", place.box / "bad.tar")
        assert re.search(r"bad.tar: '(ISIC_0|long|lll).* is no name of a file, refused", said)
    tried(len(cases))


ODD = [
    "\x1b[2J\x1b[31mevil", "a\nresegment: all is well", "a\rb", "bell\a", "back\b\b", "\x9b2J",
    "\u202egnp", "\u2028line", "tab\there", "\udcff\udc80", "\x7f", "\ufeffbom", "\u200b",
]  # fmt: skip


@pytest.mark.fault(
    "Bad archives",
    "A damaged member's name holds newlines, terminal escapes, invisible or undecodable characters",
    "One printable line names it, its odd characters escaped",
)
@pytest.mark.parametrize("packing", ["zip", "tar", "tar within a folder", "file"])
def test_names_that_would_write_to_the_terminal(packing, place, tried):
    for name in ODD:
        inner = f"{name}.zip"
        if packing == "zip":
            if "\udcff" in name:
                continue
            file = place.box / "bad.zip"
            file.write_bytes(zipped({inner: b"PK\x03\x04 cut"}))
        elif packing == "file":
            file = place.box / "folder"
            shutil.rmtree(file, ignore_errors=True)
            file.mkdir()
            (file / inner).write_bytes(b"PK\x03\x04 cut")
        else:
            file = place.box / "bad.tar"
            file.write_bytes(tarred({inner: b"PK\x03\x04 cut"}, tarfile.GNU_FORMAT))
            if packing != "tar":
                shutil.rmtree(place.box / "folder", ignore_errors=True)
                (place.box / "folder").mkdir()
                file = file.rename(place.box / "folder/bad.tar")
                file = file.parent
        said = place.refused("drive", file)
        assert "zip is truncated, damaged" in said
    tried(len(ODD) - (packing == "zip"))


@pytest.mark.fault(
    "Bad archives",
    "Names in code page 437, Shift-JIS or Latin-1, in invalid UTF-8, or of bytes without meaning",
    "The originals are known by their content; a name that claims UTF-8 and is none is refused",
)
def test_names_of_other_alphabets(place, tried):
    plain, n = zipped({"XXXXXX": b"evil", **TEXTS}), 0
    for raw in (b"\x83\x65\x83\x58\x83\x67", b"\xff\xfe\xfd\x80\x81\x82", b"\xe4\xf6\xfc\xdf\xe9a"):
        (place.box / "odd.zip").write_bytes(plain.replace(b"XXXXXX", raw))
        assert place.add("drive", place.box / "odd.zip")[0] == 0
        assert place.held("drive") == TEXTS
        place.clean()
        claimed = bytearray(zipped({"XXXXX\u00e4": b"evil", **TEXTS}))  # flagged as UTF-8
        at = claimed.replace("XXXXX\u00e4".encode(), raw + b"\xff")
        (place.box / "bad.zip").write_bytes(at)
        assert "bad.zip is truncated, damaged" in place.refused("drive", place.box / "bad.zip")
        member = tarred({"XXXXXX": b"evil", **TEXTS}, tarfile.GNU_FORMAT)
        block = bytearray(member.replace(b"XXXXXX", raw))
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block[:512])
        (place.box / "odd.tar").write_bytes(block)
        assert place.add("drive", place.box / "odd.tar")[0] == 0
        assert place.held("drive") == TEXTS
        place.clean()
        n += 3
    tried(n)


# -- links, devices and others that are no files


@pytest.mark.fault(
    "Bad archives",
    "Symbolic and hard links, also to earlier members, devices, fifos, sockets, unknown types",
    "The archive and the member are named; what stood before it was taken, nothing was followed",
)
def test_members_that_are_no_files(place, tried):
    secret = place.top / "secret"
    secret.write_bytes(b"secret")
    first, rest = list(TEXTS.items())[0], dict(list(TEXTS.items())[1:])
    types = [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE,
             b"V", b"M", b"D", b"Z", b"A"]  # fmt: skip
    targets = [str(secret), first[0], "../../secret", "."]
    n = 0
    for kind in types:
        for target in targets:
            out = io.BytesIO()
            with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
                for name, data in [
                    first,
                    ("odd", b""),
                    *[(f"odd/{f}", d) for f, d in rest.items()],
                ]:
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    if name == "odd":
                        member.type, member.linkname = kind, target
                    archive.addfile(member, io.BytesIO(data))
            (place.box / "bad.tar").write_bytes(out.getvalue())
            said = place.refused("drive", place.box / "bad.tar")
            assert "bad.tar: 'odd' is a link or a device, refused" in said
            assert place.held("drive") == dict([first])
            place.clean()
            n += 1
    for kind in (stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK, 0o030000):
        for target in targets:
            member = zipfile.ZipInfo("odd")
            member.external_attr = (kind | 0o777) << 16
            with zipfile.ZipFile(place.box / "bad.zip", "w") as archive:
                archive.writestr(member, target)
                archive.writestr(*first)
            said = place.refused("drive", place.box / "bad.zip")
            assert "bad.zip: 'odd' is a link or a device, refused" in said
            assert not place.held("drive")
            n += 1
    tried(n)


# -- bombs


def deep(levels: int, pack=zipped, name: str = "a.zip") -> bytes:
    data = pack({"zeros": bytes(1000)})
    for _ in range(levels):
        data = pack({name: data})
    return data


def overlapping(count: int, size: int) -> bytes:
    """Fifield's bomb in its simplest form: every entry of the directory is the same member."""
    plain = zipped({"a": bytes(size)})
    start = plain.index(b"PK\x01\x02")
    entry, tail = plain[start : plain.index(b"PK\x05\x06")], plain[plain.index(b"PK\x05\x06") :]
    return plain[:start] + entry * count + struct.pack(
        "<4s4H2LH", b"PK\x05\x06", 0, 0, count, count, len(entry) * count, start, 0
    ) + tail[22:]  # fmt: skip


def quoted(count: int) -> bytes:
    """Fifield's bomb as published: a member's first block quotes the header of the next one."""
    kernel = zipped({"0": bytes(100_000)})
    body = kernel[: kernel.index(b"PK\x01\x02")]
    locals_, heads, offset = b"", [], 0
    for k in range(count):
        name = f"{k + 1:04d}".encode()
        heads.append((name, offset))
        header = struct.pack("<4s5H3L2H", b"PK\x03\x04", 20, 0, 0, 0, 0x21, 0, 0, 0, 4, 0) + name
        locals_ += header
        offset += len(header)
    end = locals_ + body
    table = b""
    for name, at in heads:
        inner = end[at + 34 :]
        table += struct.pack(
            "<4s6H3L5H2L", b"PK\x01\x02", 20, 20, 0, 0, 0, 0x21, zipfile.crc32(inner), len(inner),
            len(inner), 4, 0, 0, 0, 0, 0, at,
        ) + name  # fmt: skip
    return (
        end
        + table
        + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, count, count, len(table), len(end), 0)
    )


def lying(field: int, value: int) -> bytes:
    """A zip whose directory lies about its first member, at an offset of that entry (20: its packed
    size, 24: its size, 42: its place)."""
    data = bytearray(zipped({"a/21_manual1.gif": bytes(5000), **TEXTS}))
    struct.pack_into("<L", data, data.index(b"PK\x01\x02") + field, value)
    return bytes(data)


def sparse(size: int) -> bytes:
    """A GNU sparse member (version 1.0) of one byte at the end of a hole."""
    table = f"1\n{size - 1}\n1\n".encode().ljust(512, b"\0")
    pax = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "hole",
           "GNU.sparse.realsize": str(size)}  # fmt: skip
    return tarred({"x": table + b"x"}, pax_headers=pax)


def sparse_forever() -> bytes:
    pax = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9"}
    return tarred({"x": b"99999999\n" + b"1\n" * 600}, pax_headers=pax)[:2560]


def endless_gzip() -> bytes:
    return gz(bytes(1 << 20)) * 120


def folders(count: int) -> bytes:
    block = tarred({"d": b""}, type=tarfile.DIRTYPE, mode=0o755)[:512]
    return gz(block * count + bytes(1024))


def headers(count: int, kind: bytes = b"x") -> bytes:
    """A tar of nothing but extended headers, each for the next one."""
    info = tarfile.TarInfo("h")
    info.type, info.size = kind, 512
    block = info.tobuf(tarfile.USTAR_FORMAT) + b"13 comment=aa\n".ljust(512, b"\0")
    return block * count


def long_names(count: int) -> bytes:
    info = tarfile.TarInfo("h")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 4
    return (info.tobuf(tarfile.GNU_FORMAT) + b"name".ljust(512, b"\0")) * count


def backwards() -> bytes:
    return tarred({"x": b"evil", **TEXTS}, pax_headers={"size": "-2048"})


def claims(size: int) -> bytes:
    """A pax header that claims to be of so many bytes."""
    info = tarfile.TarInfo("h")
    info.type, info.size = b"x", size
    return info.tobuf(tarfile.GNU_FORMAT) + bytes(2048)


def directory_of(count: int) -> bytes:
    """A zip whose directory lists the same empty member again and again, packed once more."""
    plain = zipped({"a": b""})
    start = plain.index(b"PK\x01\x02")
    entry = plain[start : start + 47]
    data = plain[:start] + entry * count + struct.pack(
        "<4s4H2LH", b"PK\x05\x06", 0, 0, 65535, 65535, len(entry) * count, start, 0
    )  # fmt: skip
    return zipped({"inner.zip": data})


def dictionary() -> bytes:
    """A zip whose one member asks for a dictionary of 4 GiB."""
    data = bytearray(zipped({"a.jpg": bytes(1000)}, zipfile.ZIP_LZMA))
    struct.pack_into("<L", data, data.index(b"a.jpg") + 10, 0xFFFFFFFF)
    return bytes(data)


BOMBS = {
    "dictionary.zip": dictionary,
    "zeros.zip": lambda: zipped({"zeros": bytes(80 << 20)}),
    "zeros.tar.gz": lambda: gz(tarred({"zeros": bytes(80 << 20)})),
    "two.zip": lambda: zipped({"a.zip": zipped({"zeros": bytes(80 << 20)})}),
    "sixteen.zip": lambda: zipped({
        f"{k}.zip": zipped({"z": bytes(9 << 20)}) for k in range(16)
    }),
    "endless.gz": endless_gzip,
    "deep.zip": lambda: deep(50),
    "deep.tar": lambda: deep(50, tarred, "a.tar"),
    "deep.gz": lambda: deep(0, lambda c: gz(gz(gz(gz(gz(gz(b"x"))))))),
    "same.zip": lambda: overlapping(300, 1 << 20),
    "quoted.zip": lambda: quoted(60),
    "hole.tar": lambda: sparse(1 << 45),
    "hole.tar.gz": lambda: gz(sparse(1 << 45)),
    "table.tar": sparse_forever,
    "folders.tar.gz": lambda: folders(60_000),
    "headers.tar": lambda: headers(3000),
    "globals.tar": lambda: headers(3000, b"g"),
    "names.tar": lambda: long_names(3000),
    "backwards.tar": backwards,
    "claims.tar": lambda: claims(1 << 40),
    "claims.tar.gz": lambda: gz(claims(1 << 40)),
    "directory.zip": lambda: directory_of(400_000),
    "many.zip": lambda: zipped({str(k): b"" for k in range(20_001)}),
    "many.tar.gz": lambda: gz(tarred({"d": b""}, type=tarfile.DIRTYPE)[:512] * 20_001),
}  # fmt: skip
LIES = [(20, 1), (20, 0), (20, 0xFFFFFFFF), (20, 1 << 30), (24, 1), (24, 0), (24, 4999),
        (24, 5001), (24, 0xFFFFFFFE), (24, 0xFFFFFFFF), (16, 0), (42, 1), (42, 0x7FFFFFFF),
        (42, 0xFFFFFFFF), (6, 0xFFFF), (8, 1 << 16), (8, 99 << 16), (8, 12 << 16),
        (8, 14 << 16),
        (8, 0x20), (8, 0x40), (8, 1),
        (28, 0xFFFF), (30, 0xFFFF), (30, 3), (32, 0xFFFF)]  # fmt: skip


def limits() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (200 << 20, 200 << 20))
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))


@pytest.mark.fault(
    "Bad archives",
    "Bombs: zeros, zips in zips, overlapping members, holes, endless gzip, headers without end",
    "Refused by name after 64 MiB or 1,000 times its size, 20,000 members or four levels",
)
@pytest.mark.parametrize("bomb", BOMBS)
def test_bombs(bomb, place):
    file = place.box / bomb
    file.write_bytes(BOMBS[bomb]())
    code = (
        "from pathlib import Path; from resegment import cli\n"
        "peak = lambda: int(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])\n"
        "base = peak()\n"
        "try: cli.main()\n"
        "finally: print(peak() - base)\n"
    )
    before = place.listed()
    ran = subprocess.run(
        [sys.executable, "-c", code, "data", "add", "isic2018", file],
        capture_output=True, text=True, timeout=60,
        preexec_fn=limits,
    )  # fmt: skip
    said = ran.stderr
    assert ran.returncode == 1 and re.match(f"resegment: .*{bomb}", said), said
    assert said.count("\n") == 1 and said[:-1].isprintable() and len(said) < 1000
    assert int(ran.stdout) < 400_000  # KiB
    after = place.listed()
    new = after.keys() - before.keys()
    assert new <= {"work/data/raw", "work/data/raw/.isic2018.lock"}


@pytest.mark.fault(
    "Bad archives",
    "A zip's directory lies about a member's size, place, checksum, method, flags or lengths",
    "It is refused by name, or what is taken is the original; it is if that hides other members",
)
def test_zip_that_lies(place, tried):
    for field, value in LIES:
        (place.box / "lies.zip").write_bytes(lying(field, value))
        code, _, said = place.add("drive", place.box / "lies.zip")
        assert code == 0 or (code == 1 and "lies.zip" in said and said[:-1].isprintable()), said
        assert code == 1 or place.held("drive") == TEXTS, (field, value)
        place.clean()
    whole = zipped(SKIN)  # of a set without official hashes: nobody would miss a member
    entries = [m.start() for m in re.finditer(b"PK\x01\x02", whole)][:-1]
    for start in entries:  # the comment of a member swallows those behind it
        data = bytearray(whole)
        struct.pack_into("<H", data, start + 32, 0x7FFF)
        (place.box / "skin.zip").write_bytes(data)
        assert "skin.zip is truncated, damaged" in place.refused("isic2018", place.box / "skin.zip")
    tried(len(LIES) + len(entries))


@pytest.mark.fault(
    "Bad archives",
    "A folder holds archives that are damaged within one another, before a file that is right",
    "Of each the unpacked copies are gone before the next is opened",
)
def test_copies_of_damaged_archives_go(place, tried):
    packed = zipped(TEXTS)
    bad = {
        "1.zip": zipped({"a.zip": packed[:-9]}), "2.tar": tarred({"a.zip": packed[:99]}),
        "3.tar.gz": gz(tarred(TEXTS))[:-20], "4.zip": zipped({"a.zip": zipped({"../evil": b"x"})}),
        "5.zip": zipped({"a.tar": tarred({"a.zip": b"PK\x03\x04"})}),
    }  # fmt: skip
    folder = fakes.folder(place.box / "folder", bad | {"z.gif": b"right"})
    copies = place.top / "tmp"
    looking = unpack.Unpack(copies, [])
    for shown, file in looking.walk(folder, "folder"):
        inside = {p for p in copies.iterdir() if not file.is_relative_to(copies)}
        assert not inside, (shown, inside)
    assert shown == "folder/z.gif" and len(looking.problems) == len(bad)
    assert not list(copies.iterdir())
    tried(len(bad))


@pytest.mark.fault(
    "Bad archives",
    "Zips and tars within each other, up to four deep, and zip64",
    "The originals inside are taken",
)
def test_nested_as_deep_as_allowed(place, tried):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in TEXTS.items():
            with archive.open(zipfile.ZipInfo(name), "w", force_zip64=True) as member:
                member.write(data)
    cases = {
        "64.zip": out.getvalue(),
        "4.zip": zipped({"a.zip": zipped({"a.zip": zipped({"a.zip": zipped(TEXTS)})})}),
        "4.tar.gz": gz(tarred({"a.tgz": gz(tarred(TEXTS))})),
        "3.zip": zipped({"a.tar": tarred({f"{f}.gz": gz(d) for f, d in TEXTS.items()})}),
    }
    for inside in (False, True):  # also below a folder
        for name, data in cases.items():
            file = place.box / ("folder" if inside else ".") / name
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(data)
            assert place.add("drive", file.parent if inside else file)[0] == 0
            assert place.held("drive") == TEXTS
            place.clean()
            file.unlink()
    tried(2 * len(cases))


# -- what is no archive, or hard to read


@pytest.mark.fault(
    "Bad archives",
    "A file named like an archive is empty, a login page, noise, or of a kind that is not read",
    "One sentence names it and says which kinds are read; in a folder the others are taken",
)
def test_named_like_an_archive(place, tried):
    names = [
        "x.zip",
        "x.ZIP",
        "x.tar.gz",
        "x.tgz",
        "x.gz",
        "x.tar.bz2",
        "x.tar.xz",
        "x.7z",
        "x.rar",
    ]
    contents = [b"", b"<!DOCTYPE html><title>Log in</title>", random.Random(1).randbytes(3000),
                b"MZ junk before " + zipped(TEXTS)]  # fmt: skip
    for name in names:
        for data in contents:
            (place.box / name).write_bytes(data)
            said = place.refused("drive", place.box / name)
            assert re.search(rf"{name} is no archive that can be read \(zip, tar, tar.gz", said)
            folder = fakes.folder(place.box / "folder", TEXTS)
            (place.box / name).rename(folder / name)
            code, out, _ = place.add("drive", folder)
            assert code == 0 and f"folder/{name} is no archive" in out
            assert place.held("drive") == TEXTS
            place.clean()
            shutil.rmtree(folder)
    tried(2 * len(names) * len(contents))


@pytest.mark.fault(
    "Bad archives",
    "A zip has junk behind it, a folder is named like an archive, an archive like an image",
    "The originals are taken",
)
def test_odd_but_right(place, tried):
    (place.box / "junk.zip").write_bytes(zipped(TEXTS) + b"junk" * 300)
    (place.box / "page.png").write_bytes(gz(tarred(TEXTS)))
    fakes.folder(place.box / "folder.zip", TEXTS)
    for name in ("junk.zip", "page.png", "folder.zip"):
        assert place.add("drive", place.box / name)[0] == 0
        assert place.held("drive") == TEXTS
        place.clean()
    tried(3)


@pytest.mark.fault(
    "Bad archives",
    "A fifo or a device is given as PATH; a fifo, a loop and a lost link lie in the folder",
    "The one is named and refused at once, the others are passed over",
)
def test_path_that_is_no_file(place, tried):
    os.mkfifo(place.box / "pipe.zip")
    cases = [place.box / "pipe.zip", Path("/dev/zero"), Path("/dev/null")]
    for path in cases:
        ran = subprocess.run(
            [sys.executable, "-c", "import resegment.cli as c; c.main()", "data", "add", "drive",
             path], capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert ran.returncode == 1
        assert f"{path} is neither a file nor a folder" in ran.stderr
    folder = fakes.folder(place.box / "folder", TEXTS)
    os.mkfifo(folder / "pipe.gif")
    os.symlink(folder, folder / "loop")
    os.symlink("nowhere", folder / "lost.zip")
    code = fetch.add("drive", folder)
    assert code["added"] == len(TEXTS) and place.held("drive") == TEXTS
    tried(len(cases) + 3)


@contextlib.contextmanager
def somebody(top: Path):
    """As a user without rights over what root owns, who yet may come to `top`."""
    if os.geteuid():
        yield
        return
    closed = {p: p.stat().st_mode for p in top.parents if p.stat().st_mode & 0o011 != 0o011}
    for folder, mode in closed.items():
        folder.chmod(mode | 0o011)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
        for folder, mode in closed.items():
            folder.chmod(mode)


@pytest.mark.fault(
    "Bad archives",
    "An archive, a file or a folder must not be read by this user",
    "It is named; what else the folder holds is taken",
)
def test_no_right_to_read(place, tried):
    folder = fakes.folder(Path("mine"), TEXTS)
    files = [folder / "locked", folder / "locked.zip"]
    files[0].mkdir()
    (files[0] / "inner.zip").write_bytes(zipped(TEXTS))
    files[1].write_bytes(zipped(TEXTS))
    for path in [place.top, Path.cwd(), *Path().rglob("*")]:
        path.chmod(0o777 if path.is_dir() else 0o666)
    for path in files:
        path.chmod(0)
    try:
        with somebody(place.top):
            result = fetch.add("drive", folder)
            assert result["added"] == len(TEXTS)
            assert sorted(result["problems"]) == [
                "mine/locked.zip: Permission denied: check your rights to it",
                "mine/locked: Permission denied: check your rights to it",
            ]
            with pytest.raises(UserError, match="mine/locked.zip: Permission denied"):
                fetch.add("drive", "mine/locked.zip")
            with pytest.raises(UserError, match="mine/locked: Permission denied"):
                fetch.add("drive", "mine/locked")
            with pytest.raises((UserError, PermissionError), match="locked/inner.zip|inner.zip"):
                fetch.add("drive", "mine/locked/inner.zip")
    finally:
        for path in files:
            path.chmod(0o777)
    tried(5)


@pytest.mark.fault(
    "Bad archives",
    "A file changes between its check and its copy, or grows all the while",
    "The command says so and takes nothing of it, or takes what was checked",
)
def test_file_that_changes_meanwhile(place, monkeypatch, tried):
    folder = fakes.folder(place.box / "folder", TEXTS)
    honest = fetch.files.sha256

    def then_grow(path):
        digest = honest(path)
        if Path(path).is_relative_to(folder):
            with open(path, "ab") as file:
                file.write(b"more")
        return digest

    with monkeypatch.context() as patch:
        patch.setattr(fetch.files, "sha256", then_grow)
        with pytest.raises(UserError, match="changed while it was copied: run the command again"):
            fetch.add("drive", folder)
    assert not place.held("drive")
    ends, n = threading.Event(), 12

    def grow():
        with open(place.box / "grows.zip", "ab") as file:
            while not ends.is_set():
                file.write(os.urandom(512))
                file.flush()

    for seed in range(n):
        (place.box / "grows.zip").write_bytes(PACKINGS["stored.zip"](TEXTS) + bytes(seed))
        thread = threading.Thread(target=grow)
        thread.start()
        try:
            fetch.add("drive", place.box / "grows.zip")
        except UserError as error:
            assert "grows.zip" in str(error)
        finally:
            ends.set()
            thread.join()
            ends.clear()
        assert all(TEXTS[f] == d for f, d in place.held("drive").items())
        place.clean()
    tried(1 + n)


# -- two that claim one name


@pytest.mark.fault(
    "Bad archives",
    "The same name twice with different content, also in another case, folder or archive",
    "With official hashes the original is taken; without, both are named and the exit code is 1",
)
def test_two_of_one_name(place, tried):
    image = next(f for f in SKIN if f.endswith(".jpg"))
    evil = fakes.encoded(".jpg", fakes.photograph(99, 30, 40))
    others = [image, image.upper(), f"copy/{image}", image.replace("Input/", "Input/small/")]
    n = 0
    for other in others:
        for file in [place.box / name for name in ("two.zip", "two.tar", "two", "2.zip")]:
            pairs = [*SKIN.items(), (other, evil)]
            with contextlib.ExitStack() as stack:
                if file.suffix == ".zip":
                    archive = stack.enter_context(zipfile.ZipFile(file, "w"))
                    warns = pytest.warns(UserWarning, match="Duplicate name")
                    stack.enter_context(warns if other == image else contextlib.nullcontext())
                    for name, data in pairs:
                        archive.writestr(name, data)
                elif file.suffix == ".tar":
                    archive = stack.enter_context(tarfile.open(file, "w"))
                    for name, data in pairs:
                        member = tarfile.TarInfo(name)
                        member.size = len(data)
                        archive.addfile(member, io.BytesIO(data))
                else:
                    fakes.folder(file / "a", SKIN)
                    fakes.folder(file / "b", {other: evil})
            with pytest.raises(UserError) as refused:
                fetch.add("isic2018", file)
            said = str(refused.value)
            assert "differ: the first was taken" in said and said.count(str(file)) == 2
            assert place.held("isic2018") == SETS["isic2018"]
            place.clean()
            shutil.rmtree(file, ignore_errors=True)
            n += 1
    file = place.box / "two.zip"
    both = {f"a/{f}": b"another" for f in TEXTS} | {f"b/{f}": d for f, d in TEXTS.items()}
    file.write_bytes(zipped(both))
    for flag in ([], ["--unverified"]):
        assert place.add("drive", file, *flag)[0] == 0 and place.held("drive") == TEXTS
        place.clean()
    tried(n + 2)


@pytest.mark.fault(
    "Bad archives",
    "Files of a set without official hashes are given again with other content",
    "Those first taken stay, and one line counts the others and says how to take them instead",
)
def test_given_again_with_other_content(place, tried):
    mine = place.box / "mine.zip"
    mine.write_bytes(zipped(SKIN))
    assert place.add("isic2018", mine)[0] == 0
    names = list(SETS["isic2018"])
    for k in (1, 2, len(names) - 1):
        other = place.box / "other.zip"
        other.write_bytes(zipped(SKIN | dict.fromkeys(names[:k], b"another")))
        code, out, _ = place.add("isic2018", other)
        assert code == 0 and place.held("isic2018") == SETS["isic2018"]
        assert f"problem  {k} files, {other}/{names[0]} first, differ from those" in out
    tried(3)


# -- the list of hashes itself

GOOD = "# a note\n" + "".join(f"{hashlib.sha256(d).hexdigest()}  {f}\n" for f, d in TEXTS.items())
DIGEST = "0" * 64
LISTS = {
    "leads out": (f"{DIGEST}  ../../../evil\n", "leads out of the dataset's folder"),
    "absolute": (f"{DIGEST}  /etc/evil\n", "leads out of the dataset's folder"),
    "out and in": (f"{DIGEST}  a/../../b\n", "leads out of the dataset's folder"),
    "twice": (f"{DIGEST}  {next(iter(TEXTS))}\n", "stands there twice"),
    "a merge": ("<<<<<<< HEAD\n", "line 8 is no sha256 and path"),
    "half a line": (f"{DIGEST[:30]}", "line 8 is no sha256 and path"),
    "capitals": (f"{'A' * 64}  a.gif\n", "line 8 is no sha256 and path"),
    "one space": (f"{DIGEST} a.gif\n", "line 8 is no sha256 and path"),
    "binary mark": (f"{DIGEST} *a.gif\n", "line 8 is no sha256 and path"),
    "only a path": ("a.gif\n", "line 8 is no sha256 and path"),
    "md5": (f"{DIGEST[:32]}  a.gif\n", "line 8 is no sha256 and path"),
}


NO_SETS = [b"\xff\xfe\x00", b"", b"[" * 20_000, b"a: &a [*a]", b"drive: {archives: [{x: 1}]}", b"%"]


@pytest.mark.fault(
    "Bad archives",
    "The list of hashes leads out of the folder, or it or that of sets has lines of another kind",
    "Status and add name the file and say that git has it, of hashes the line, too; none is taken",
)
def test_lists(place, tried):
    (place.box / "d.zip").write_bytes(zipped(TEXTS))
    hashes, sets = Path("data/registry/drive.sha256"), Path("data/registry/datasets.yaml")
    known, whole = hashes.read_bytes(), sets.read_bytes()
    cases = [(hashes, (GOOD + text).encode(), said) for text, said in LISTS.values()]
    cases += [(hashes, b"\xff\xfe\x00" + GOOD.encode(), "is no text")]
    bad = [*NO_SETS, whole[:300], whole.replace(b"title:", b"titel:")]
    cases += [(sets, data, "cannot be understood") for data in bad]
    for file, data, said in cases:
        file.write_bytes(data)
        told = place.refused("drive", place.box / "d.zip")
        assert file.name in told and said in told and "from git" in told
        with pytest.raises(UserError, match=re.escape(said)):
            fetch.status(["drive"])
        assert not place.held("drive")
        file.write_bytes(known if file == hashes else whole)
    hashes.write_text(f"\n{GOOD}\n# another\n")
    assert place.add("drive", place.box / "d.zip")[0] == 0 and place.held("drive") == TEXTS
    tried(len(cases) + 1)


@pytest.mark.fault(
    "Bad archives",
    "PATH is missing, empty, too long, or holds newlines, terminal escapes, undecodable bytes",
    "One printable line names it",
)
def test_odd_paths(place, tried):
    paths = ["nowhere.zip", "a\nb.zip", "\x1b[2J.zip", "\u202egpj.zip", "\udcff.zip", "n" * 3000,
             "a/" * 3000, "~", "*", "-", "data/raw", "data/raw/drive", "."]  # fmt: skip
    for path in paths:
        code, _, said = place.add("drive", "--", path)
        assert code == 1 and said[:-1].isprintable() and said.startswith("resegment: "), said
    tried(len(paths))
