"""Whether a value fits a JSON Schema that anybody may have written: a request brings its own.

Nothing is fetched, and no schema takes long, whatever its patterns and references are.

    {"type": "integer"}, 5                             None
    {"type": "integer"}, "5"                           "the answer: '5' is not of type 'integer'"
    {"$ref": "https://example.org/s.json"}, 5          "its schema refers to what is not in it (…)"
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llguidance import LLTokenizer

LIMIT_S = 0.5  # of processor time: an honest schema takes a millisecond
LONGEST = 120  # characters of an error; it may quote all of a schema
_until: ContextVar[float] = ContextVar("until")


class _Unchecked(Exception):  # noqa: N818 - named for what happened
    """A value cannot be checked; says why."""


def find_misfit(schema: Mapping[str, Any], value: Any) -> str | None:
    """Where a value does not fit a JSON Schema, and how; None where it does.

    A value that cannot be checked does not fit.

    Args:
        schema: The schema; of draft 2020-12 where it does not name another.
        value: A JSON value.
    """
    import jsonschema
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    _until.set(time.thread_time() + LIMIT_S)
    try:
        text = json.dumps(schema)
        if '"unevaluatedProperties"' in text and '"patternProperties"' in text:
            return "its schema has both unevaluatedProperties and patternProperties: not checked"
        kind = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)
        # Without a registry, jsonschema would ask the network for what a schema refers to.
        checker = _make_checker(kind)(schema, registry=Registry())
        error = next(checker.iter_errors(value), None)
    except _Unchecked as problem:
        return str(problem)
    except Unresolvable as problem:
        return f"its schema refers to what is not in it ({str(problem.ref)[:LONGEST]})"
    if error is None:
        return None
    place = error.json_path.removeprefix("$").removeprefix(".") or "the answer"
    return f"{place[:LONGEST]}: {error.message}"


@lru_cache(maxsize=8)
def _make_checker(kind: Any) -> Any:
    """A draft's validator with a limit of time on every keyword, and patterns that take none."""
    import jsonschema

    own = {
        "pattern": _check_pattern,
        "patternProperties": _check_pattern_properties,
        "additionalProperties": _without_patterns(kind.VALIDATORS["additionalProperties"]),
    }
    keywords = {**kind.VALIDATORS, **own}
    limited = {name: _limit(check) for name, check in keywords.items()}
    return jsonschema.validators.extend(kind, limited)


def _check_time() -> None:
    if time.thread_time() > _until.get():
        raise _Unchecked("its schema takes too long to check")


def _limit(check: Callable[..., Any]) -> Callable[..., Iterator[Any]]:
    """A keyword that stops when the time is up, and whose errors are short."""

    def check_in_time(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
        _check_time()
        for error in check(validator, value, instance, schema) or ():
            error.message = error.message[:LONGEST]
            yield error

    return check_in_time


def _search(pattern: str, text: str) -> bool:
    """Whether a pattern is found, in linear time; `re` may take for ever, and holds all threads."""
    from llguidance import LLMatcher

    _check_time()
    schema = json.dumps({"type": "string", "pattern": pattern})
    matcher = LLMatcher(_open_bytes(), LLMatcher.grammar_from_json_schema(schema), log_level=0)
    tokens = _open_bytes().tokenize_bytes(json.dumps(text, ensure_ascii=False).encode())
    n_read = 0 if matcher.is_error() else matcher.try_consume_tokens(tokens)
    if matcher.is_error():
        raise _Unchecked(f"its schema has a pattern that cannot be checked: {pattern[:LONGEST]}")
    return n_read == len(tokens) and matcher.is_accepting()


@lru_cache(maxsize=1)
def _open_bytes() -> "LLTokenizer":
    """A tokenizer with a token for each byte."""
    from llguidance import LLTokenizer

    return LLTokenizer("byte")


def _check_pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[Any]:
    import jsonschema

    if isinstance(instance, str) and not _search(pattern, instance):
        yield jsonschema.ValidationError(f"{instance!r} does not match {pattern!r}")


def _check_pattern_properties(
    validator: Any, patterns: Mapping[str, Any], instance: Any, schema: Any
) -> Iterator[Any]:
    for pattern, part in patterns.items():
        for key, value in instance.items() if isinstance(instance, dict) else ():
            if _search(pattern, key):
                yield from validator.descend(value, part, path=key, schema_path=pattern)


def _without_patterns(check: Callable[..., Any]) -> Callable[..., Any]:
    """`additionalProperties`, told the keys that are declared, by name or by pattern."""

    def check_others(validator: Any, value: Any, instance: Any, schema: Any) -> Any:
        if not isinstance(instance, dict):
            return ()
        declared = dict.fromkeys(schema.get("properties", ()), True)
        patterns = schema.get("patternProperties", ())
        found = {key: True for key in instance if any(_search(p, key) for p in patterns)}
        return check(validator, value, instance, {"properties": declared | found})

    return check_others
