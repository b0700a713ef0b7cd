"""YAML: plain, and params.yaml as both engines read it, Snakemake by YAML 1.1, DVC by YAML 1.2.

What the two read differently (1e-3, yes, 010, 1:30), what one of them drops without a word (the
first of two equal keys) and what grows without bound (aliases of aliases, endless brackets) is
refused by its line. What is left means the same to both, with one exception: `dvc exp run -S`
writes 0.00001 as 1e-05, which is read here as the number that DVC means.
"""

import re

import yaml

from resegment.errors import UserError

# libyaml reads eight times as fast, where PyYAML was built with it
Plain = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
DEPTH, SIZE = 64, 500_000  # ours has 9 levels, and 7,017 nodes with every alias written out
TAG = "tag:yaml.org,2002:"
ALIKE = {  # how a value is written that both read alike
    "int": re.compile(r"-?(0|[1-9]\d{0,17})"),
    "float": re.compile(r"-?((0|[1-9]\d{0,17})\.\d+|\d(\.\d+)?e[-+]\d\d)\Z"),
    "bool": re.compile("true|True|TRUE|false|False|FALSE"),
    "null": re.compile("null|Null|NULL|~|"),
    "merge": re.compile("<<"),
}
NUMBER = re.compile(r"[-+]?(\d[\d_]*\.?[\d_]*|\.[\d_]+)([eE][-+]?\d+)?|[-+]?0o?[0-7_]+")  # of 1.2
GLUED = re.compile(r"[A-Za-z_][\w-]*:[^\s:]\S*")
SPACE = "{!r} needs a space after its colon, or quotes"


def plain(text: str | bytes) -> object:
    """The values in a file that the project or DVC writes."""
    return yaml.load(text, Plain)  # a safe loader  # noqa: S506


class Loader(Plain):
    pass


Loader.add_implicit_resolver(f"{TAG}float", ALIKE["float"], list("-0123456789"))


def read(text: str, where: str) -> object:
    """The tree in `text`. Raises UserError with `where` and the line of the first mistake."""
    levels, anchors, loader = [], set(), Loader(text)
    try:
        for event in yaml.parse(text, Loader):  # before anything recurses
            if isinstance(event, yaml.CollectionStartEvent):
                levels.append(event.flow_style)
            elif isinstance(event, yaml.CollectionEndEvent):
                levels.pop()
            elif isinstance(event, yaml.ScalarEvent):
                _apart(event, any(levels))
            elif isinstance(event, yaml.AliasEvent) and event.anchor not in anchors:
                raise _wrong(event, f"*{event.anchor} stands for nothing: no &{event.anchor} is "
                             "above it")  # fmt: skip
            anchors.add(getattr(event, "anchor", None))
            if len(levels) > DEPTH:
                raise _wrong(event, f"more than {DEPTH} levels, one in the other")
        node = loader.get_single_node()
        if node is None:
            return None
        if _size(node, {}) > SIZE:
            raise _wrong(node, f"its aliases stand for more than {SIZE:,} values")
        return loader.construct_document(node)
    except yaml.MarkedYAMLError as e:
        line, said = _plainly(e, text.splitlines())
        raise UserError(f"{where}{line}: {said}") from None
    except yaml.YAMLError as e:
        raise UserError(f"{where} is not valid YAML: {' '.join(str(e).split())}") from None
    finally:
        loader.dispose()


def _wrong(at: yaml.Node | yaml.Event, said: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=said, problem_mark=at.start_mark)


def _plainly(e: yaml.MarkedYAMLError, lines: list[str]) -> tuple[str, str]:
    """The line and the mistake: a tab, or a colon that nothing follows, by more than where the
    reader stumbles."""
    if not e.problem_mark:
        return "", " ".join(f"{e.context or ''} {e.problem}".split())
    at = e.problem_mark.line
    if re.match(r" *\t", "".join(lines[at : at + 1])):
        return f", line {at + 1}", "a tab: indent with spaces"
    if "expected ':'" in e.problem or "mapping values" in e.problem:
        for near in range(at, max(at - 2, -1), -1):
            if glued := GLUED.match("".join(lines[near : near + 1]).strip()):
                return f", line {near + 1}", SPACE.format(glued[0][:40])
    return f", line {at + 1}", " ".join(f"{e.context or ''} {e.problem}".split())


def _apart(event: yaml.ScalarEvent, brackets: bool) -> None:
    """Raise where DVC's reader does, at a colon within a plain word between brackets; and where
    `key:value` was written for `key: value`."""
    if event.style:
        return
    if brackets and ":" in event.value:
        raise _wrong(event, SPACE.format(event.value[:40]))
    if glued := GLUED.match(event.value):
        raise _wrong(event, SPACE.format(glued[0][:40]))


def _size(node: yaml.Node, known: dict[int, int | None]) -> int:
    """How many nodes there are with every alias written out; each node is judged once."""
    if id(node) in known:
        if known[id(node)] is None:
            raise _wrong(node, "an anchor that holds its own alias")
        return known[id(node)]
    known[id(node)] = None
    parts = []
    if isinstance(node, yaml.ScalarNode):
        _alike(node)
    elif node.tag not in (f"{TAG}map", f"{TAG}seq"):
        raise _wrong(node, f"a tag ({node.tag.removeprefix(TAG)}) means nothing here: remove it")
    elif isinstance(node, yaml.SequenceNode):
        parts = node.value
    else:
        seen = set()
        for key, value in node.value:
            if key.tag not in (f"{TAG}str", f"{TAG}merge"):
                raise _wrong(key, "a key must be a plain name")
            if key.value in seen:
                raise _wrong(key, f"{key.value} stands there twice: remove one")
            seen.add(key.value)
            parts += (key, value)
    known[id(node)] = 1 + sum(_size(part, known) for part in parts)
    return known[id(node)]


def _alike(node: yaml.ScalarNode) -> None:
    """Raise unless both dialects read a scalar as the same value."""
    kind = node.tag.removeprefix(TAG)
    text = kind == "str" and (node.style or not NUMBER.fullmatch(node.value))
    if not text and not (kind in ALIKE and ALIKE[kind].fullmatch(node.value)):
        raise _wrong(node, f"{node.value[:40]!r} is not sure to be the same to both engines: write "
                     "a number as 0.001, a switch as true or false, or quote a text")  # fmt: skip
