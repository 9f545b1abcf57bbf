"""Private parts of PyTorch are touched in one module only."""

from __future__ import annotations

import re
from pathlib import Path

import fullgrad

SOURCE = Path(fullgrad.__file__).parent
PRIVATE = re.compile(
    r"torch(\.\w+)*\._[a-z]\w*|torch\._C\b|from torch[\w.]* import .*\b_[a-zA-Z]|BackwardCFunction"
    r"|\._(schema|base|is_view|cdata|C|saved_\w+|call_impl|orig_mod|compiled_call_impl|opname"
    r"|overloadname|namespace)\b"
)


def private_accesses(text: str) -> list[str]:
    return [m[0] for m in PRIVATE.finditer(text)]


def test_only_compat_touches_private_parts() -> None:
    found = {
        str(path.relative_to(SOURCE)): accesses
        for path in SOURCE.rglob("*.py")
        if (accesses := private_accesses(path.read_text(encoding="utf-8")))
    }
    assert len(found.pop("_compat.py")) > 10
    # The message that names the attribute which autograd keeps, and names of submodules.
    allowed = {"operations/registry.py": ["._saved_self"], "engine/module_path.py": ["._orig_mod"]}
    assert found == allowed
