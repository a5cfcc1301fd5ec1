"""Read before anything imports torch: see `TorchBackend.connect`."""

import os

os.environ.setdefault("GOMP_SPINCOUNT", "1000")
