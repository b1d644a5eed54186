"""python -m paretrim_worker."""

import sys

from paretrim_worker.cli import main

sys.exit(main())
