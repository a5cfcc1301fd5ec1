"""Read before anything imports torch: see `cookbook_plugin_local.register_backends`. Fewer spins than
there, since tests run beside others.
"""

import os

os.environ.setdefault("GOMP_SPINCOUNT", "1000")
