"""The networks of the measured rows: layer tables in `measurements/networks.csv`, and probes.

The table is written by `python -m benchmarks.networks`; each network is stored once, at the input
size it was noted at, and scaled to others.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path

from hw_models.errors import InputError
from hw_models.probes import probe
from hw_models.workload import ConvShape, OpKind, OtherOp, Workload

MEASUREMENTS = Path(__file__).parent / "measurements"
COLUMNS = (
    "network", "op", "in_channels", "out_channels", "kernel_h", "kernel_w", "stride_h", "stride_w",
    "groups", "siblings", "in_h", "in_w", "out_h", "out_w",
)  # fmt: skip


def measured_network(
    name: str, rows: int, columns: int, *, batch: int = 1, bits: int = 16
) -> Workload:
    """Return a network of the table, or a probe, at an input size, a batch size and a precision.

    Raises:
        InputError: The table has no such network, and no probe has that name.
    """
    networks = _networks(MEASUREMENTS / "networks.csv")
    if name not in networks and (made := probe(name, rows, int8=bits == 8)) is not None:
        return replace(made.workload, batch=batch)
    if name not in networks:
        raise InputError(
            f"No layer table of network {name!r}.", f"There are: {', '.join(sorted(networks))}."
        )
    workload = at_precision(at_size(networks[name], rows, columns), bits)
    return replace(workload, batch=batch)


def at_size(workload: Workload, rows: int, columns: int) -> Workload:
    """Return a fully convolutional network at another input size.

    Single pixels stay; a map that was flattened to one column (attention) grows with the area.
    """
    _, old_rows, old_columns = workload.input_shape

    def scaled(height: int, width: int) -> tuple[int, int]:
        if height == width == 1:
            return 1, 1
        if width == 1:
            return -(-height * rows * columns // (old_rows * old_columns)), 1
        return -(-height * rows // old_rows), -(-width * columns // old_columns)

    def at(layer: ConvShape | OtherOp) -> ConvShape | OtherOp:
        out_h, out_w = scaled(layer.out_h, layer.out_w)
        if isinstance(layer, ConvShape):
            return replace(layer, out_h=out_h, out_w=out_w)
        in_h, in_w = scaled(layer.in_h, layer.in_w)
        return replace(layer, in_h=in_h, in_w=in_w, out_h=out_h, out_w=out_w)

    layers = tuple(at(layer) for layer in workload.layers)
    return replace(workload, layers=layers, input_shape=(workload.input_shape[0], rows, columns))


def at_precision(workload: Workload, bits: int) -> Workload:
    """Return a network with all weights and activations at the same bits."""
    return replace(
        workload,
        layers=tuple(
            replace(layer, weight_bits=bits, act_bits=bits)
            if isinstance(layer, ConvShape)
            else replace(layer, act_bits=bits)
            for layer in workload.layers
        ),
    )


def write_networks(path: Path, networks: Iterable[tuple[str, Workload]]) -> None:
    """Write layer tables: one `input` row a network, then its layers."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for name, workload in networks:
            channels, rows, columns = workload.input_shape
            writer.writerow((name, "input", channels, channels, 1, 1, 1, 1, 1, 1,
                             rows, columns, rows, columns))  # fmt: skip
            writer.writerows((name, *_row(layer)) for layer in workload.layers)


def _row(layer: ConvShape | OtherOp) -> tuple[str | int, ...]:
    channels = (layer.in_channels, layer.out_channels)
    if isinstance(layer, ConvShape):
        size = (layer.out_h, layer.out_w)
        return (
            "conv",
            *channels,
            *layer.kernel,
            *layer.stride,
            layer.groups,
            layer.siblings,
            *size,
            *size,
        )
    sizes = (layer.in_h, layer.in_w, layer.out_h, layer.out_w)
    return (layer.kind, *channels, 1, 1, 1, 1, 1, 1, *sizes)


@cache
def _networks(path: Path) -> dict[str, Workload]:
    layers: dict[str, list[ConvShape | OtherOp]] = {}
    inputs: dict[str, tuple[int, int, int]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            name, op = row["network"], row["op"]
            number = {column: int(row[column]) for column in COLUMNS[2:]}
            if op == "input":
                inputs[name] = (number["in_channels"], number["in_h"], number["in_w"])
                layers[name] = []
            else:
                layers[name].append(_layer(op, len(layers[name]), number))
    return {name: Workload(tuple(layers[name]), 1, shape) for name, shape in inputs.items()}


def _layer(op: str, index: int, number: dict[str, int]) -> ConvShape | OtherOp:
    name = f"{op}{index}"
    channels = (number["in_channels"], number["out_channels"])
    if op == "conv":
        kernel = (number["kernel_h"], number["kernel_w"])
        stride = (number["stride_h"], number["stride_w"])
        return ConvShape(
            name, *channels, kernel, stride, number["groups"], number["out_h"], number["out_w"],
            siblings=number["siblings"],
        )  # fmt: skip
    kind: OpKind = op  # type: ignore[assignment]  # written by us from an OpKind
    return OtherOp(
        name, kind, *channels, number["in_h"], number["in_w"], number["out_h"], number["out_w"]
    )
