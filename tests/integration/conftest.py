"""For the fault tests: what was counted is printed, also where all went well."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.integration.harness import Count


@pytest.fixture
def report(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> Callable[[Count], None]:
    def report(count: Count) -> None:
        with capsys.disabled():
            print(
                f"\n{request.node.name}: {count.produced} produced, {len(count.lost)} lost, {count.skips} skipped, "
                f"{count.duplicates} duplicates, {count.restarts} restarts"
            )

    return report
