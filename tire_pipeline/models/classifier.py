"""A network as two parts, so that whoever trains it can freeze the one and keep what it says of an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tire_pipeline.imaging import Triple
from tire_pipeline.models.stages import After, first_part, run_until
from tire_pipeline.models.views import agree, lay

HIDDEN = 256
MLP_DROPOUT = 0.2
NORMS = (nn.modules.batchnorm._BatchNorm,)


@dataclass(frozen=True)
class Head:
    """`linear`, or `mlp`: LayerNorm, dropout, a hidden layer of 256, GELU, dropout, linear.

    `dropout` None is the architecture's own, and 0.2 for an `mlp`.
    """

    kind: str = "linear"
    dropout: float | None = None


class Classifier(nn.Module):
    """`backbone`: normalised images (B, 3, H, W) to pooled features (B, F); `head`: features to logits (B, K).

    `mean` and `std` say how an image's channels, 0 to 1, are normalised for it. With `fixed_norms` batch norm keeps the
    statistics that it came with while the rest is trained: those of a large set beat those of a few small batches.
    In evaluation mode an image is laid `views` ways and the answers' mean probabilities are the answer. The backbone's
    part up to the stage `frozen_until` (see `stages`) never learns.
    """

    def __init__(
        self,
        backbone: nn.Module,
        head: nn.Module,
        *,
        mean: Triple,
        std: Triple,
        fixed_norms: bool = False,
        views: int = 1,
        frozen_until: str = "",
    ) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head
        self.mean, self.std, self.fixed_norms, self.views = mean, std, fixed_norms, views
        self.frozen, self.frozen_until = False, frozen_until
        self.freeze(False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        views = 1 if self.training else self.views
        return agree([self.head(self.features(lay(x_BCHW, view))) for view in range(views)])

    def features(self, x_BCHW: Tensor) -> Tensor:
        """(B, F)."""
        features_BF: Tensor = self.backbone(x_BCHW)
        return features_BF

    @property
    def has_still_part(self) -> bool:
        return self.frozen or bool(self.frozen_until)

    def still(self, x_BCHW: Tensor) -> Tensor:
        """What the part that does not learn says of the images; it follows from them alone, in training too."""
        return self.features(x_BCHW) if self.frozen else run_until(self.backbone, self.frozen_until, x_BCHW)

    def learning(self) -> nn.Module:
        """The other part: what `still` gives to logits."""
        return self.head if self.frozen else After(self.backbone, self.frozen_until, self.head)

    def freeze(self, frozen: bool = True) -> None:
        """Whether only the head learns. What is frozen stays in evaluation mode: no dropout, no new statistics."""
        self.frozen = frozen
        self.backbone.requires_grad_(not frozen)
        for module in self._first_part():
            module.requires_grad_(False)
        self.train(self.training)

    def _first_part(self) -> list[nn.Module]:
        return first_part(self.backbone, self.frozen_until) if self.frozen_until else []

    def train(self, mode: bool = True) -> Classifier:
        super().train(mode)
        for module in self._first_part():
            module.eval()
        if self.frozen:
            self.backbone.eval()
        elif self.fixed_norms:
            for module in self.backbone.modules():
                if isinstance(module, NORMS):
                    module.eval()
        return self


class Combinations(nn.Module):
    """Logits of each label's values, side by side (B, V), to those of the combinations that are the classes (B, K).

    The sum of its values' logits is a combination's: the softmax over all of them is the product of the labels' own.
    """

    def __init__(self, membership_KV: Sequence[Sequence[bool]]) -> None:
        super().__init__()
        self.membership_VK: Tensor
        self.register_buffer("membership_VK", torch.tensor(membership_KV, dtype=torch.float32).T.contiguous())

    def forward(self, logits_BV: Tensor) -> Tensor:
        return logits_BV @ self.membership_VK


@dataclass(frozen=True)
class Parts:
    """A network without its last linear layer, which `head_name` named, and that layer's dropout."""

    backbone: nn.Module
    linear: nn.Linear
    dropout: float
    head_name: str


def take_apart(network: nn.Module) -> Parts:
    """Cut off the last linear layer, and the dropout right before it: in a frozen backbone it would be still."""
    name, linear = [(n, m) for n, m in network.named_modules() if isinstance(m, nn.Linear)][-1]
    parent_name, _, child = name.rpartition(".")
    parent, dropout = network.get_submodule(parent_name), 0.0
    setattr(parent, child, nn.Identity())
    if isinstance(parent, nn.Sequential) and isinstance(before := parent[int(child) - 1], nn.Dropout):
        dropout, parent[int(child) - 1] = before.p, nn.Identity()
    return Parts(network, linear, dropout, name)


def make_head(head: Head, linear: nn.Linear, *, dropout: float) -> nn.Module:
    """The head in place of `linear`, whose own dropout is `dropout`. A linear head is that very layer."""
    if head.kind == "linear":
        p = dropout if head.dropout is None else head.dropout
        return nn.Sequential(nn.Dropout(p), linear) if p else nn.Sequential(linear)
    p = MLP_DROPOUT if head.dropout is None else head.dropout
    return nn.Sequential(
        *(nn.LayerNorm(linear.in_features), nn.Dropout(p)),
        *(nn.Linear(linear.in_features, HIDDEN), nn.GELU(), nn.Dropout(p)),
        nn.Linear(HIDDEN, linear.out_features),
    )


def load_backbone(parts: Parts, state: dict[str, Tensor]) -> list[str]:
    """Put pretrained tensors into the backbone, as float32; the names of those that do not fit it, none if all do.

    Everything the backbone has must be there with its shape, and nothing more but the old head's.
    """
    own = parts.backbone.state_dict()
    optional = {k for k in own if k.endswith("num_batches_tracked")}
    lacking = [k for k in own if k not in state and k not in optional]
    other_shape = [k for k in own if k in state and state[k].shape != own[k].shape]
    surplus = [k for k in state if k not in own and not k.startswith(f"{parts.head_name}.")]
    if not (problems := lacking + other_shape + surplus):
        parts.backbone.load_state_dict({k: state.get(k, own[k]) for k in own})
    return problems
