"""``python -m fixshape``, as torchrun and a machine without the script on its path start it."""

from fixshape.cli.__main__ import main

if __name__ == "__main__":
    raise SystemExit(main())
