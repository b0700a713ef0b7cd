"""Broken input, drawn by hypothesis: bytes, lines, words and values of a good file changed.

Everything follows from the draws, so that equal settings give equal inputs.
"""

import re
from collections.abc import Callable

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resegment.errors import UserError

WORDS = (
    b"", b" ", b"\t", b"\n", b"\r\n", b"\r", b"\x00", b"\x1b[2J", b"\xff", b"\xc3",
    b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"\xd9\xa3", b"\xc2\xb2", b"0", b"-1", b"00", b"010",
    b"1e-3", b"1e-05", b"1_0", b"1:30", b"0x1f", b"0o17", b".5", b"1.", b"+1", b".inf", b"-.inf",
    b".nan", b"nan", b"inf", b"Infinity", b"1e999", b"9" * 25, b"9" * 5000, b"yes", b"no", b"on",
    b"off", b"y", b"True", b"null", b"~", b"None", b"2026-01-01", b"12:00:00", b"'", b'"', b'""',
    b",", b",,", b";", b":", b"{", b"}", b"[", b"]", b"[[[[", b"[" * 2000, b"- " * 2000,
    b"{a: " * 2000, b"<<: ", b"<<", b"&a ", b"*a", b"&a [*a, *a]",
    b"!!python/object/apply:os.system [true]", b"!!binary aGk=", b"!!int x", b"!!float 1", b"! ",
    b"? ", b"| ", b"> ", b"# ", b"%YAML 1.1\n---\n", b"---\n", b"...\n", b"../", b"/etc/passwd",
    b"$(true)", b"`true`", b"a b", b"a;b", b"-rf", b"--help", b"\\", b"\\n", b"<b>", b"${item}",
    b"common", b"observer2", b"sample", b"train", b"test", "ä".encode(), "名".encode(), b"a" * 300,
)  # fmt: skip
WORD = re.compile(rb"[^\s,:{}\[\]\"']+")
PLACE = st.integers(0, 2**20)
OPERATION = st.tuples(
    st.sampled_from(["flip", "cut", "drop", "twice", "swap", "insert", "word", "word", "word",
                     "words", "indent", "end", "start"]),
    PLACE, PLACE, st.sampled_from(WORDS),
)  # fmt: skip


def texts(good: bytes) -> st.SearchStrategy[bytes]:
    """A file with one to three things wrong in it."""
    return st.lists(OPERATION, min_size=1, max_size=3).map(lambda todo: _all(good, todo))


def _all(data: bytes, todo: list) -> bytes:
    for how, a, b, word in todo:
        data = _changed(data, how, a, b, word)
    return data


def _changed(data: bytes, how: str, a: int, b: int, word: bytes) -> bytes:
    at = a % (len(data) + 1)
    lines = data.split(b"\n")
    i, j = a % len(lines), b % len(lines)
    if how == "flip" and data:
        at = a % len(data)
        return data[:at] + bytes([data[at] ^ (1 << b % 8)]) + data[at + 1 :]
    if how == "cut":
        return data[:at] + data[at + b % 64 :]
    if how == "drop":
        return b"\n".join(lines[:i] + lines[i + 1 :])
    if how == "twice":
        return b"\n".join(lines[: i + 1] + lines[i:])
    if how == "swap":
        lines[i], lines[j] = lines[j], lines[i]
        return b"\n".join(lines)
    if how == "insert":
        return data[:at] + word + data[at:]
    if how == "indent":
        lines[i] = (b"\t", b" ", b"  ")[b % 3] + lines[i] if b % 4 else lines[i].lstrip()
        return b"\n".join(lines)
    if how == "end":
        return data[:at] if b % 3 else data + word
    if how == "start":
        return word + data if b % 3 else data.replace(b"\n", b"\r\n")
    found = list(WORD.finditer(data))
    if not found:
        return word
    one, other = found[a % len(found)], found[b % len(found)]
    return data[: one.start()] + (other[0] if how == "words" else word) + data[one.end() :]


PLAIN = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 70), st.integers(),
    st.sampled_from([10**9, 10**12, 10**17, 0.0, 0.5, 1.0, 1.5, -1.0, 1e-05, 1e17, 360, 16384]),
    st.floats(allow_nan=True), st.text(max_size=8),
    st.sampled_from(["common", "train", "test", "rga-drive", "unet-drive", "a b", "a;b", "$(true)",
                     "../x", "a\n", "-x", "a" * 65, "no", "1e-3", "native", "sample", "fov"]),
)  # fmt: skip
VALUE = st.recursive(
    PLAIN,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=4,
)
CHANGE = st.tuples(
    st.sampled_from(["put", "put", "put", "drop", "add", "rename", "move"]), PLACE, PLACE, VALUE,
    st.one_of(st.text(max_size=8), st.sampled_from(["train", "rows", "a b", "$(x)", "x\n", "-x"])),
)  # fmt: skip


def trees(good: dict) -> st.SearchStrategy[dict]:
    """A tree with one to three branches or leaves replaced, removed, added, renamed or moved."""
    return st.lists(CHANGE, min_size=1, max_size=3).map(lambda todo: _grown(good, todo))


def _grown(tree: dict, todo: list) -> dict:
    for how, a, b, value, key in todo:
        spots = paths_of(tree)
        if not spots:
            return tree
        where, other = spots[a % len(spots)], spots[b % len(spots)]
        if how == "move":
            value = _at(tree, other)
        tree = _put(tree, where, how, value, key)
    return tree


def paths_of(tree, at: tuple = ()) -> list[tuple]:
    """The keys to every value but the root."""
    keys = tree if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    return [p for k in keys for p in ((*at, k), *paths_of(tree[k], (*at, k)))]


def _at(tree, where: tuple):
    for key in where:
        tree = tree[key]
    return tree


def _put(tree, where: tuple, how: str, value, key: str):
    """A copy of the branches that change; the others are shared."""
    first, rest = where[0], where[1:]
    out = dict(tree) if isinstance(tree, dict) else list(tree)
    if rest:
        out[first] = _put(tree[first], rest, how, value, key)
    elif how == "drop":
        del out[first]
    elif how == "rename" and isinstance(tree, dict):
        out = {key if k == first else k: v for k, v in tree.items()}
    elif how == "add" and isinstance(tree[first], dict):
        out[first] = {**tree[first], key: value}
    elif how == "add" and isinstance(tree[first], list):
        out[first] = [*tree[first], value]
    else:
        out[first] = value
    return out


def hammer(count: int, inputs: st.SearchStrategy, act: Callable[[object], None]) -> int:
    """act(each of `count` inputs), the same in every run; how many there were.

    hypothesis makes a failing input small and shows it.
    """
    tried = 0

    @settings(max_examples=count, derandomize=True, database=None, deadline=None,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(inputs)
    def each(one):
        nonlocal tried
        tried += 1
        act(one)

    each()
    return tried


def asked(act: Callable, *args):
    """(True, what it returns), or (False, the sentence) where it is a user's mistake."""
    try:
        return True, act(*args)
    except UserError as e:
        said = str(e)
    except OSError as e:  # which `cli.main` says by name and reason
        assert e.errno is not None, e
        said = f"{e.filename}: {e.strerror}"
    assert said.strip() and "Traceback" not in said and len(said) < 6000, said
    return False, said
