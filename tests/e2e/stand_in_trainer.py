"""A trainer that obeys the container's contract and only waits.

`spec` says for how long, with which code it ends, and whether it ignores SIGTERM.
"""

import json
import signal
import sys
import time
from pathlib import Path


def option(name: str) -> str:
    return sys.argv[sys.argv.index(name) + 1]


spec = json.loads(option("--spec"))
if spec["deaf"] == "True":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
ballast = b"x" * (int(spec.get("megabytes", "0")) * 2**20)
for second in range(int(spec["seconds"])):
    sys.stderr.write(f"second {second} of {spec['seconds']}\n")
    time.sleep(1)
if code := int(spec["code"]):
    sys.stderr.write("error the spec asked for it\n")
    sys.exit(code)
Path(option("--result")).write_text(json.dumps({"run_id": "stand-in", "seconds": int(spec["seconds"])}))
