"""`resegment data get` against servers that lie, die, redirect or never end, also with TLS."""

import contextlib
import gzip
import hashlib
import http.server
import io
import random
import re
import shutil
import ssl
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import fakes
import pytest
import yaml

from resegment import cli, fetch, unpack
from resegment.errors import UserError

HERE = Path(__file__).parents[2] / "data/registry"
SKIN = {f: d for f, d in fakes.isic2018_files(3).items() if f.endswith((".jpg", "tion.png"))}
PAGE = b"<!DOCTYPE html><title>Please log in</title>" * 50


def packed(contents: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
    return out.getvalue()


NOISE = random.Random(0).randbytes(600_000)  # of no interest, and long: requests reads 64 KiB
GOOD = packed(SKIN | {"notes.bin": NOISE})
OTHER = packed(dict.fromkeys(SKIN, b"of another day" * 300) | {"notes.bin": NOISE[::-1]})


class Handler(http.server.BaseHTTPRequestHandler):
    """The first folder of the path says how it misbehaves."""

    def log_message(self, *_):
        pass

    def do_GET(self):
        way, asked = self.path.split("/")[1], self.headers.get("Range")
        self.server.asked.append(way)
        getattr(self, way.partition("-")[0])(way.partition("-")[2], asked)

    def answer(self, body: bytes, status: int = 200, length: object = None, **headers: str):
        self.send_response(status)
        if length is not False:
            self.send_header("Content-Length", str(len(body) if length is None else length))
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body)

    def good(self, _, asked):
        self.answer(GOOD)

    def status(self, code, asked):
        self.answer(PAGE, int(code), Content_Type="text/html")

    def page(self, _, asked):
        self.answer(PAGE, Content_Type="text/html")

    def empty(self, _, asked):
        self.answer(b"")

    def wrong(self, _, asked):
        self.answer(GOOD[:300_000] + b"xyz" + GOOD[300_003:])

    def half(self, _, asked):
        self.answer(GOOD[: len(GOOD) // 2])  # a whole answer, of half the file

    def length(self, claim, asked):
        """The right bytes under a length that is none, too small or too large."""
        claims = {"more": len(GOOD) + 999, "less": len(GOOD) - 999, "huge": 1 << 60, "minus": -5,
                  "word": "plenty", "two": f"{len(GOOD)}, 7", "none": False}  # fmt: skip
        self.answer(GOOD, length=claims[claim])
        self.close_connection = True

    def dies(self, then, asked):
        """Half, then the connection ends; who resumes gets something else."""
        half = len(GOOD) // 2
        if not asked:
            return self.answer(GOOD[:half], length=len(GOOD), ETag='"one"')
        start = int(asked[6:-1])
        span = f"bytes {start}-{len(OTHER) - 1}/{len(OTHER)}"
        if then == "whole":
            return self.answer(GOOD)
        if then == "mixed":
            return self.answer(OTHER[start:], 206, Content_Range=span, ETag='"two"')
        if then == "shifted":
            return self.answer(GOOD[start - 7 :], 206, Content_Range=f"bytes {start - 7}-9/99")
        if then == "unlabelled":
            return self.answer(GOOD[start:], 206)
        return self.answer(b"", 416)

    def moved(self, where, asked):
        self.answer(b"", 302, Location={
            "http": f"http://127.0.0.1:{self.server.plain}/good/eyes.zip",
            "back": f"http://127.0.0.1:{self.server.plain}/moved-https/eyes.zip",
            "https": f"https://127.0.0.1:{self.server.safe}/good/eyes.zip",
            "loop": "/moved-loop/eyes.zip", "file": "file:///etc/passwd", "ftp": "ftp://127.0.0.1/x",
            "up": "/../../../good/../good/eyes.zip", "none": "", "bad": "http://[",
        }[where])  # fmt: skip

    def named(self, _, asked):
        self.answer(GOOD, Content_Disposition='attachment; filename="../../../evil.zip"')

    def packed(self, _, asked):
        """A gzip bomb as content encoding, which was not asked for."""
        body = gzip.compress(bytes(1 << 20)) * 30
        self.answer(body, Content_Encoding="gzip")

    def endless(self, _, asked):
        self.send_response(200)
        self.end_headers()
        with contextlib.suppress(OSError):
            for _ in range(4000):
                self.wfile.write(bytes(1 << 16))
        self.close_connection = True


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        pass


@pytest.fixture(scope="session")
def certificate(tmp_path_factory) -> Path:
    """A key and a certificate for 127.0.0.1, in one file."""
    if not shutil.which("openssl"):
        pytest.skip("no openssl to make a certificate with")
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1", "-addext",
         "subjectAltName=IP:127.0.0.1", "-keyout", folder / "key", "-out", folder / "crt"],
        check=True, capture_output=True,
    )  # fmt: skip
    both = folder / "both.pem"
    both.write_bytes((folder / "key").read_bytes() + (folder / "crt").read_bytes())
    return both


