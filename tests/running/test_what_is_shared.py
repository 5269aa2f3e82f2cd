"""What a rank beside the first computes is what the first asks for."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from optsteps.cli.common import CONFIG_DIR
from optsteps.running.launch import only_rank
from optsteps.running.run import run
from optsteps.running.share import compute
from optsteps.storage.store import ShardStore

TINY = ["model=mixture", "metric=teacher", "logger=none", "runner=cpu", "runner.threads=1", "teacher.steps=12"]
TINY += ["search.samples=8", "test.samples=36", "test.oracle=0", "rivals=none"]


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param(["solver=auto", "steps=[3]", "method.refine=false"], id="several solvers", marks=pytest.mark.slow),
        pytest.param(["method=oss", "method.start=free", "steps=[2,3]"], id="a free start"),
    ],
)
@pytest.mark.usefixtures("blank_pictures")
def test_the_first_rank_finds_all_that_it_compares(
    overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        config = compose("config", [*TINY, f"store.folder={tmp_path / 'store'}", *overrides])
    compute(config, "main", only_rank(config.runner))
    computed = list[str]()
    put = ShardStore.put

    def counting(self: ShardStore, *arguments: object) -> None:
        computed.append(str(arguments[0]))
        put(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(ShardStore, "put", counting)
    run(config, tmp_path / "run", "main", "optsteps", only_rank(config.runner))
    assert not computed
