from __future__ import annotations

import torch

from evaluators.demo import demo_dataset, demo_detector
from evaluators.influence import influential_positions, measure_outputs
from evaluators.reconstruct import reconstruct
from spaces.candidate import Candidate
from spaces.compress import compress, kept_channels
from spaces.groups import analyse
from spaces.saliency import rank

SIZE = 96


def test_positions_are_distinct_and_half_of_them_where_the_energy_is() -> None:
    energy = torch.zeros(2, 1000)
    energy[0, :50] = 1.0
    chosen = influential_positions(energy, 90, torch.Generator().manual_seed(0))
    assert chosen.shape == (2, 90)
    assert len(chosen[0].unique()) == 90
    assert 25 < int((chosen[0] < 50).sum()) < 65
    assert int((chosen[1] < 50).sum()) < 15  # an image without energy: everywhere alike
    everything = influential_positions(energy, 2000, torch.Generator())
    assert torch.equal(everything[1], torch.arange(1000))


def test_samples_are_the_dense_outputs_and_serve_the_reconstruction() -> None:
    detector = demo_detector()
    network = analyse(detector, SIZE)
    images = demo_dataset("train", 4).squares(SIZE).float() / 255
    sampled = measure_outputs(detector.net, network, images)
    name = "model.3.conv"
    seen: list[torch.Tensor] = []
    conv = detector.net.get_submodule(name)
    with torch.no_grad(), conv.register_forward_hook(lambda _, __, y: seen.append(y)):
        detector.net(images)
    image, place = 2, 7
    position = sampled.positions[name][image, place]
    row = image * sampled.positions[name].shape[1] + place
    expected = seen[0][image].flatten(1)[:, position]
    torch.testing.assert_close(sampled.outputs[name][row], expected, rtol=1e-4, atol=1e-4)

    candidate = Candidate(SIZE, tuple((g.name, int(g.size * 0.9)) for g in network.groups))
    ranking = rank(detector, network)
    sliced = compress(detector, network, candidate, ranking).net
    better = compress(detector, network, candidate, ranking).net
    kept = kept_channels(network, candidate, ranking)
    reconstruct(better, sampled, network, kept, {})
    with torch.no_grad():
        dense, raw, now = (net(images)[:, 4:] for net in (detector.net, sliced, better))
    assert (now - dense).square().sum() < 0.5 * (raw - dense).square().sum()
