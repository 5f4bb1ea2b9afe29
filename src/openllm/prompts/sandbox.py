"""A Jinja sandbox for chat templates of strangers: bounded in time, memory and output.

The template runs in Jinja's immutable sandbox, so it reaches no attribute that begins with "_"
and changes no list. Beyond that, nothing in it repeats or grows without paying from a budget:
each loop pass, call, filter, operator and output is a step at which the clock is read, and each
text or list is paid before it is made. Calls, operators and output pass through hooks of Jinja;
loops, `~`, slices and displays of lists are rewritten in the syntax tree to pass through filters
of ours. What is left between two steps is bounded by the size of the template and of the values.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from string import Formatter
from typing import Any, NoReturn

from jinja2 import Template, nodes, pass_context
from jinja2.exceptions import SecurityError, TemplateSyntaxError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from openllm.errors import ModelFileError
from openllm.prompts.budget import (
    BUDGET,
    SAFE_FILTERS,
    Budget,
    LimitError,
    display,
    each,
    join,
    made,
    pay,
    replace,
    text,
    written_size,
)

MAX_SOURCE = 64 * 1024
MAX_OUTPUT = 8 * 1024 * 1024

_SAFE_STR_METHODS = (
    "capitalize casefold count endswith find format index isalnum isalpha isascii isdecimal"
    " isdigit islower isnumeric isspace istitle isupper join lower lstrip partition removeprefix"
    " removesuffix replace rfind rindex rpartition rsplit rstrip split splitlines startswith"
    " strip swapcase title upper"
)
_STR_METHODS = frozenset(_SAFE_STR_METHODS.split())
_GLOBALS = ("cycler", "dict", "joiner", "namespace", "range")
_WIDTH = r"[-+ #0]*(\d{0,2}\.)?(\*|\d{3})"
_WIDE = re.compile("%" + _WIDTH)
_WIDE_KEY = re.compile("[%)]" + _WIDTH)
_FIELD = 512
"""Characters of a formatted number at most, with a width or a precision of two digits."""
_OF_JINJA = ("_loop_vars", "_block_vars")
"""What Jinja passes along with the arguments of a call inside of a loop or a block."""


class RefusalError(Exception):
    """The template called `raise_exception`; the message is its own."""


class _GenerationTag(Extension):
    """`{% generation %}` marks an assistant's text for training; here it is a scope, no more."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def __init__(self) -> None:
        # The optimizer would evaluate constant expressions while compiling, before any limit.
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,
            extensions=[_GenerationTag, loopcontrols],
            finalize=_output,
        )
        self.globals = {name: self.globals[name] for name in _GLOBALS}
        self.globals.update(raise_exception=_raise_exception, strftime_now=_strftime_now)
        self.filters = {**SAFE_FILTERS, " each": each, " made": made, " display": display}
        self.filters[" concat"] = lambda values: join("", values)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, str):
            return attr in _STR_METHODS
        return not isinstance(obj, (int, float)) and super().is_safe_attribute(obj, attr, value)

    def unsafe_undefined(self, obj: Any, attribute: str) -> NoReturn:
        raise SecurityError(
            f"it uses {attribute!r} of a {type(obj).__name__}, which is not allowed"
        )

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        BUDGET.get().step()
        named = {name: value for name, value in kwargs.items() if name not in _OF_JINJA}
        for value in (*args, *named.values()):
            if isinstance(value, (list, tuple, dict)):
                display(value)
        name = getattr(obj, "__name__", "")
        owner = getattr(getattr(obj, "__wrapped__", obj), "__self__", None)
        if isinstance(owner, str) and name == "join":
            return join(owner, *args)
        if isinstance(owner, str) and name == "replace":
            return replace(owner, *args, **named)
        if isinstance(owner, str) and name.startswith("format"):
            _pay_format(owner, args, named)
        result = super().call(context, obj, *args, **kwargs)
        return display(result) if obj is dict else made(result)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        BUDGET.get().step()
        if operator == "+":
            _pay_sum(left, right)
        elif operator == "%":
            _pay_percent(left, right)
        else:
            _pay_product(operator, left, right)
        return self.binop_table[operator](left, right)


def _pay_sum(left: Any, right: Any) -> None:
    if isinstance(left, str):
        pay(len(left) + (len(right) if isinstance(right, str) else 0))
    elif isinstance(left, (list, tuple)):
        made(left)
        display(right)


def _pay_product(operator: str, left: Any, right: Any) -> None:
    if isinstance(left, (list, tuple)) or isinstance(right, (list, tuple)):
        raise LimitError("it multiplies a list")
    if isinstance(left, str) or isinstance(right, str):
        word, times = (left, right) if isinstance(left, str) else (right, left)
        pay(len(word) * max(0, times) if isinstance(times, int) else 0)
    elif isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() * max(1, abs(right)) if operator == "**" else left.bit_length()
        if bits + right.bit_length() > 1024:
            raise LimitError("it makes too large a number")


