"""Recurrent networks: LSTM and GRU above any other network."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

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
        """Features `[T * N, num_features]`, and the state after them."""
        T, N = starts.shape
        x = self.below(obs)
        going_on = ~starts[0].unsqueeze(1).to(x.device)
        state = tree_map(lambda leaf: leaf.to(x.device) * going_on, state)  # [N, hidden_size]
        if T == 1 or not starts[1:].any():
            y, state = self.layer(x.view(T, N, -1), tree_map(lambda leaf: leaf.unsqueeze(0), state))
            return y.flatten(0, 1), tree_map(lambda leaf: leaf.squeeze(0), state)
        # Parts of episodes are independent of each other: side by side they take as many steps as the longest has.
        cut = _cut(starts.cpu())
        rows, lanes = cut.rows.to(x.device), cut.lanes.to(x.device)
        goes_on = cut.goes_on.to(x.device).unsqueeze(1)
        first = tree_map(lambda leaf: (leaf[lanes] * goes_on).unsqueeze(0), state)
        packed, state = self.layer(PackedSequence(x[rows], cut.sizes), first)
        features = torch.zeros_like(packed.data).index_copy(0, rows, packed.data)
        return features, tree_map(lambda leaf: leaf.squeeze(0)[cut.last.to(leaf.device)], state)


class _Cut(NamedTuple):
    """Sequences of N environments, each cut where an episode starts: S pieces, from the longest to the shortest.

    Attributes:
        rows: `[T * N]`: numbers of the pieces' first rows, then of their second ones, and so on.
        sizes: how many those are, each time.
        lanes: `[S]`: which environment each piece is from.
        goes_on: `[S]` bool: it begins with the first row, and so from a state.
        last: `[N]`: the piece with which each environment ends.
    """

    rows: Tensor
    sizes: Tensor
    lanes: Tensor
    goes_on: Tensor
    last: Tensor


def _cut(starts: Tensor) -> _Cut:
    T, N = starts.shape
    begins = starts.clone()
    begins[0] = True
    lanes, begin = begins.T.nonzero().unbind(1)  # by environment, then by time
    end = torch.full_like(begin, T)
    goes_further = lanes[1:] == lanes[:-1]
    end[:-1][goes_further] = begin[1:][goes_further]
    order = (end - begin).argsort(descending=True, stable=True)
    lanes, begin, end = lanes[order], begin[order], end[order]
    steps = torch.arange(int(end[0] - begin[0])).unsqueeze(1)
    there = steps < end - begin  # [longest, S]
    rows = ((begin + steps) * N + lanes)[there]
    last = torch.empty(N, dtype=torch.int64)
    at_end = (end == T).nonzero().squeeze(1)
    last[lanes[at_end]] = at_end
    return _Cut(rows, there.sum(1), lanes, begin == 0, last)
