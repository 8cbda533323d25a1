"""Licenses as the hub knows them: the identifiers that a data card may state."""

from __future__ import annotations

import difflib

from veridical.runtime.errors import UserError

_CREATIVE_COMMONS = (
    "cc cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 "
    "cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 "
    "cc-by-nc-sa-3.0 cc-by-nc-sa-4.0"
)
_OF_DATA = (
    "c-uda cdla-sharing-1.0 cdla-permissive-1.0 cdla-permissive-2.0 etalab-2.0 odc-by odbl pddl "
    "gfdl lgpl-lr"
)
_OF_SOFTWARE = (
    "apache-2.0 mit afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear "
    "wtfpl ecl-2.0 epl-1.0 epl-2.0 eupl-1.1 agpl-3.0 gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 "
    "isc lppl-1.3c ms-pl mpl-2.0 osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib"
)
_OF_MODELS = (
    "openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 "
    "bigcode-openrail-m openrail++ deepfloyd-if-license llama2 llama3 llama3.1 llama3.2 llama3.3 "
    "gemma"
)
OTHER = "other"
LICENSES = (*" ".join((_CREATIVE_COMMONS, _OF_DATA, _OF_SOFTWARE, _OF_MODELS)).split(), "unknown")
"""The hub's table (hub-docs, repositories-licenses.md), without `other`."""


def license_identifier(license: str) -> str:
    """The hub's identifier for a license: `CC BY 4.0` is `cc-by-4.0`.

    Raises:
        UserError: the hub knows no such license.
    """
    wanted = "-".join(license.lower().split())
    if wanted in (*LICENSES, OTHER):
        return wanted
    near = difflib.get_close_matches(wanted, LICENSES, 3, 0.7)
    meant = f"Did you mean {' or '.join(near)}? " if near else "Examples: cc-by-4.0, odc-by, mit. "
    raise UserError(
        f"--license {license}: the hub has no license of this name. {meant}For one that the hub "
        f"does not list, set {OTHER}, and put its text beside the card as LICENSE."
    )
