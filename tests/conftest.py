"""What the tests share: where the real images are, and one thread per process on a busy machine."""

import os
from pathlib import Path

import pytest

# A build of torch with a vendor's plug-in installed loads it at import and fails where that vendor's driver is missing.
os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real images and sizes that ``FIXSHAPE_DATA`` names."""
    folder = os.environ.get("FIXSHAPE_DATA")
    if not folder:
        pytest.skip("FIXSHAPE_DATA is not set: it names the folder of real images and sizes")
    return Path(folder)
