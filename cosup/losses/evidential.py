"""Evidential loss: the student's logits are evidence for a Dirichlet distribution of the class.

Cui et al., arXiv 2406.03199 (several weak teachers; code as in mlbio-epfl/raven, `rw2s/losses.py`),
after Sensoy et al., "Evidential deep learning to quantify classification uncertainty", arXiv
1806.01768; METHODS.md section 5.

    alpha = evidence(z) + 1,  S = sum_c alpha_c
    E(c) = log S - log alpha_c + progress * KL(Dir(alpha with alpha_c = 1) || Dir(1))
    L = (1 - gamma) sum_c p_teacher(c) E(c) + gamma E(argmax z)

The KL term takes away evidence for the other classes, more and more as the training goes on. The
first term is linear in the annotation: for the mixture of several teachers it is the sum of their
losses by their weights.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from cosup.losses.base import Loss, Metrics, answered
from cosup.settings.losses import EvidentialSettings

MOST_EVIDENCE = 1e6
"""Logits count up to this: beyond, float32 cannot tell the terms of the KL divergence apart."""


@dataclass
class Evidential(EvidentialSettings, Loss):
    """Minimise the expected evidential loss over the annotation, and that of the own class."""

    def __call__(self, logits: Tensor, targets: Tensor, progress: float) -> tuple[Tensor, Metrics]:
        """Return losses [..., B] of logits and targets [..., B, C]; 0 for a target row of zeros.

        Metrics: `uncertainty`, the mean of C / S, which is 1 without evidence.
        """
        if logits.dtype in (torch.float16, torch.bfloat16):
            logits = logits.float()
        targets = targets.to(logits.dtype)
        evidence = self._evidence(logits)
        losses = dirichlet_losses(evidence, progress)
        own = losses.gather(-1, logits.detach().argmax(-1, keepdim=True))[..., 0]
        answers = answered(targets)
        taught = (targets * losses).sum(-1)
        vague = logits.shape[-1] / (evidence.detach() + 1).sum(-1)
        return ((1 - self.gamma) * taught + self.gamma * own) * answers, {
            "uncertainty": (vague * answers).sum() / answers.sum().clamp_min(1)
        }

    def _evidence(self, logits: Tensor) -> Tensor:
        found = functional.relu(logits) if self.evidence == "relu" else functional.softplus(logits)
        return found.clamp_max(MOST_EVIDENCE)


def dirichlet_losses(evidence: Tensor, progress: float) -> Tensor:
    """Return E(c) [..., C] of every class c, from the evidence [..., C] for each of them.

    The KL divergence of the Dirichlet distribution whose alpha_c is set to 1 is made of sums over
    all classes less the term of c, so that all C of them cost no more than one.
    """
    alpha = evidence + 1
    total = alpha.sum(-1, keepdim=True)
    surprise = total.log() - alpha.log()
    if progress == 0:
        return surprise
    classes = alpha.new_tensor(float(alpha.shape[-1]))
    others = total - evidence  # the sum of alpha with alpha_c = 1
    log_gamma, digamma = torch.lgamma(alpha), torch.digamma(alpha)
    spread = evidence * digamma
    divergence = (
        torch.lgamma(others)
        - (log_gamma.sum(-1, keepdim=True) - log_gamma)
        - torch.lgamma(classes)
        + (spread.sum(-1, keepdim=True) - spread)
        - torch.digamma(others) * (others - classes)
    )
    return surprise + progress * divergence