@pytest.fixture
def net(tmp_path, monkeypatch, certificate):
    """net(way, safe, known, **archive): let ISIC 2018 come from there; net.asked: in what ways."""
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    shutil.copytree(HERE, "data/registry")
    servers = [Server(("127.0.0.1", 0), Handler) for _ in range(2)]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    servers[1].socket = context.wrap_socket(servers[1].socket, server_side=True)
    asked: list[str] = []
    for server in servers:
        server.plain, server.safe = (s.server_port for s in servers)
        server.asked = asked
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()

    def source(way: str, safe: bool = False, known: bool = True, **archive: str | None) -> None:
        path = Path("data/registry/datasets.yaml")
        sets = yaml.safe_load(path.read_text())
        url = f"http{'s' * safe}://127.0.0.1:{servers[safe].server_port}/{way}/eyes.zip"
        checksum = {"sha256": hashlib.sha256(GOOD).hexdigest()} if known else {}
        sets["isic2018"]["archives"] = [{"name": "eyes.zip", "url": url, **checksum, **archive}]
        path.write_text(yaml.safe_dump(sets))
        asked.clear()

    source.asked, source.servers, source.top = asked, servers, tmp_path
    yield source
    for server in servers:
        server.shutdown()
        server.server_close()


def refused(*words: str) -> str:
    """The one sentence with which `resegment data get isic2018` fails; nothing is taken."""
    err, argv = io.StringIO(), sys.argv
    sys.argv = ["resegment", "data", "get", "isic2018", *words]
    try:
        with contextlib.redirect_stderr(err), pytest.raises(SystemExit) as end:
            cli.main()
    finally:
        sys.argv = argv
    said = err.getvalue()
    assert end.value.code == 1 and said.startswith("resegment: ") and said[:-1].isprintable(), said
    assert not Path("data/raw/isic2018").exists()
    assert "eyes.zip" in said and len(said) < 2000
    return said


def got() -> bool:
    result = fetch.get("isic2018")
    held = {p.relative_to("data/raw/isic2018").as_posix(): p.read_bytes()
            for p in Path("data/raw/isic2018").rglob("*.*")}  # fmt: skip
    return result["next"] == "" and held == SKIN


def clean() -> None:
    shutil.rmtree("data/raw", ignore_errors=True)
    shutil.copy(HERE / "isic2018.sha256", "data/registry")


WRONG = {
    **{f"status-{code}": f"{code} " for code in (400, 401, 403, 404, 410, 429, 500, 502, 503)},
    "page": "", "empty": "", "wrong": "", "half": "", "length-more": "", "length-less": "",
    "length-huge": "", "length-two": "unmatching", "packed": "", "dies-mixed": "",
    "moved-loop": "redirects",
    "moved-file": "No connection adapters", "moved-ftp": "No connection adapters",
    "moved-bad": "", "dies-shifted": "another range", "dies-unlabelled": "another range",
}  # fmt: skip
RIGHT = ["good", "named", "moved-up", "length-word", "length-none", "length-minus",
         "dies-whole", "dies-none"]  # fmt: skip


@pytest.mark.fault(
    "Bad downloads",
    "Wrong, short or mixed bytes, false lengths, pages in place of data, errors, bad redirects",
    "Refused with address and reason, nothing is taken; a good server then gives the set",
)
@pytest.mark.parametrize("known", [True, False], ids=["checksum", "https"])
@pytest.mark.parametrize("way", WRONG)
def test_wrong_answers(way, known, net):
    net(way, safe=not known, known=known)
    said = refused()
    assert WRONG[way] in said and f"/{way}/" in said
    if way in ("page", "empty", "wrong", "half", "packed"):
        assert ("the checksum is not that" if known else "what came is no whole zip") in said
    net("good", safe=not known, known=known)
    assert got()


