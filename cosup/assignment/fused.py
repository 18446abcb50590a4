"""The posterior of the true class from all sources at once: teachers, annotators and the student.

    log q(c | x) = log p(c) + sum over groups of the log-likelihood of their answers
                   + b_s log p_s(c | x)

Soft sources count by their log-probabilities, weighted by how far the sample lies in their scope
and by an exponent; hard ones by a confusion matrix for each region (Dawid and Skene, 1979); the
student by its cross-fitted probabilities to a power. All of it is learned by EM, without true
labels. Sources that err together count as one. METHODS.md section 8.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cosup.assignment.answers import CACHED, Answers, Reader, Reading, Survey
from cosup.assignment.base import SummingAssigner, available
from cosup.assignment.em import by_region, converge, count_hard, separate_regions
from cosup.assignment.exponents import fit_exponent
from cosup.assignment.grouping import find_groups, join_copies
from cosup.assignment.likelihood import (
    Groups,
    Model,
    combine,
    group_evidence,
    shares,
    shrink_into,
    vote,
)
from cosup.assignment.parts import Parts, Sums, places_drawn, total_of
from cosup.assignment.regions import Regions, find_regions
from cosup.errors import UserError
from cosup.evidence import Assigned, Evidence, Scopes
from cosup.seeds import torch_generator
from cosup.settings.assigners import FusedSettings

TURNS = 3
"""Times that each exponent is fitted anew, given the others."""
REFITS = (0, 3, 7)
"""Iterations before which exponents and groups are fitted anew."""
FEWEST_SAMPLES = 500
"""Least number of samples for exponents and groups, where sources and classes are so many that the
evidence of `max_samples` would not fit into memory."""


@dataclass(frozen=True)
class Sources:
    """The S sources of a fit: the T teachers of a level and, if it is one, the student.

    names: [S]; the student is "student". regions: [R], names of the specialists that speak in a
    region, joined by " + ", numbers of domains, or "all". soft: [S], read by probabilities. groups:
    the teachers that err together.
    """

    names: tuple[str, ...]
    regions: tuple[str, ...]
    soft: tuple[bool, ...]
    groups: Groups


@dataclass
class Fused(FusedSettings, SummingAssigner):
    """Assign the posterior of the true class, and tell which sources speak for it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.model_: Model | None = None
        """What is learned of the sources."""

    def fit_parts(
        self,
        parts: Parts,
        scopes: Scopes,
        *,
        seed: int = 0,
        provenance: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        """Fit by EM from the mean vote of the sources, by sums over the parts.

        Raises `UserError` without samples, and without what the regions need.
        """
        survey = Survey.of(parts)
        if survey is None:
            raise UserError("assigner fused: there is no sample to learn from")
        regions = find_regions(self.regions, parts, scopes, provenance, seed)
        reader = survey.reader(regions, scopes, self.student)
        reading = Reading(parts, reader, survey.samples, survey.classes)
        sources, classes = len(scopes), survey.classes
        most = min(self.max_samples, max(FEWEST_SAMPLES, CACHED // (sources * classes)))
        drawn = places_drawn(survey.samples, most, torch_generator(seed, "fused", "samples"))
        panel = reading.some(drawn, survey.sizes)
        hard = int((~reader.soft).sum())
        self.model_ = Model(
            reader,
            torch.zeros(hard, classes, separate_regions(hard, len(regions), classes), classes),
            torch.full((classes,), 1 / classes),
            torch.ones(sources + 1),
            self._first_groups(reader, panel),
        )
        self._sweep(reading, start=True)
        iteration, before = 0, -torch.inf

        def step() -> float:
            nonlocal iteration, before
            if iteration in REFITS:
                self._refit(panel, iteration > 0)
                before = -torch.inf
            likelihood = self._sweep(reading)
            gain, before = likelihood - before, likelihood
            iteration += 1
            pending = self._changes() and iteration <= REFITS[-1]
            return torch.inf if pending else gain

        converge(step, self.iterations, self.tolerance)

    def weights(self, evidence: Evidence, scopes: Scopes) -> Tensor:
        """Return weights [N, T]: each source's part of the evidence for the most probable class.

        Sources that speak against it get 0; where none speaks for it, all that answer get the same.
        Raises `UserError` before `fit`.
        """
        return self.assign(evidence, scopes).weights

    def assign(self, evidence: Evidence, scopes: Scopes) -> Assigned:
        """Return the posterior [N, C] as the annotations (all zero where no source answers).

        nats: the log-likelihood of the winner, minus the log of the mean likelihood of the other
        classes, as far as it comes from each source. Raises `UserError` before `fit`.
        """
        model = self._fitted()
        answers = model.reader(evidence)
        likelihood = model.evidence(answers)
        joint = model.joint(answers, likelihood)
        winner = joint.argmax(1)
        spoken = available(evidence.annotations)
        nats = torch.zeros(len(evidence), len(scopes) + 1, device=joint.device)
        weights = model.scaled(answers)
        share = shares(likelihood, weights, model.groups, winner)
        for members in model.groups:
            index = list(members)
            found = margin(group_evidence(likelihood, weights, members), winner)
            nats[:, index] = share[:, index] * found[:, None]
        own = model.own(answers)
        if own is not None:
            nats[:, -1] = margin(own, winner)
        positive = nats[:, :-1].clamp_min(0) * spoken
        none = positive.sum(1, keepdim=True) <= 0
        positive = torch.where(none, spoken.to(positive), positive)
        heard = (answers.labels >= 0).any(1, keepdim=True)
        targets = joint.softmax(1) * heard
        return Assigned(
            positive / positive.sum(1, keepdim=True),
            targets,
            nats,
            targets.amax(1) if self.confidence_weight else None,
        )

    def posterior(self, evidence: Evidence) -> Tensor:
        """Return p(true class | all answers) [N, C]; raise `UserError` before `fit`."""
        model = self._fitted()
        return model.joint(model.reader(evidence)).softmax(1)

    def region_of(self, evidence: Evidence) -> Tensor:
        """Return the most probable region [N] of each sample; raise `UserError` before `fit`."""
        return self._fitted().reader.regions.of(evidence).argmax(1)

    def sources(self, scopes: Scopes) -> Sources:
        """Return what is learned of the sources; raise `UserError` before `fit`.

        With `posterior` and `region_of` it is also a diagnosis of rounds with another assigner: fit
        a `Fused` to their evidence.
        """
        model = self._fitted()
        count = len(scopes) + model.reader.student
        return Sources(
            (*scopes.names, "student")[:count],
            model.reader.regions.names(scopes),
            (*map(bool, model.reader.soft), True)[:count],
            model.groups,
        )

    def _fitted(self) -> Model:
        if self.model_ is None:
            raise UserError("assigner fused: call 'fit' or 'load_state_dict' first")
        return self.model_

    def _changes(self) -> bool:
        """Whether exponents or groups may still change."""
        model = self._fitted()
        several = len(model.prior) > 1 and len(model.exponents) > 2 and self.group_above < 1
        return several or model.reader.student or bool(model.reader.soft.any())

    def _sweep(self, reading: Reading, *, start: bool = False) -> float:
        """Run one E-step and M-step; return the mean log-likelihood before the M-step.

        At the start, the mean vote is the posterior.
        """
        model = self._fitted()
        found = total_of(reading.each(Sweep(model, start)))
        assert found is not None, "there are samples"
        rates, classes = model.log_rates, len(model.prior)
        strength = 5.0 * classes if self.strength is None else self.strength
        # In place: those of many classes and sources are large.
        shrink_into(rates, found.counts.view(-1, classes, rates.shape[2], classes), strength)
        self.model_ = replace(model, prior=(found.frequency / found.samples).float())
        return found.likelihood / found.samples

    def _first_groups(self, reader: Reader, panel: Answers) -> Groups:
        """Return the groups to start from: copies, and soft sources, models of the same images."""
        soft = tuple(reader.soft.nonzero()[:, 0].tolist()) if self.group_above < 1 else ()
        alone = [(source,) for source in range(len(reader.soft)) if source not in soft]
        groups = tuple(sorted([soft, *alone] if soft else alone))
        return join_copies(panel.labels, groups) if self.group_above < 1 else groups

    def _refit(self, panel: Answers, regroup: bool) -> None:
        """Fit the groups, then the exponents of the soft sources, then that of the student."""
        model = self._fitted()
        groups, evidence = model.groups, model.evidence(panel)
        if regroup and self.group_above < 1:
            student = model.own(panel)
            rest = model.first() if student is None else model.first() + student
            start = self._first_groups(model.reader, panel)
            groups = find_groups(panel, evidence, rest, start, self.group_above)
        exponents = self._exponents(panel, evidence, groups)
        self.model_ = replace(model, groups=groups, exponents=exponents)

    def _exponents(self, panel: Answers, evidence: Tensor, groups: Groups) -> Tensor:
        """Fit the exponents [T + 1] of the groups of soft sources and of the student.

        With the hard sources' likelihood L, the exponents maximise
        sum_x log sum_c softmax(sum of b log p)_c L_x(c), each in turn: probabilities that err
        together get less. Without hard sources, the student's is fitted to the soft ones.
        """
        model = self._fitted()
        exponents, every = torch.ones_like(model.exponents), torch.ones(len(panel))
        hard = tuple(group for group in groups if not bool(model.reader.soft[list(group)].all()))
        soft = tuple(group for group in groups if group not in hard)
        pool = {group: group_evidence(evidence, panel.weights, group) for group in soft}
        likelihood = combine(evidence, panel.weights, hard or soft)
        student = (len(exponents) - 1,)
        if not hard:
            pool = {}
        if panel.student is not None:
            pool[student] = panel.student
        for _ in range(TURNS if len(pool) > 1 else 1):
            for group in [group for group in pool if self.temperatures or group == student]:
                offset = torch.zeros_like(likelihood)
                for other in (key for key in pool if key != group):
                    offset += exponents[other[0]] * pool[other]
                exponents[list(group)] = fit_exponent(pool[group], likelihood, every, offset)
        return exponents

    def state_dict(self) -> dict[str, Tensor]:
        """Return what is learned; empty before `fit`."""
        if self.model_ is None:
            return {}
        model = self.model_
        group = torch.zeros(len(model.exponents) - 1, dtype=torch.int64)
        for number, members in enumerate(model.groups):
            group[list(members)] = number
        return {
            "log_rates": model.log_rates,
            "prior": model.prior,
            "exponents": model.exponents,
            "group": group,
            "soft": model.reader.soft,
            "student": torch.tensor(model.reader.student),
            **{f"regions_{name}": part for name, part in model.reader.regions.tensors().items()},
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Load the state returned by `state_dict`."""
        if not state:
            self.model_ = None
            return
        regions = Regions.from_tensors(
            {k.removeprefix("regions_"): v for k, v in state.items() if k.startswith("regions_")}
        )
        group = state["group"]
        self.model_ = Model(
            Reader(state["soft"], regions, bool(state["student"])),
            state["log_rates"],
            state["prior"],
            state["exponents"],
            tuple(
                tuple((group == number).nonzero()[:, 0].tolist())
                for number in range(int(group.max()) + 1)
            ),
        )


def margin(log_likelihood: Tensor, winner: Tensor) -> Tensor:
    """Return the log-likelihood [n] of the class `winner`, minus the log of the mean likelihood of
    the other classes, from log-likelihoods [n, C]."""
    won = log_likelihood.gather(1, winner[:, None])
    others = log_likelihood.scatter(1, winner[:, None], -torch.inf)
    count = max(log_likelihood.shape[1] - 1, 1)
    return won[:, 0] - (others.logsumexp(1) - torch.tensor(float(count)).log())


@dataclass(frozen=True)
class Sweep:
    """The sums of an E-step over a part of the samples. start: by the mean vote."""

    model: Model
    start: bool

    def __call__(self, parts: Iterable[Answers], number: int) -> Sums | None:
        """Return the sums; None of a part without samples."""
        model = self.model
        reader, classes, rates = model.reader, len(model.prior), model.log_rates
        hard, regions = ~reader.soft, rates.shape[2]
        counts = torch.zeros(len(rates), classes, regions * classes, dtype=torch.float64)
        frequency, likelihood, samples = torch.zeros(classes).double(), 0.0, 0
        for answers in parts:
            if self.start:
                posterior = vote(reader, answers, classes, model.groups)
            else:
                joint = model.joint(answers)
                likelihood += float(joint.logsumexp(1).sum(dtype=torch.float64))
                posterior = joint.softmax(1)
            expected = by_region(answers.regions, posterior, regions).flatten(1)
            count_hard(counts, answers.labels[:, hard], expected)
            frequency += posterior.sum(0, dtype=torch.float64)
            samples += len(answers)
        return Sums(counts, frequency, likelihood, samples) if samples else None
