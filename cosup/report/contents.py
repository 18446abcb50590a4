"""What the page shows, in which order: sections, and the figures with what each one is about."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pandas as pd

from cosup.report.draw_annotations import draw_annotation_accuracy, draw_filters
from cosup.report.draw_domains import draw_supervision_domains
from cosup.report.draw_flow import draw_flow
from cosup.report.draw_results import draw_overview, draw_teachers
from cosup.report.draw_routing import draw_assignment, draw_load, draw_rounds
from cosup.report.draw_student import by_name, draw_confusion, draw_student_teachers
from cosup.report.draw_training import draw_calibration, draw_cost, draw_weights
from cosup.report.views import View

Draw = Callable[[dict[str, pd.DataFrame]], list[View]]


@dataclass(frozen=True)
class Plan:
    """A figure: the table it draws, its title, and a note on how it is to be read. A figure
    without `draw` is drawn by the page (the examples need pictures)."""

    table: str
    title: str
    draw: Draw | None = None
    note: str = ""


@dataclass(frozen=True)
class Chapter:
    """A section of the page."""

    id: str
    title: str
    plans: Sequence[Plan] = field(default=())


CHAPTERS = (
    Chapter(
        "verdict",
        "Verdict",
        [
            Plan(
                "overview",
                "What each supervision reached",
                draw_overview,
                "Lines are 95 % intervals; those of the lead are paired on the same samples. "
                "Dashed: the best teacher alone, and the ceiling.",
            )
        ],
    ),
    Chapter(
        "teachers",
        "The teachers",
        [
            Plan(
                "teachers",
                "The hierarchy, inside and outside the scopes",
                draw_teachers,
                "A teacher is indented below the one whose scope holds its own. Outside its scope "
                "a teacher is asked what it never learnt.",
            ),
            Plan(
                "annotation_accuracy",
                "Annotations right, by teacher and class, %",
                draw_annotation_accuracy,
                "On all of student_train, whether the annotation was used or not.",
            ),
        ],
    ),
    Chapter(
        "routing",
        "Who taught what",
        [
            Plan("rounds", "Round by round", draw_rounds),
            Plan(
                "assignment",
                "Which teacher got which samples",
                draw_assignment,
                "With a soft assignment, a sample counts for its most weighted teacher.",
            ),
            Plan("load", "Each teacher's load", draw_load),
            Plan("flow", "Where samples went from round to round", draw_flow),
        ],
    ),
    Chapter(
        "filters",
        "What was thrown away, and why",
        [
            Plan(
                "filters",
                "Rejected by each filter",
                draw_filters,
                "A filter is good where it rejects wrong annotations (blue) and leaves the right "
                "ones. A sample counts for the first filter that rejected it.",
            )
        ],
    ),
    Chapter(
        "student",
        "What the student gained",
        [
            Plan("domains", "By domain", by_name("domains", "domain")),
            Plan(
                "supervision_domains",
                "Every supervision, by domain, %",
                draw_supervision_domains,
                "Accuracy on each domain's test samples. The mean over domains counts each domain "
                "alike, however many samples it has.",
            ),
            Plan("classes", "By class", by_name("classes", "class")),
            Plan("student_teachers", "Student against each teacher", draw_student_teachers),
            Plan(
                "confusion",
                "The student's confusions, %",
                draw_confusion,
                "Of each true class, the share that the student calls so.",
            ),
            Plan(
                "calibration",
                "Calibration",
                draw_calibration,
                "On the dashed line, a confidence is what it says. Bins of fewer than 5 samples "
                "have no point.",
            ),
            Plan("weights", "Over the training", draw_weights),
        ],
    ),
    Chapter(
        "examples", "Samples worth a look", [Plan("examples", "What went wrong, sample by sample")]
    ),
    Chapter(
        "cost",
        "Cost",
        [Plan("cost", "Seconds by stage", draw_cost)],
    ),
    Chapter("reproduce", "Config, environment, and how to reproduce"),
)

CAPTIONS = {plan.table: plan.title for chapter in CHAPTERS for plan in chapter.plans}
