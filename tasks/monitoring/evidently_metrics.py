"""Numbers of ours as Evidently metrics, so that its page, its snapshots and its dashboard show those of the verdict.

Evidently's own are computed on the sample it is given and know no weights; these were measured over all rows.
"""

from __future__ import annotations

from typing import Any

from evidently.core.metric_types import (
    MetricConfig,
    MetricTestResult,
    SingleValue,
    SingleValueCalculation,
    SingleValueMetric,
)
from evidently.legacy.renderers.html_widgets import header_text, plotly_data, table_data
from evidently.legacy.tests.base_test import TestStatus


class Reading(SingleValueMetric):  # type: ignore[misc]  # Evidently has no types here
    """One number of a check, of a column or of the whole; with a test where `passed` says how it went."""

    name: str
    number: float
    column: str | None = None
    passed: bool | None = None
    said: str = ""  # the test, in words


class ReadingCalculation(SingleValueCalculation[Reading]):  # type: ignore[misc]
    """Nothing is computed. Drawn is nothing either: a section shows many readings in one table."""

    def calculate(self, *_: Any) -> SingleValue:
        reading = self.metric
        result = self.result(reading.number)
        result.widget = []
        if reading.passed is not None:
            status = TestStatus.SUCCESS if reading.passed else TestStatus.FAIL
            result.set_tests([MetricTestResult(id="churn", name=self.display_name(), description=reading.said,
                                               metric_config=self.to_metric_config(), test_config={}, status=status)])
        return result

    def display_name(self) -> str:
        return f"{self.metric.name} of {self.metric.column}" if self.metric.column else str(self.metric.name)

    def to_metric_config(self) -> MetricConfig:
        """By name and column alone: the dashboard takes two points for one line where all of this is the same."""
        config = super().to_metric_config()
        known = {name: value for name, value in config.params.items() if name in ("type", "name", "column")}
        return MetricConfig(metric_id=config.metric_id, params=known)


class Section(SingleValueMetric):  # type: ignore[misc]
    """A headline with what is to be said, and below it a table, a plot or neither. Its value is the table's rows."""

    title: str
    said: str = ""
    header: list[str] = []  # noqa: RUF012  # a field of a pydantic model, copied for each
    cells: list[list[str]] = []  # noqa: RUF012
    plot: dict[str, Any] | None = None  # `data` and `layout` of Plotly


class SectionCalculation(SingleValueCalculation[Section]):  # type: ignore[misc]
    """Draws what it is given."""

    def calculate(self, *_: Any) -> SingleValue:
        section = self.metric
        result = self.result(len(section.cells))
        result.widget = [header_text(label=section.said, title=section.title)]
        if section.cells:
            result.widget.append(table_data(column_names=section.header, data=section.cells))
        if section.plot is not None:
            result.widget.append(plotly_data(title="", data=section.plot["data"], layout=section.plot["layout"]))
        return result

    def display_name(self) -> str:
        return str(self.metric.title)

    def to_metric_config(self) -> MetricConfig:
        """By title: the table stands in the snapshot once, as drawn."""
        config = super().to_metric_config()
        known = {name: value for name, value in config.params.items() if name in ("type", "title")}
        return MetricConfig(metric_id=config.metric_id, params=known)
