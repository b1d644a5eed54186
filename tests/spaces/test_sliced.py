"""Copies of networks."""

from __future__ import annotations

import torch

from spaces.model import Detector
from spaces.sliced import copied


def test_a_copy_computes_the_same_and_shares_nothing(model: tuple[Detector, object]) -> None:
    net = model[0].net
    before = {name: x.clone() for name, x in net.state_dict().items()}
    new = copied(net)
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = net(x)
        assert torch.equal(new(x), expected)
    names = [name for name, _ in net.named_modules()]
    assert [name for name, _ in new.named_modules()] == names  # shared modules are shared again
    assert not {id(m) for m in new.modules()} & {id(m) for m in net.modules()}
    assert new.yaml == net.yaml
    for tensor in (*new.parameters(), *new.buffers()):
        tensor.detach().fill_(7)
    new.get_submodule(names[3]).register_forward_pre_hook(lambda *_: 1 / 0)
    assert all(torch.equal(x, before[name]) for name, x in net.state_dict().items())
    with torch.no_grad():
        assert torch.equal(net(x), expected)