def _pay_percent(left: Any, right: Any) -> None:
    if isinstance(left, str):
        wide = _WIDE_KEY if "%(" in left else _WIDE
        if wide.search(left):
            raise LimitError("it formats text to a width of more than 99")
        pay(len(left) + left.count("%") * (_FIELD + written_size(right)))


def _pay_format(pattern: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    pay(len(pattern))
    size = _FIELD + written_size([*args, *kwargs.values()])
    for _, name, width, _ in each(Formatter().parse(pattern)):
        if width and ("{" in width or re.search(r"\d{3}", width)):
            raise LimitError("it formats text to a width of more than 99")
        pay(size if name is not None else 0)


@pass_context
def _output(_context: Context, value: Any) -> str:
    budget = BUDGET.get()
    budget.step()
    written = text(value)
    budget.pay(len(written))
    return written


def _raise_exception(message: Any = "") -> NoReturn:
    raise RefusalError(text(message))


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)  # noqa: DTZ005  # Local, as transformers has it.


class _Rewriter(NodeTransformer):
    """Sends what Jinja has no hook for through filters of ours."""

    def __init__(self) -> None:
        self._buffered = 0

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self._visit_buffered(node, node.recursive)
        node.iter = _filtered(node.iter, " each")
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(nodes.List(node.nodes, lineno=node.lineno), " concat")

    def visit_List(self, node: nodes.List) -> nodes.Node:
        return _filtered(self.generic_visit(node), " display")

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        return _filtered(self.generic_visit(node), " display")

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(node, " display") if node.ctx == "load" else node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(node, " made") if isinstance(node.arg, nodes.Slice) else node

    def visit_TemplateData(self, node: nodes.TemplateData) -> nodes.Node:
        return nodes.Const(node.data, lineno=node.lineno) if self._buffered else node

    def _visit_buffered(self, node: nodes.Node, buffered: bool = True) -> nodes.Node:
        """Visit a node whose output is collected; there even constant text is output that pays."""
        self._buffered += buffered
        self.generic_visit(node)
        self._buffered -= buffered
        return node

    visit_Macro = visit_CallBlock = visit_AssignBlock = visit_FilterBlock = visit_Block = (
        _visit_buffered
    )


def _filtered(node: nodes.Node, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


_ENVIRONMENT = _Environment()


def compile_template(source: str) -> Template:
    """Compile a chat template; raises `ModelFileError` that names the line if it is not one."""
    if len(source) > MAX_SOURCE:
        raise ModelFileError(
            f"The chat template has {len(source)} characters, at most {MAX_SOURCE} are supported."
        )
    try:
        tree = _ENVIRONMENT.parse(source)
        foreign = (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)
        for node in tree.find_all(foreign):
            raise TemplateSyntaxError("It refers to another template.", node.lineno)
        code = _ENVIRONMENT.compile(_Rewriter().visit(tree))
        return Template.from_code(_ENVIRONMENT, code, _ENVIRONMENT.make_globals(None))
    except TemplateSyntaxError as error:
        raise ModelFileError(
            f"The chat template does not compile: line {error.lineno}: {error.message}"
        ) from error
    except (RecursionError, MemoryError, SyntaxError, ValueError) as error:
        raise ModelFileError(
            f"The chat template does not compile: {type(error).__name__}."
        ) from error


def sought_texts(source: str) -> frozenset[str]:
    """Return the constants that a template that compiles looks for, e.g. `"</think>" in content`.

    They are operands of comparisons and arguments of methods, as of `content.split("</think>")`.
    """
    tree = _ENVIRONMENT.parse(source)
    found: list[nodes.Node] = []
    for comparison in tree.find_all(nodes.Compare):
        found += (comparison.expr, *(operand.expr for operand in comparison.ops))
    for call in tree.find_all(nodes.Call):
        found += call.args if isinstance(call.node, nodes.Getattr) else ()
    return frozenset(str(node.value) for node in found if isinstance(node, nodes.Const))


def render_template(template: Template, variables: Mapping[str, Any], characters: int = 0) -> str:
    """Render messages of so many characters within the limits.

    Raises:
        LimitError: A limit was reached.
        RefusalError: The template called `raise_exception`.
        Exception: Whatever else a template can run into.
    """
    before = BUDGET.set(Budget(characters))
    try:
        parts: list[str] = []
        length = 0
        for part in template.generate(variables):
            length += len(part)
            if length > MAX_OUTPUT:
                raise LimitError(f"it writes more than {MAX_OUTPUT} characters")
            parts.append(part)
        return "".join(parts)
    finally:
        BUDGET.reset(before)
