import socket

import pytest

from tire_pipeline.errors import InputError, ServiceUnavailable
from tire_pipeline.stores.ledger import Ledger, migrate


@pytest.mark.parametrize("url", ["nonsense", "postgres://ann:geheim@db/tire"])
def test_an_address_that_is_none_is_refused_without_its_password(url: str) -> None:
    for use in (Ledger, migrate):
        with pytest.raises(InputError, match=r"TIRE_LEDGER_URL is no address .* postgresql\+psycopg2://") as refused:
            use(url)
        assert "geheim" not in str(refused.value)


def test_a_database_that_does_not_answer_is_said_without_its_password() -> None:
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        url = f"postgresql+psycopg2://ann:geheim@127.0.0.1:{taken.getsockname()[1]}/tire"
        for use in (Ledger(url).newest_snapshot, lambda: migrate(url)):
            with pytest.raises(ServiceUnavailable, match=r"did not answer: .*refused.*TIRE_LEDGER_URL") as refused:
                use()
            assert "geheim" not in str(refused.value)
