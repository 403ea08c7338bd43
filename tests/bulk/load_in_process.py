"""Run a load in a process of its own, to be killed: ``python load_in_process.py URLS_AS_JSON FILE``."""

import json
import sys

from tests.bulk.bulk_tools import Shop

if __name__ == "__main__":
    shop = Shop(json.loads(sys.argv[1]))
    print(shop.load("item", sys.argv[2], batch_bytes=2000).rows)
    shop.close()
