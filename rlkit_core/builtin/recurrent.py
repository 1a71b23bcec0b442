"""Recurrent networks: LSTM and GRU above any other network."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from rlkit_core.network import Network, RecurrentNetwork
from rlkit_core.rollout import Tree, tree_map


class Recurrent(RecurrentNetwork):
    """One layer of torch's LSTM or GRU, whose inputs are another network's features.

    Args:
        below: that network.
        layer: `nn.LSTM` or `nn.GRU`, one layer.
        init: `orthogonal` (each gate's weights, zero biases; an LSTM's forget gate starts with bias 1, that it
            remembers: Jozefowicz et al. 2015, "An empirical exploration of recurrent network architectures") or
            `default` (torch's).
    """

    def __init__(self, below: Network, layer: nn.LSTM | nn.GRU, init: str) -> None:
        super().__init__()
        self.below = below
        self.layer = layer
        self.num_features = self._size = layer.hidden_size
        self._has_cell = isinstance(layer, nn.LSTM)
        if init == "orthogonal":
            weights: Any = layer
            for name, parameter in layer.named_parameters():
                for gate in torch.chunk(parameter.data, 4 if self._has_cell else 3):
                    nn.init.zeros_(gate) if name.startswith("bias") else nn.init.orthogonal_(gate)
            if self._has_cell:  # gates are in the order input, forget, cell, output; two biases are added
                nn.init.ones_(weights.bias_ih_l0.data[self._size : 2 * self._size])

    def initial_state(self, num_envs: int) -> Tree:
        """Zeros, `[num_envs, hidden_size]`: the hidden state, and for the LSTM the cell's."""
        hidden = torch.zeros(num_envs, self._size, device=next(self.layer.parameters()).device)
        return (hidden, hidden.clone()) if self._has_cell else hidden

    def forward(self, obs: Tree, state: Tree, starts: Tensor) -> tuple[Tensor, Tree]:  # type: ignore[override]
        """Features `[T * N, num_features]`, and the state after them.

        torch's layer takes all rows up to the next start of an episode in one call.
        """
        T, N = starts.shape
        x = self.below(obs).view(T, N, -1)
        state = tree_map(lambda leaf: leaf.to(x.device).unsqueeze(0), state)  # [1, N, hidden_size], as torch has it
        begins = [0, *(starts[1:].any(1).nonzero().squeeze(1) + 1).tolist()] if T > 1 else [0]
        features: list[Tensor] = []
        for begin, end in pairwise([*begins, T]):
            going_on: Any = ~starts[begin].view(1, N, 1)
            state = tree_map(lambda leaf: leaf * going_on, state)  # noqa: B023 (used at once)
            y, state = self.layer(x[begin:end], state)
            features.append(y)
        rows = features[0] if len(features) == 1 else torch.cat(features)
        return rows.flatten(0, 1), tree_map(lambda leaf: leaf.squeeze(0), state)
