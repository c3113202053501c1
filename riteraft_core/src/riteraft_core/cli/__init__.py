"""The `riteraft` command; its parts need the extra `cli`, so they are imported only when it runs."""

from __future__ import annotations

import sys

__all__ = ["main"]

WRONG_CONFIG = 2


def main() -> None:
    """Run the command and exit: 0 all well, 1 the node died of an error, 2 wrong arguments or a wrong config."""
    try:
        from .app import app
    except ModuleNotFoundError as exc:
        if (exc.name or "").partition(".")[0] not in ("typer", "rich"):
            raise
        sys.stderr.write('The riteraft command needs its extra: pip install "riteraft-core[cli]"\n')
        raise SystemExit(WRONG_CONFIG) from None
    app()
