"""Downloading an archive: resumed where it was cut, checked, from the first good source."""

import fcntl
import os
from pathlib import Path

import requests
from tqdm import tqdm

from resegment import files, unpack
from resegment.datasets import registry
from resegment.errors import UserError

TRIES = 3  # connections an address gets, each going on where the last was cut
TIMEOUT = (10, 60)  # seconds to connect, seconds of silence
CHUNK = 1 << 16


def download(archive: registry.Archive, target: Path, mirror: str | None) -> Path:
    """Fetch one archive to `target`, from the first address that gives the right bytes."""
    if _right(archive, target):
        return target
    part = target.with_name(f"{target.name}.part")
    failures = []
    addresses = [archive.url, archive.mirror, mirror and f"{mirror.rstrip('/')}/{archive.name}"]
    for url in filter(None, addresses):
        for _ in range(TRIES):
            before = part.stat().st_size if part.exists() else 0
            try:
                _stream(url, part, https_only=not (archive.sha256 or archive.md5))
            except (requests.RequestException, ValueError) as error:  # ... a redirect to nonsense
                failures.append(f"{url}: {error}")
                if part.stat().st_size > before:
                    continue  # it was cut: go on from there
                break
            if _right(archive, part):
                os.replace(part, target)
                return target
            part.unlink()
            known = archive.sha256 or archive.md5
            failures.append(f"{url}: the checksum is not that of the registry" if known else
                            f"{url}: what came is no whole zip archive")  # fmt: skip
            if not before:
                break  # wrong from its first byte to its last: no use in asking again
    why = unpack.plain("; ".join(dict.fromkeys(failures)))
    raise UserError(
        f"{archive.name} could not be downloaded ({why}): run the command again to go on, name a "
        "mirror, or get it by hand and `resegment data add` it"
    )


def _right(archive: registry.Archive, path: Path) -> bool:
    """Whether `path` is there with the registry's checksum, or its own where that has none."""
    if not path.is_file():
        return False
    if archive.sha256:
        return files.sha256(path) == archive.sha256
    return files.md5(path) == archive.md5 if archive.md5 else unpack.whole(path)


def _stream(url: str, part: Path, https_only: bool) -> None:
    """Append to `part` what it lacks of `url`. What has come stays, whatever is raised."""
    with open(part, "ab") as out:
        try:
            fcntl.flock(out, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{part} is being downloaded by another process: wait for it") from None
        have = out.tell()
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
            hops = [hop.url for hop in (*answer.history, answer)]
            if https_only and not all(hop.startswith("https:") for hop in hops):
                raise requests.HTTPError("without a known checksum only https is trusted")
            if have and answer.status_code == 416:
                return  # nothing was left to send
            answer.raise_for_status()
            if answer.status_code != 206:
                have = 0  # the server does not resume: from the start
                out.truncate(0)
            elif not answer.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
                raise requests.HTTPError("the server sent another range than the one asked for")
            length = answer.headers.get("Content-Length", "")
            total = have + int(length) if length.isdecimal() else None
            unit = {"unit": "B", "unit_scale": True, "desc": part.stem, "disable": None}
            with tqdm(initial=have, total=total, **unit) as bar:
                for chunk in answer.iter_content(CHUNK):
                    out.write(chunk)
                    bar.update(len(chunk))
                    if out.tell() > unpack.MAX_BYTES:
                        out.truncate(0)
                        most = f"{unpack.MAX_BYTES >> 20} MiB"
                        raise requests.HTTPError(f"more than {most} came, no archive has them")
