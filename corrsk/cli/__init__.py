"""Command line interface `corrsk`, which requires the extra `cli`."""

from __future__ import annotations

import sys

from corrsk._utils.extras import require


def main() -> None:
    """Run the `corrsk` command."""
    try:
        require("typer", "rich", extra="cli", purpose="the corrsk command")
    except ImportError as error:
        sys.exit(f"Error: {error}")
    from corrsk.cli.app import app

    sys.exit(app())
