#!/usr/bin/env python3
"""``fixshape audit`` as a script, from a checkout that need not be installed: python tools/op_audit.py train.py -- --lr 0.01"""

import sys
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parent.parent))

from fixshape.cli.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["audit", *sys.argv[1:]]))
