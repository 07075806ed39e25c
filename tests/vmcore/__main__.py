"""Make the guests' dumps: what make_vmcores.sh runs once all is prepared."""

from __future__ import annotations

import sys

from tests.vmcore.guest import main

sys.exit(main())
