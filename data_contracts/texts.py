"""YAML, JSON and XML of others, read with limits: the only place that parses them.

A few hundred bytes of these formats can stand for gigabytes (aliases of aliases, entities, empty brackets) or for
numbers that no arithmetic holds. What is over a limit is refused before anything is built of it.
"""

import json
import re
from typing import Any
from xml.etree.ElementTree import Element, ParseError

import yaml

MOST_BYTES = 1 << 28  # of a JSON or XML file that is read whole
MOST_YAML = 1 << 22  # characters: PyYAML takes a second for half a million
DEPTH = 100  # brackets within brackets
MOST_NODES = 200_000  # values of a YAML text, each counted as often as aliases repeat it
MOST_PARTS = 2_000_000  # brackets and keys of a JSON text, or elements of an XML one
MOST_ITEMS = 10_000_000  # commas of a JSON text
MOST_DIGITS = 400  # of a whole number in JSON; longer ones are read as floats, most of them as infinite
LONGEST_NUMBER = 100  # digits of a whole number in YAML, where people write them by hand
BRACKET = re.compile(r"[][{}]")
PARSED = frozenset((b"utf-8", b"utf-16", b"iso-8859-1", b"us-ascii"))  # encodings that the XML parser knows itself


class TextError(ValueError):
    """A text that is not the YAML, JSON or XML it should be, or is over a limit. Says where in it, and not its name."""


def parse_yaml(text: str) -> Any:
    """The value of a YAML text.

    Raises:
        TextError: no YAML (says line and column), nested too deeply, aliases that multiply, or a number too long.
    """
    if len(text) > MOST_YAML:
        raise TextError(f"expected at most {MOST_YAML:,} characters of YAML, found {len(text):,}")
    if _open_brackets(text) > 10 * DEPTH:  # PyYAML would think about them for long
        raise TextError(f"not YAML that can be read: nested more than {DEPTH} deep")
    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _check_nodes(node)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except TextError:
        raise
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise TextError(f"{place}not YAML: {error.problem or error.context}") from error
    except RecursionError as error:
        raise TextError(f"not YAML that can be read: nested more than {DEPTH} deep") from error
    except (yaml.YAMLError, ValueError, OverflowError, TypeError) as error:
        raise TextError(f"not YAML that can be read: {str(error) or type(error).__name__}") from error


def _open_brackets(text: str) -> int:
    """The most brackets that are open at once, those in quotes counted as well."""
    depth = most = 0
    for found in BRACKET.finditer(text):
        depth += 1 if found.group() in "[{" else -1
        most = max(most, depth)
    return most


def _check_nodes(top: yaml.Node) -> None:
    """Refuse what would be large, deep or endless once its aliases are followed."""
    sizes: dict[int, int] = {}
    _size(top, sizes, 0)


def _size(node: yaml.Node, sizes: dict[int, int], depth: int) -> int:
    """Values below a node, aliases followed; `sizes` holds those of nodes that were counted, 0 while they are."""
    if (known := sizes.get(id(node))) is not None:
        if known == 0:
            raise TextError("not YAML that can be read: an alias of what it stands in")
        return known
    sizes[id(node)] = 0
    if isinstance(node, yaml.ScalarNode):
        if node.tag.endswith(":int") and len(node.value) > LONGEST_NUMBER:
            place = f"line {node.start_mark.line + 1}"
            raise TextError(f"{place}: expected a number of at most {LONGEST_NUMBER} digits, found {len(node.value)}")
        total = 1
    else:
        if depth >= DEPTH:
            raise TextError(f"not YAML that can be read: nested more than {DEPTH} deep")
        children = [c for pair in node.value for c in pair] if isinstance(node, yaml.MappingNode) else node.value
        total = 1 + sum(_size(child, sizes, depth + 1) for child in children)
    if total > MOST_NODES:
        raise TextError(f"expected at most {MOST_NODES:,} values of YAML, found more once aliases are followed")
    sizes[id(node)] = total
    return total


def parse_json(data: bytes | str) -> Any:
    """The value of a JSON text, UTF-8 (a byte-order mark may begin it).

    Raises:
        TextError: no JSON (says line and column), too large, nested too deeply, or no UTF-8.
    """
    if len(data) > MOST_BYTES:
        raise TextError(f"expected at most {MOST_BYTES:,} bytes of JSON, found {len(data):,}")
    try:
        text = data if isinstance(data, str) else data.decode("utf-8-sig")
        brackets = text.count("[") + text.count("{")
        if brackets + text.count(":") > MOST_PARTS or text.count(",") > MOST_ITEMS:
            raise TextError(f"expected JSON of at most {MOST_PARTS:,} brackets and keys, found more")
        value = json.loads(text, parse_int=whole)
    except UnicodeDecodeError as error:
        raise TextError(f"not JSON: bytes that are no UTF-8 at byte {error.start}") from error
    except json.JSONDecodeError as error:
        raise TextError(f"not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from error
    except RecursionError as error:
        raise TextError(f"not JSON that can be read: nested more than {DEPTH} deep") from error
    if brackets > DEPTH and _is_deep(value):
        raise TextError(f"not JSON that can be read: nested more than {DEPTH} deep")
    return value


def _is_deep(value: Any) -> bool:
    """Whether containers lie in one another more than `DEPTH` deep."""
    level: list[Any] = [value] if isinstance(value, dict | list) else []
    for _ in range(DEPTH):
        inner = (part for outer in level for part in (outer.values() if isinstance(outer, dict) else outer))
        if not (level := [part for part in inner if isinstance(part, dict | list)]):
            return False
    return True


def whole(digits: str) -> int | float:
    """A whole number of JSON; one of more digits than anybody means as a float."""
    return int(digits) if len(digits) <= MOST_DIGITS else float(digits)


def parse_xml(data: bytes) -> Element:
    """The top element of an XML text, in the encoding that it declares.

    Raises:
        TextError: no XML, too large, entities or a DTD, or an encoding that nobody knows.
    """
    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import fromstring

    if len(data) > MOST_BYTES or data.count(b"<") > MOST_PARTS:
        raise TextError(f"expected at most {MOST_BYTES:,} bytes and {MOST_PARTS:,} tags of XML, found more")
    try:
        top: Element = fromstring(_decoded(data), forbid_dtd=True)
        return top
    except ParseError as error:
        raise TextError(f"not XML: {error}") from error
    except DefusedXmlException as error:
        raise TextError(f"XML with entities or a document type, which are not read: {error}") from error
    except (ValueError, LookupError, RecursionError) as error:
        raise TextError(f"not XML that can be read: {error}") from error


def _decoded(data: bytes) -> bytes | str:
    """XML in a declared encoding that the parser does not know (GB2312, Shift_JIS, …) as text; all else as it is."""
    declared = re.match(rb"\s*<\?xml[^>]*?encoding\s*=\s*[\"']([A-Za-z0-9._-]+)[\"'][^>]*\?>", data)
    if declared is None or declared.group(1).lower() in PARSED:
        return data
    return data[declared.end() :].decode(declared.group(1).decode())
