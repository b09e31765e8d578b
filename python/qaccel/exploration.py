"""One quantized network on many machines: what each takes of time, traffic and silicon, and which are worth building."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .dialect.quantized import QuantizedModel
from .errors import QaccelError, UserError, boundary
from .machine.hw import HwConfig
from .npu.extents import ALIGN_BYTES
from .options.sweep import swept_configs
from .parallel import Job, Lost, Workers, spread
from .pipeline import price_report
from .report.exploration import OBJECTIVES, Row, pareto_front, write_exploration
from .report.record.schema import Report
from .stages import progress_bar

PARTS = 64  # of SRAM, that a search for the least of it tells apart


@dataclass(frozen=True, eq=False)
class Exploration:
    """``rows``: one for each config, in the order of the sweep: what was swept by name, then ``report.exploration.OBJECTIVES`` and
    ``reason``, empty unless the network does not compile there. ``reports``: the `Report` of each, None where there is none.
    ``least_sram_bytes``: what `least_sram` found, if that was asked for.

    Example:
        >>> found = qaccel.explore("model.onnx", {"rows": [8, 16]}, calibration_data="data.npz")
        >>> [row["rows"] for row in found.rows], len(found.reports)
        ([8, 16], 2)
    """

    model: str
    base: HwConfig
    configs: tuple[HwConfig, ...]
    rows: tuple[Row, ...]
    reports: tuple[Report | None, ...]
    least_sram_bytes: int | None = None

    def __repr__(self) -> str:
        return f"<Exploration of '{self.model[:60]}': {len(self.rows)} configs, {len(self.front)} on the Pareto front>"

    @property
    def front(self) -> tuple[int, ...]:
        """Numbers of the rows that no other one beats in all of OBJECTIVES."""
        return pareto_front(self.rows)

    def write(self, folder: str | Path) -> Path:
        """Write explore.csv, explore.json and explore.html, all or none.

        Args:
            folder: made where it does not exist.

        Returns:
            The folder.

        Raises:
            UserError: it cannot be written.
        """
        return write_exploration(folder, f"{self.model} on machines like {self.base.name}", self.rows)


def explore_quantized(
    name: str,
    quantized: QuantizedModel,
    io_dtype: str,
    base: HwConfig,
    sweep: Mapping[str, Sequence[int]],
    workers: Workers,
    show: bool = False,
) -> Exploration:
    """Compile a network that is quantized already for every combination of ``sweep``, and count its cycles in the simulator.

    A machine for which it does not compile, or over which a process dies, is a row with its reason. ``show``: a bar on a terminal.
    Raises UserError for a value that no machine may have.
    """
    configs = swept_configs(base, sweep)
    # What only the QDQ writer and the passes read stays here.
    slim = replace(quantized, real={}, sample={}, model=replace(quantized.model, onnx_model=None))
    job = Job("explore", _prepare, _price, (name, slim, io_dtype))
    found: list[Any] = [None] * len(configs)
    with progress_bar("exploring", len(configs), show) as advance:
        for number, result in spread(job, configs, workers):
            found[number] = result
            advance(1)
    reports, rows = [], []
    for config, result in zip(configs, found, strict=True):
        report = result if isinstance(result, Report) else None
        reason = result.reason if isinstance(result, Lost) else result if isinstance(result, str) else ""
        swept = {parameter: _value(config, parameter) for parameter in sweep}
        rows.append(swept | _objectives(config, report) | {"reason": reason})
        reports.append(report)
    return Exploration(name, base, tuple(configs), tuple(rows), tuple(reports))


def least_sram(
    name: str, quantized: QuantizedModel, io_dtype: str, base: HwConfig, percent: float, workers: Workers,
    show: bool = False,
) -> Exploration:  # fmt: skip
    """The smallest SRAM, in parts of `PARTS` of that of ``base``, with which the network takes so many per cent more cycles at
    most: ``least_sram_bytes``, and a row for each size that was tried, as `explore_quantized`.

    It is found by halving: cycles need not rise with every part that is taken away. Raises UserError where the network does not
    compile for ``base``.
    """
    grain = max(base.sram_bytes // PARTS // ALIGN_BYTES, 1) * ALIGN_BYTES  # as every block of SRAM has
    tried: dict[int, tuple[HwConfig, Row, Report | None]] = {}

    def cycles_with(sizes: Sequence[int]) -> list[int | None]:
        new = [size for size in sizes if size not in tried]
        if new:
            found = explore_quantized(name, quantized, io_dtype, base, {"sram_bytes": new}, workers, show)
            tried.update(zip(new, zip(found.configs, found.rows, found.reports, strict=True), strict=True))
        return [tried[size][1]["cycles"] for size in sizes]

    (now,) = cycles_with([base.sram_bytes])
    if now is None:
        raise UserError(f"--least-sram: {name} does not compile for {base.name}: {tried[base.sram_bytes][1]['reason']}")
    few, enough = 0, -(-base.sram_bytes // grain)
    while enough - few > 1:
        parts = (few + enough) // 2
        (cycles,) = cycles_with([parts * grain])
        few, enough = (few, parts) if cycles is not None and cycles <= now * (1 + percent / 100) else (parts, enough)
    configs, rows, reports = zip(*(tried[size] for size in sorted(tried)), strict=True)
    return Exploration(name, base, configs, rows, reports, min(enough * grain, base.sram_bytes))


def _prepare(payload: tuple[str, QuantizedModel, str]) -> tuple[str, QuantizedModel, str]:
    return payload


def _price(prepared: tuple[str, QuantizedModel, str], hw: HwConfig) -> Report | str:
    """The report of the network on one machine, or why there is none."""
    name, quantized, io_dtype = prepared
    try:
        with boundary("explore"):
            return price_report(name, quantized, io_dtype, hw)
    except QaccelError as error:
        return str(error)


def _value(config: HwConfig, parameter: str) -> int:
    value: Any = config
    for part in parameter.split("."):
        value = getattr(value, part)
    return int(value)


def _objectives(config: HwConfig, report: Report | None) -> dict[str, int | None]:
    counted: dict[str, int | None] = dict.fromkeys(OBJECTIVES)
    counted |= {"multipliers": config.rows * config.cols, "sram_bytes": config.sram_bytes}
    if report is not None:
        counted |= {
            "cycles": report.cycles,
            "dram_bytes": sum(report.dram_bytes.values()),
            "cpu_macs": sum(entry.macs for entry in report.fallback),
        }
    return counted
