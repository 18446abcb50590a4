"""Regions: parts of the input space in which the reliability of a source is estimated on its own.

METHODS.md section 8. The regions also say how far a sample lies in the scope of a specialist.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Generic, Literal, TypeVar

import torch
from torch import Tensor

from cosup.assignment.gate import Examples, Gate, LinearGate, fit_gate, standardisation
from cosup.assignment.parts import Part, Parts
from cosup.errors import UserError
from cosup.evidence import Batches, Evidence, Scopes

T = TypeVar("T")

WEIGHT_DECAY, STEPS = 0.1, 40
"""Penalty and L-BFGS iterations of the classifier of the training inputs (as in `gate`)."""


@dataclass(frozen=True)
class Regions:
    """R regions, and which of T sources speak in each.

    members: [R, T] bool, whether the scope of a source includes a region. known: [T] bool, whether
    the regions tell where the scope of a source lies; the others are members everywhere. gate:
    gives the regions of a sample by its features; None: there is one, or `domains` are the regions.
    """

    members: Tensor
    known: Tensor
    gate: LinearGate | None = None
    domains: bool = False

    @staticmethod
    def one(scopes: Scopes) -> "Regions":
        """Return one region for all samples; it tells nothing of restricted scopes."""
        members = torch.ones(1, len(scopes), dtype=torch.bool)
        return Regions(members, ~scopes.restricted)

    def __len__(self) -> int:
        return len(self.members)

    def of(self, evidence: Evidence) -> Tensor:
        """Return the probability [n, R] that each sample lies in each region."""
        device = evidence.annotations.device
        if self.gate is not None:
            return self.gate.to(device)(_features(evidence)).softmax(1)
        if self.domains:
            if evidence.domains is None:
                raise UserError("assigner fused: no domains were given; use another regions")
            return torch.nn.functional.one_hot(evidence.domains, len(self)).float()
        return torch.ones(len(evidence), 1, device=device)

    def weights(self, regions: Tensor) -> Tensor:
        """Return how far [n, T] samples lie in each scope, from their regions [n, R]."""
        return regions @ self.members.to(regions)

    def names(self, scopes: Scopes) -> tuple[str, ...]:
        """Return a name for each region: its specialists, the number of its domain, or "all"."""
        if self.domains:
            return tuple(map(str, range(len(self))))
        special = self.known & ~self.members.all(0)
        found = []
        for row in self.members:
            inside = [scopes.names[t] for t in (row & special).nonzero()[:, 0].tolist()]
            found.append(" + ".join(inside) or ("all" if len(self) == 1 else "elsewhere"))
        return tuple(found)

    def tensors(self) -> dict[str, Tensor]:
        """Return its tensors by name, for `from_tensors`."""
        gate = {} if self.gate is None else self.gate.tensors()
        parts = {
            "members": self.members,
            "known": self.known,
            "domains": torch.tensor(self.domains),
        }
        return {**parts, **{f"gate_{name}": part for name, part in gate.items()}}

    @staticmethod
    def from_tensors(tensors: dict[str, Tensor]) -> "Regions":
        """Return the regions of these `tensors`."""
        gate = {
            name.removeprefix("gate_"): part
            for name, part in tensors.items()
            if name.startswith("gate_")
        }
        return Regions(
            tensors["members"],
            tensors["known"],
            LinearGate(**gate) if gate else None,
            bool(tensors["domains"]),
        )


def find_regions(
    kind: Literal["auto", "provenance", "domain", "learnt", "none"],
    parts: Parts,
    scopes: Scopes,
    provenance: tuple[Tensor, Tensor] | None,
    seed: int,
) -> Regions:
    """Return the regions of this kind (`FusedSettings.regions`).

    Raises `UserError` where features, provenance or domains are missing that the kind needs.
    """
    if kind == "domain":
        return _by_domain(scopes)
    if kind == "learnt":
        return _learnt(parts, scopes, seed)
    if kind == "provenance" and (provenance is None or not len(provenance[0])):
        raise UserError(
            "assigner fused: the teachers' training inputs were not given; use regions: none",
            key="regions",
            value="provenance",
        )
    first = next(iter(parts.batches), None)
    if kind == "none" or provenance is None or first is None or first.features is None:
        return Regions.one(scopes)
    return _by_provenance(provenance, scopes)


def _by_domain(scopes: Scopes) -> Regions:
    """Return the domains as regions; they do not tell where a scope of some classes lies."""
    return Regions(scopes.domains.T.clone(), scopes.classes.all(1), domains=True)


def _by_provenance(provenance: tuple[Tensor, Tensor], scopes: Scopes) -> Regions:
    """Return a region for each set of specialists that share training inputs.

    With scopes that do not overlap, this is a region per specialist. Training inputs of no
    specialist form a region of their own.
    """
    features, membership = provenance
    special = scopes.restricted & (membership.sum(0) > 0)
    if not bool(special.any()):
        return Regions.one(scopes)
    patterns, region = torch.unique(membership[:, special] > 0, dim=0, return_inverse=True)
    members = torch.ones(len(patterns), len(scopes), dtype=torch.bool)
    members[:, special] = patterns
    known = special | ~scopes.restricted
    if len(patterns) == 1:
        return Regions(members, known)
    inputs = features.to(torch.float32, copy=True)
    shift, scale = standardisation(inputs, wanted=True)
    start = LinearGate.zeros(inputs.shape[1], len(patterns), shift, scale)
    targets = torch.nn.functional.one_hot(region, len(patterns)).float()
    examples = Examples(inputs.sub_(shift).mul_(scale), targets, 1.0)
    return Regions(members, known, fit_gate(start, [examples], WEIGHT_DECAY, STEPS))


@dataclass(frozen=True)
class _Part:
    """Batches with the annotations of some of the sources."""

    batches: Iterable[Evidence]
    sources: Tensor

    def __iter__(self) -> Iterator[Evidence]:
        for evidence in self.batches:
            yield replace(evidence, annotations=evidence.annotations[:, self.sources])


@dataclass(frozen=True)
class OfSources(Generic[T]):
    """A function of parts, as one of parts with the annotations of all sources."""

    function: Part[T]
    sources: Tensor

    def __call__(self, batches: Iterable[Evidence], number: int) -> T:
        """Return the result of a part."""
        return self.function(_Part(batches, self.sources), number)


@dataclass(frozen=True)
class _SomeSources:
    """Parts with the annotations of some of the sources."""

    parts: Parts
    sources: Tensor

    @property
    def batches(self) -> Batches:
        """Return the evidence on all samples."""
        return _Part(self.parts.batches, self.sources)

    def each(self, function: Part[T]) -> Iterator[T]:
        """Yield the result of each part, in order."""
        return self.parts.each(OfSources(function, self.sources))


def _learnt(parts: Parts, scopes: Scopes, seed: int) -> Regions:
    """Return a region per specialist (per source if there are fewer than two), by `Gate`."""
    special = scopes.restricted
    routed = special if int(special.sum()) > 1 else torch.ones_like(special)
    sources = routed.nonzero()[:, 0]
    if len(sources) == 1:
        return Regions.one(scopes)
    gate = Gate()
    gate.fit_parts(_SomeSources(parts, sources), scopes.take(sources.tolist()), seed=seed)
    members = torch.ones(len(sources), len(scopes), dtype=torch.bool)
    for source in special.nonzero()[:, 0].tolist():
        members[:, source] = sources == source
    return Regions(members, torch.ones_like(special), gate.gate_)


def _features(evidence: Evidence) -> Tensor:
    if evidence.features is None:
        raise UserError("assigner fused: no features were given; its regions need the student's")
    return evidence.features
