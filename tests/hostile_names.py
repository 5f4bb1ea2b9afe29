"""Names of models that no command, request or store may follow: 200 of them."""

from __future__ import annotations

import itertools
import unicodedata

_ESCAPES = ("..", "../..", "../../etc/passwd", "..\\..\\x", "....//x", "a/../../x", "./../../x")
_ENCODED = ("%2e%2e", "%2e%2e%2f", "%2E%2E/x", "..%2fx", "..%5cx", "%252e%252e%2fx", "a%00b", "%00")
_CONTROL = ("a\0b", "\0", "a\nb", "a\rb", "a\tb", "\x1b[31mx", "a\x7fb", "\ud800", "a\u2028b")
_DIRECTION = ("\u202eexe.fugg", "a\u202db", "\u200fx", "a\u200bb", "\u2066x\u2069", "\ufeffdemo")
_WINDOWS = (
    "C:\\x", "\\\\host\\share", "CON", "NUL", "COM1", "LPT1.gguf", "aux.gguf", "demo::$DATA",
    "demo:stream", "a/b:$DATA", "x.gguf:stream", "C:/x", "//host/share", "demo.", "demo ", " demo",
)  # fmt: skip
_OPTIONS = ("-x", "--model", "-", "--", "-rf", "--=x", "-/x.gguf", "--config=/etc/passwd")
_HOMES = ("~root", "~root/.ssh/id_rsa", "~/../../etc/passwd", "~nobody/x.gguf", "~~", "~")
_ABSOLUTE = (
    "/etc/passwd", "/etc/shadow", "/", "/proc/self/environ", "/dev/zero", "/dev/stdin",
    "/proc/self/fd/0", "/dev/null.gguf", "//etc/passwd", "/./etc/passwd",
)  # fmt: skip
_SCHEMES = (
    "file:///etc/passwd", "ftp://h/x.gguf", "gopher://h/x.gguf", "data:text/plain,x", "s3://b/x",
    "javascript:alert(1)", "jar:file:///x!/y", "https://", "https://h", "https://h/..",
    "https://h/%2e%2e.gguf", "https://h/x.gguf#../y", "https://u:p@h/x.gguf", "http:///x.gguf",
    "https://h/.gguf", "https://h/x.bin", "https://h:99999/x.gguf", "https://[::1/x.gguf",
    "git+https://h/x.gguf", "https://h/a\\b.gguf", "https://h/x.pt", "https://h/%2f.gguf",
)  # fmt: skip
_HUB = (
    "../b", "a/..", "a/../b", "a/.b", ".a/b", "a/-b", "-a/b", "a/b@", "a/b@..", "a/b@../x",
    "a/b@x/../y", "a/b@-x", "a/b@.x", "a/b@x//y", "a/b@/x", "a/b@x/", "a/b@x\\y", "a/b:", "a/b:..",
    "a/b:../x.gguf", "a/b:/etc/passwd", "a/b:/x.gguf", "a/b:x/../y.gguf", "a/b:x/.y.gguf",
    "a/b:.gguf", "a/b:x/.gguf", "a/b:x//y.gguf", "a/b:-x.gguf", "a/b:x.gguf/", "a/b:x\\y.gguf",
    "a/b:x.bin", "a/b:pytorch_model.bin/x", "a/b:%2e%2e/x.gguf", "a/b:~/x.gguf", "a/b:x.gguf@main",
    "a--b/c:Q4_0", "a/b--c:Q4_0", "a/b.git@main", "a/b.@main", "a/b/c@main", "a/b/c:x.gguf",
    "@main", ":x.gguf", "a@main", "/a/b@main:x.gguf", "a//b@main", "a/@main", "/b@main",
)  # fmt: skip
_CHOSEN = (
    "../x=demo", "..=demo", "a..b=demo", ".x=demo", "-x=demo", "x y=demo", "é=demo", "=demo", "x=",
    "a/b=demo", "x.=demo", "x=..", "x=../..", "x= demo", "x=\0", "x=--y", "\u202ex=demo",
    "x=x=demo", "%2e=demo", "CON/=demo", "x\\y=demo",
)  # fmt: skip
_SHELL = (
    "$(id)",
    "`id`",
    "demo;id",
    "demo|id",
    "demo&id",
    "${HOME}",
    "$HOME",
    "demo>x",
    "*",
    "?",
    "!x",
    "a,b;c",
)
_TEMPLATES = ("{{7*7}}", "{%x%}", "<script>", "' OR 1=1--", '"demo"', "demo'", "%s%n", "!!python/x")
_LETTERS = (
    unicodedata.normalize("NFC", "modèle"),
    unicodedata.normalize("NFD", "modèle"),
    "ｄｅｍｏ",
    "dеmo",
    "DEMO",
    "Demo",
)
_LONG = ("n" * 300, "n" * 5000, "a/" + "b" * 300 + "@x", "n" * 129 + "=demo", "/" + "x" * 300)
_BLANK = ("", " ", "   ", "\t", "\u00a0", "\u3000", "\u2003x", "x\u00a0")

HOSTILE: tuple[str, ...] = tuple(
    dict.fromkeys(
        itertools.chain(
            _ESCAPES, _ENCODED, _CONTROL, _DIRECTION, _WINDOWS, _OPTIONS, _HOMES, _ABSOLUTE,
            _SCHEMES, _HUB, _CHOSEN, _SHELL, _TEMPLATES, _LETTERS, _LONG, _BLANK,
        )
    )
)  # fmt: skip
