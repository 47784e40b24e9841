"""Runs both Hugging Face scripts of examples/ in one process, each with these words and a folder of its own.

The imports take longer than the training: two scripts in one process are half the time of a test. Like the scripts it
knows nothing of Adan.
"""

import runpy
import sys
from pathlib import Path

SCRIPTS = ("hf_language_model", "hf_vit_mae")

if __name__ == "__main__":
    *words, folder = sys.argv[1:]  # the folder is the last word, the value of --output_dir
    for script in SCRIPTS:
        sys.argv = [script, *words, f"{folder}/{script}"]
        runpy.run_path(str(Path(__file__).parents[2] / "examples" / f"{script}.py"), run_name="__main__")
