import socket

import pytest

from tire_pipeline.errors import InputError, ServiceUnavailable
from tire_pipeline.stores.tracking import Tracking


@pytest.mark.parametrize("url", ["localhost:5000", "mlruns", "sqlite:///mlflow.db"])
def test_an_address_that_mlflow_would_take_for_a_folder_is_refused(url: str) -> None:
    with pytest.raises(InputError, match=r"TIRE_MLFLOW_URL is .*, but must be an address such as http://"):
        Tracking(url, project="p")


def test_a_server_that_does_not_answer_is_said_with_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        tracking = Tracking(url, project="p")
        for use in (tracking.versions, lambda: tracking.by_alias("production"), lambda: tracking.run_url("r")):
            with pytest.raises(ServiceUnavailable, match=f"MLflow at {url} did not answer: .*TIRE_MLFLOW_URL"):
                use()
