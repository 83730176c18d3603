from typing import Any

from net import Net


def test_budget(dws_budget: Any) -> None:
    dws_budget(Net(), (1, 3, 32, 32), params="30k", macs="3M")
