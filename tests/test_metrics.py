"""Numbers that several learners log."""

from __future__ import annotations

import math
import warnings

import pytest
import torch

from rlkit_core.builtin.metrics import explained_variance, mean_metrics


def test_explained_variance() -> None:
    """1 - Var(A) / Var(G), of targets G and advantages A = G - V in one unit."""
    G = torch.tensor([1.0, 2.0, 4.0])
    assert explained_variance(G, torch.zeros(3)) == 1.0
    assert explained_variance(G, G) == 0.0
    assert explained_variance(G, 2 * G) == pytest.approx(-3.0)
    assert explained_variance(G, G - 0.5 * G) == pytest.approx(0.75)
    assert explained_variance(G, torch.full((3,), 7.0)) == 1.0  # a value that is off by the same everywhere


def test_explained_variance_of_what_does_not_vary_is_0() -> None:
    G = torch.tensor([1.0, 2.0, 4.0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert explained_variance(torch.ones(3), G) == 0.0
        assert explained_variance(torch.ones(1), torch.ones(1)) == 0.0
        assert explained_variance(torch.ones(0), torch.ones(0)) == 0.0


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e6])
def test_explained_variance_has_no_unit(scale: float) -> None:
    G, V = torch.randn(2, 50, generator=torch.Generator().manual_seed(0))
    expected = 1 - float((G - V).var() / G.var())
    assert explained_variance(scale * G + 3 * scale, scale * (G - V)) == pytest.approx(expected, rel=1e-3)


def test_means_of_metrics() -> None:
    """Tensors and numbers, each metric over the steps that have it."""
    steps = [
        {"loss": torch.tensor(1.0), "rate": 0.5, "norm": 3},
        {"loss": torch.tensor(2.0), "rate": 0.25, "actor": torch.tensor(-4.0)},
        {"loss": torch.tensor(6.0), "rate": 0.0, "actor": torch.tensor(-6.0)},
    ]
    means = mean_metrics(steps)
    assert means == {"loss": 3.0, "rate": 0.25, "norm": 3.0, "actor": -5.0}
    assert list(means) == ["loss", "rate", "norm", "actor"]
    assert all(type(mean) is float for mean in means.values())


def test_means_of_tensors_and_numbers_under_one_name() -> None:
    assert mean_metrics([{"x": 1.0}, {"x": torch.tensor(2.0)}, {"x": torch.tensor(6.0)}]) == {"x": 3.0}
    assert mean_metrics([{"x": torch.tensor(1)}, {"x": torch.tensor(2.0, dtype=torch.float64)}]) == {"x": 1.5}


def test_means_of_nothing() -> None:
    assert mean_metrics([]) == {}
    assert mean_metrics([{}, {}]) == {}


def test_means_are_summed_in_double() -> None:
    """A million times a tenth, in float32, would be off in the fourth digit."""
    tenth = torch.tensor(0.1)
    assert mean_metrics([{"x": tenth}] * 20_000)["x"] == pytest.approx(float(tenth), rel=1e-12)
    big = [{"x": torch.tensor(1e8)}, {"x": torch.tensor(1.0)}, {"x": torch.tensor(-1e8)}]
    assert mean_metrics(big)["x"] == pytest.approx(1 / 3)


def test_what_is_not_finite_is_not_hidden() -> None:
    assert math.isnan(mean_metrics([{"x": 1.0}, {"x": torch.tensor(float("nan"))}])["x"])
    assert mean_metrics([{"x": math.inf}, {"x": 1.0}])["x"] == math.inf