@pytest.mark.fault(
    "Bad downloads",
    "Odd answers with the right bytes: lengths that are no number, names with dots, cut, resumed",
    "The set is there, under the registry's names alone",
)
@pytest.mark.parametrize("known", [True, False], ids=["checksum", "https"])
def test_odd_but_right_answers(known, net, tried):
    n = 0
    for way in RIGHT:
        net(way, safe=not known, known=known)
        if way == "dies-none":
            with pytest.raises(UserError):
                fetch.get("isic2018")
            net("good", safe=not known, known=known)
        assert got(), way
        clean()
        n += 1
        assert not [p for p in net.top.iterdir() if p.name != "work"]
    tried(n)


@pytest.mark.fault(
    "Bad downloads",
    "From https to http and back, plain http, a certificate of nobody; no checksum is known",
    "Only https on the whole way is trusted; with a checksum its bytes are",
)
def test_only_https_or_a_checksum(net, monkeypatch, tried):
    for way in ("moved-http", "moved-back"):
        net(way, safe=True, known=False)
        assert "only https is trusted" in refused()
        net(way, safe=True, known=True)
        assert got()
        clean()
    for way in ("good", "moved-https"):
        net(way, safe=False, known=False)
        assert "only https is trusted" in refused()
    net("good", safe=True, known=False)
    assert got()
    clean()
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    for known in (True, False):
        net("good", safe=True, known=known)
        assert "CERTIFICATE_VERIFY_FAILED" in refused()
    tried(9)


@pytest.mark.fault(
    "Bad downloads",
    "A body that never ends",
    "It is stopped at the size that no archive has, and leaves nothing",
)
@pytest.mark.parametrize("known", [True, False], ids=["checksum", "https"])
def test_endless_body(known, net, monkeypatch):
    monkeypatch.setattr(unpack, "MAX_BYTES", 4 << 20)
    net("endless", safe=not known, known=known)
    assert "more than 4 MiB came" in refused()
    left = [p for p in net.top.rglob("*.part") if p.stat().st_size]
    assert not left and net.asked == ["endless"]


@pytest.mark.fault(
    "Bad downloads",
    "A mirror that is no address, or of another kind: file, ftp, data, nothing, broken",
    "Refused with that address, nothing is read or taken",
)
def test_mirrors_that_are_none(net, tried):
    mirrors = ["file:///etc", "ftp://127.0.0.1/", "data:,x", "nonsense", "", "http://", "https://[",
               "http://127.0.0.1:99999/", "http://127.0.0.1:a/", "http://\x1b[31m/", "http://a b/",
               "http://.example.invalid/", "//127.0.0.1/", "http://*/", "http://\udcff/", "http://%/",
               f"http://{'a' * 300}.invalid/"]  # fmt: skip
    for mirror in mirrors:
        net("status-404")
        said = refused("--mirror", mirror)
        assert "404" in said
        assert not mirror or unpack.plain(f"{mirror.rstrip('/')}/eyes.zip: ") in said
    tried(len(mirrors))


@pytest.mark.fault(
    "Bad downloads",
    "An archive of a set without checksums was kept damaged by an earlier command",
    "It is fetched anew, and the mirror is asked where the source gives nothing whole",
)
def test_damaged_archive_is_fetched_anew(net, tried):
    for damage in (PAGE, GOOD[:-30], GOOD[:100] + b"x" + GOOD[101:], b""):
        net("good", safe=True, known=False)
        target = Path("data/raw/.downloads/isic2018/eyes.zip")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(damage)
        assert got() and net.asked == ["good"]
        clean()
    net("page", safe=True, known=False,
        mirror=f"https://127.0.0.1:{net.servers[1].server_port}/good/eyes.zip")  # fmt: skip
    assert got() and net.asked == ["page", "good"]
    tried(5)


@pytest.mark.fault(
    "Bad downloads",
    "The server dies at seeded moments, again and again",
    "Each command goes on where the last was cut, and the bytes are right in the end",
)
def test_server_that_dies_again_and_again(net, monkeypatch, tried):
    class Dying(Handler):
        def good(self, _, asked):
            start = int(asked[6:-1]) if asked else 0
            step = 66_000 + (start * 7919) % 70_000
            head = {"Content_Range": f"bytes {start}-{len(GOOD) - 1}/{len(GOOD)}"} if asked else {}
            self.answer(GOOD[start : start + step], 206 if asked else 200,
                        len(GOOD) - start, **head)  # fmt: skip
            self.close_connection = True

    net("good")
    net.servers[0].RequestHandlerClass = Dying
    for _ in range(20):
        try:
            assert got()
            break
        except UserError as error:
            assert "run the command again to go on" in str(error)
    else:
        pytest.fail("it never came to its end")
    assert len(net.asked) > 4 and re.fullmatch("(good)+", "".join(net.asked))
    tried(len(net.asked))
