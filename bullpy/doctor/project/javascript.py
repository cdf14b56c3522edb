"""Reads JavaScript and TypeScript as tokens: comments, strings and brackets are never mistaken.

It is no parser: it knows which bracket closes which, what a string says, and where an expression
ends. What it does not understand it passes over, so that the checks built on it rather miss than
accuse.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

Span = tuple[int, int]
"""Tokens from the first index up to, without, the second."""


class Token(NamedTuple):
    """One token.

    Attributes:
        kind: `name`, `number`, `string`, `template`, `regex`, `mark`, or `mixed` for a template
            with values put in.
        text: As written; for a string or a template what it says.
        line: From 1.
    """

    kind: str
    text: str
    line: int


_TOKEN = re.compile(
    r"""
      (?P<space>\s+ | //[^\n]* | /\*.*?(?:\*/|\Z) | \A\#![^\n]*)
    | (?P<name>[A-Za-z_$\#][\w$]*)
    | (?P<number>0[xXbBoO][\da-fA-F_]+n? | (?:\d[\d_]*\.?[\d_]*|\.\d[\d_]*)(?:[eE][+-]?\d+)?n?)
    | (?P<string>"(?:[^"\\\n]|\\[^\n])*" | '(?:[^'\\\n]|\\[^\n])*')
    | (?P<mark>=>|\.\.\.|\?\.(?!\d)|\?\?=?|\|\|=?|&&=?|===|!==|==|!=|<=|>=|\*\*|\+\+|--|[-+*]=|.)
    """,
    re.VERBOSE | re.DOTALL,
)
_REGEX = re.compile(r"/(?:[^/\\\[\n]|\\[^\n]|\[(?:[^\]\\\n]|\\[^\n])*\])+/[A-Za-z]*")
_ESCAPE = re.compile(r"\\(?:u\{([0-9a-fA-F]{1,6})\}|u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|(.))", re.S)
_SIMPLE = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "v": "\v", "0": "\0", "\n": ""}

# After these a `/` begins a regular expression, although they are words.
_BEFORE_REGEX = frozenset(
    """
    return typeof instanceof in of new delete void throw case do else yield await
    """.split()  # noqa: SIM905 - a list of words reads better so
)
_OPEN = {"(": ")", "[": "]", "{": "}"}
_CLOSE = frozenset(")]}")
# A line that begins with one of these goes on with the expression of the line before.
_GOES_ON = frozenset(
    """
    . ?. ( [ , ? : => = + - * / % && || ?? | & ** == === != !== < > <= >=
    """.split()  # noqa: SIM905 - a list of words reads better so
)


@dataclass(slots=True)
class Script:
    """A file as tokens.

    Attributes:
        tokens: All of them, without comments.
        pairs: For each opening bracket the index of the closing one, and back.
        names: Where each name stands.
    """

    tokens: list[Token]
    pairs: dict[int, int] = field(default_factory=dict[int, int])
    names: dict[str, list[int]] = field(default_factory=dict[str, list[int]])

    @classmethod
    def read(cls, text: str) -> Script:
        """Read a file; text that is no JavaScript gives tokens without meaning."""
        script = cls(list(_tokens(text)))
        script._match()
        return script

    def _match(self) -> None:
        open_: list[int] = []
        for index, (kind, text, _) in enumerate(self.tokens):
            if kind == "name":
                self.names.setdefault(text, []).append(index)
            if kind != "mark":
                continue
            if text in _OPEN:
                open_.append(index)
            elif text in _CLOSE:
                # A bracket without partner ends what is open above it.
                while open_ and _OPEN[self.tokens[open_[-1]].text] != text:
                    open_.pop()
                if open_:
                    start = open_.pop()
                    self.pairs[start] = index
                    self.pairs[index] = start

    def where(self, *names: str) -> list[int]:
        """Where these names stand, in order."""
        return sorted(index for name in set(names) for index in self.names.get(name, ()))

    def text(self, index: int) -> str:
        """What the token at the index says; "" beyond the ends, and for strings."""
        if 0 <= index < len(self.tokens):
            kind, text, _ = self.tokens[index]
            return text if kind in ("name", "mark") else ""
        return ""

    def line(self, index: int) -> int:
        """The line of a token."""
        return self.tokens[min(max(index, 0), len(self.tokens) - 1)].line if self.tokens else 1

    def after(self, index: int) -> int:
        """The index of the token behind this one, or behind the bracket that it opens."""
        return self.pairs.get(index, index) + 1 if self.text(index) in _OPEN else index + 1

    def parts(self, span: Span, mark: str = ",") -> list[Span]:
        """The parts between commas, or other marks, that stand in no further brackets."""
        start, end = span
        found: list[Span] = []
        index = start
        while index < end:
            if self.text(index) == mark:
                found.append((start, index))
                start = index + 1
            index = self.after(index)
        if start < end:
            found.append((start, end))
        return found

    def inside(self, index: int) -> Span | None:
        """What stands between the bracket at the index and its partner."""
        close = self.pairs.get(index, -1)
        return (index + 1, close) if close > index else None

    def arguments(self, index: int) -> list[Span] | None:
        """The arguments of the call whose `(` stands at the index."""
        span = self.inside(index) if self.text(index) == "(" else None
        return None if span is None else self.parts(span)

    def expression(self, start: int) -> Span:
        """The expression that begins at the index, up to its `,` or `;` or a line that ends it."""
        index = start
        while index < len(self.tokens):
            text = self.text(index)
            if text in (";", ",") or text in _CLOSE:
                break
            if (
                index > start
                and self.line(index) > self.line(index - 1)
                and text not in _GOES_ON
                and not self._wants_more(index - 1)
            ):
                break
            index = self.after(index)
        return start, index

    def _wants_more(self, index: int) -> bool:
        """Whether an expression cannot end with this token."""
        text = self.text(index)
        return self.tokens[index].kind == "mark" and text not in _CLOSE

    def literal(self, span: Span) -> str | None:
        """What a span says that is one string; None if it is anything else."""
        start, end = self._bare(span)
        if end - start == 1 and self.tokens[start].kind in ("string", "template"):
            return self.tokens[start].text
        return None

    def number(self, span: Span) -> float | None:
        """The value of a span that is one number or a product such as `15 * 1000`."""
        start, end = self._bare(span)
        value = 1.0
        for part in self.parts((start, end), "*"):
            if part[1] - part[0] != 1 or self.tokens[part[0]].kind != "number":
                return None
            try:
                value *= float(self.tokens[part[0]].text.replace("_", "").rstrip("n"))
            except ValueError:
                return None
        return value if start < end else None

    def word(self, span: Span) -> str | None:
        """The word of a span that is one name, such as `true`, `null` or a variable."""
        start, end = self._bare(span)
        if end - start == 1 and self.tokens[start].kind == "name":
            return self.tokens[start].text
        return None

    def path(self, span: Span) -> str | None:
        """`a.b.c` of a span that is a name with members; None if it is anything else."""
        start, end = self._bare(span)
        names = [self.tokens[index] for index in range(start, end)]
        if not names or len(names) % 2 == 0:
            return None
        for position, token in enumerate(names):
            if position % 2 == 0 and token.kind != "name":
                return None
            if position % 2 == 1 and token.text not in (".", "?."):
                return None
        return ".".join(token.text for token in names[::2])

    def _bare(self, span: Span) -> Span:
        """Without `as const`, `satisfies X`, `!` and brackets around it."""
        start, end = span[0], min(span[1], len(self.tokens))
        index = self.after(start)
        while index < end:
            if self.text(index) in ("as", "satisfies"):
                end = index
            index = self.after(index)
        while end - start > 1 and self.text(end - 1) == "!":
            end -= 1
        while self.text(start) == "(" and self.pairs.get(start) == end - 1:
            start, end = start + 1, end - 1
        return start, end

    def object(self, span: Span) -> ObjectLiteral | None:
        """The object literal that a span is; None if it is anything else."""
        start, end = self._bare(span)
        if self.text(start) != "{" or self.pairs.get(start) != end - 1:
            return None
        entries: dict[str, Entry] = {}
        complete = True
        for first, last in self.parts((start + 1, end - 1)):
            entry = self._entry(first, last)
            if entry is None:
                complete = False
            else:
                entries[entry.name] = entry
        return ObjectLiteral(entries, complete, self.line(start))

    def _entry(self, first: int, last: int) -> Entry | None:
        kind, text, line = self.tokens[first]
        if kind not in ("name", "string", "number"):
            return None  # A spread, or a computed key.
        if last - first == 1 and kind == "name":
            return Entry(text, line, (first, last))  # Shorthand: the name is the value.
        if self.text(first + 1) == ":":
            return Entry(text, line, (first + 2, last))
        # A method, which may be async or a getter.
        name = next((i for i in range(first, last) if self.text(i) == "("), first + 1) - 1
        return Entry(self.tokens[max(name, first)].text, line, (first, last))


class Entry(NamedTuple):
    """One entry of an object literal.

    Attributes:
        name: The key.
        line: Where it stands.
        value: The tokens of the value.
    """

    name: str
    line: int
    value: Span


class ObjectLiteral(NamedTuple):
    """An object literal.

    Attributes:
        entries: By key.
        complete: Whether these are all: false with a spread or a computed key.
        line: Where it begins.
    """

    entries: dict[str, Entry]
    complete: bool
    line: int


def _tokens(text: str) -> Iterator[Token]:
    position, line = 0, 1
    last: Token | None = None
    # Up to where a quote or a / is known to have no partner: a line of them is not searched again.
    alone = {"'": 0, '"': 0, "/": 0}
    while position < len(text):
        char = text[position]
        if char == "`":
            end = _template_end(text, position)
            said = text[position + 1 : end - 1]
            # With a value put in, what it says is not known.
            kind, said = "mixed" if "${" in said else "template", _unescape(said)
        elif position < alone.get(char, 0):
            end, kind, said = position + 1, "mark", char
        else:
            is_regex = char == "/" and _regex_may_follow(last) and text[position + 1 : position + 2]
            pattern = _REGEX if is_regex and is_regex not in "/*" else _TOKEN
            found = pattern.match(text, position)
            end = found.end() if found else position + 1
            kind = (found.lastgroup or "regex") if found else "mark"
            said = text[position:end]
            if kind == "string":
                said = _unescape(said[1:-1])
            elif (kind == "mark" and char in "'\"") or found is None:
                alone[char] = text.find("\n", position) % (len(text) + 1)
        if kind != "space":
            last = Token(kind, said, line)
            yield last
        line += text.count("\n", position, end)
        position = end


def _regex_may_follow(last: Token | None) -> bool:
    if last is None:
        return True
    if last.kind == "name":
        return last.text in _BEFORE_REGEX
    return last.kind == "mark" and last.text not in (")", "]", "}", "++", "--")


def _template_end(text: str, start: int) -> int:
    """Behind the closing backtick, with the templates inside `${}` in between."""
    # Each open template is a None, each open ${ a count of the braces in it.
    open_: list[int | None] = [None]
    index = start + 1
    while index < len(text):
        char = text[index]
        if char == "\\":
            index += 1
        elif open_[-1] is None:
            if char == "`":
                open_.pop()
                if not open_:
                    return index + 1
            elif char == "$" and text[index + 1 : index + 2] == "{":
                open_.append(0)
                index += 1
        elif char == "`":
            open_.append(None)
        elif char in "\"'":
            found = _TOKEN.match(text, index)
            index = found.end() - 1 if found else index
        elif char == "{":
            open_[-1] += 1
        elif char == "}":
            if open_[-1] == 0:
                open_.pop()
            else:
                open_[-1] -= 1
        index += 1
    return len(text)


def _unescape(text: str) -> str:
    if "\\" not in text:
        return text

    def plain(found: re.Match[str]) -> str:
        code = found[1] or found[2] or found[3]
        if code:
            value = int(code, 16)
            return chr(value) if value < 0xD800 or 0xDFFF < value <= 0x10FFFF else "?"
        return _SIMPLE.get(found[4], found[4])

    return _ESCAPE.sub(plain, text)
