"""Programs that tests run: ``--doctest-modules`` would import them."""

collect_ignore_glob = ["*.py"]
