"""The toy runs of the report's tests serve here, too."""

from tests.search.report.conftest import run_toy as run_toy
