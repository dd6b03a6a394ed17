"""What is wrong with a file, in words, where only a library's exception says so."""

from __future__ import annotations

from lightning_compress.untrusted_text import plain_text

_ABOUT_CODE = (AttributeError, KeyError, IndexError, TypeError, NameError, StopIteration, RecursionError)
"""What Python raises of its own accord says where code stumbled, and not over what."""

_MOST = 400


def reason(error: BaseException) -> str:
    """An exception's message, if it is about what was read; else that what was read does not fit together.

    Args:
        error: From a library that was given something from a package.
    """
    text = " ".join(plain_text(str(error)).split())
    if isinstance(error, _ABOUT_CODE) or not text:
        return "its operands, attributes and types do not fit together"
    return text if len(text) <= _MOST else f"{text[:_MOST]}…"
