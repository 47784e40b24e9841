"""`python -m nlp_adan SCRIPT.py --optim adan ...` runs an unmodified Hugging Face script with Adan registered."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

from nlp_adan.errors import UserError, exit_on_user_error


def main() -> None:
    """Run the script named by the first argument as `__main__`, with the arguments after it."""
    with exit_on_user_error():
        if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
            raise UserError("usage: python -m nlp_adan SCRIPT.py [the script's own options, such as --optim adan]")
        script = Path(sys.argv[1])
        if not script.is_file():
            raise UserError(f"script {sys.argv[1]!r} does not exist: name a Python file")
        sys.argv = sys.argv[1:]
        sys.path[0] = str(script.resolve().parent)
        runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    main()
