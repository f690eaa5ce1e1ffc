"""`python -m benchmarks.serve --url`: its exit code says whether the calls went well."""

import pytest
from live_server import live_server

from benchmarks.serve import main

NOBODY = "ws://127.0.0.1:9/v1/stream"


@pytest.mark.parametrize(("runs", "code"), [(True, 0), (False, 1)])
def test_a_server_that_runs_already_is_measured_and_failed_calls_are_not_a_success(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], runs: bool, code: int
) -> None:
    with live_server(anonymizer="identity") as server:
        url = server.stream if runs else NOBODY
        monkeypatch.setattr("sys.argv", ["serve", "--url", url, "--sessions", "2", "--seconds", "1"])
        with pytest.raises(SystemExit) as ended:
            main()
    assert ended.value.code == code, capsys.readouterr().out
