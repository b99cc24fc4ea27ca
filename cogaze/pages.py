"""What the pages of this project share: one style and one way to fill a template.

The run page, the gaze page, `cogaze data stats` and `cogaze data show` are each one file that asks nothing of the
network, so a template takes the style in: `<style>{% include "pages.css" %}...`.
"""

from __future__ import annotations

import jinja2


def environment(package: str) -> jinja2.Environment:
    """Templates beside the modules of `package`, with those of this one; every string a template is given is escaped,
    and a name it is not given is an error."""
    return jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(name, "") for name in (package, "cogaze")]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
