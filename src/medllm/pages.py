"""Pages that need nothing else: every text is escaped, nothing runs, nothing is loaded from anywhere."""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def page_environment(**options: Any) -> Environment:
    """Jinja2's, for templates by their path in the package; `page_head.html` is the head that all of them include.

    Args:
        options: Further ones of `jinja2.Environment`.
    """
    return Environment(
        loader=PackageLoader("medllm", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        **options,
    )
