"""`python main.py Train --dataset_version demo-v1 --model_type cnn …`, `Stage Loss`, `Produce Loss`, `ProductionInfo`.

The four commands by their first names, over the same steps as `tire`.
"""

from __future__ import annotations

import re
import sys

from tire_pipeline.cli import main


def translate(arguments: list[str]) -> list[str]:
    """`ProductionInfo` to `production-info` and `--model_type` to `--model-type`; values stay as they are."""
    if not arguments:
        return ["--help"]
    command, *rest = arguments
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", command).lower()
    return [name, *(re.sub(r"^--[^=]*", lambda m: m.group().replace("_", "-"), a) for a in rest)]


if __name__ == "__main__":
    main(translate(sys.argv[1:]))
