"""Run a copy in a process of its own, to be killed: ``python -m tests.jobs.copy_in_process URLS run|resume``."""

import json
import os
import sys

from shardpool import Router
from tests.jobs.job_tools import OPTIONS, config_of, replace, start

if __name__ == "__main__":
    with Router(config_of(json.loads(sys.argv[1])), listen=False) as router:
        options = replace(OPTIONS, workers=int(os.environ.get("WORKERS", "4")))
        start(router, resume=sys.argv[2] == "resume", options=options)
