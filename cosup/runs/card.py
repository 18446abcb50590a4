"""The model card of an exported student: `README.md` in its folder, as the Hugging Face hub shows
it."""

import json
import re
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData
from jinja2 import Environment
from markupsafe import Markup, escape

from cosup.config.schema import Config
from cosup.models.prompts import OPEN_CLIP
from cosup.models.section import HeadSection
from cosup.student.stored import BACKBONE
from cosup.student.timm_folder import CONFIG
from cosup.words import in_percent, plural, visible

__all__ = ["card"]

LICENSES = ("apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0")
"""Licences that the hub knows by the names that timm gives; others are `other`."""

CARD = """\
---
{{ head }}
---
# {{ run }}: a student trained by cosup

{% if network %}The whole network `{{ backbone }}`\
{% else %}A {{ kind }} head on frozen features of `{{ backbone }}`{% endif %}, taught by \
{{ plural(teachers | length, "weak teacher") }} ({{ teachers | join(", ") }})\
{% if rounds > 1 %} in {{ rounds }} rounds{% endif %}. \
It was trained with{{ "" if labels else "out" }} true labels.\
{% if simulated %} Simulated from the true labels, so no measurement of anybody: \
{{ simulated | join(", ") }}.{% endif %}\
{% if license %} The weights that it started from are under the licence {{ license }}.{% endif %}

{% if measured %}\
| | accuracy {{ measured }} |
| --- | --- |
| this student | {{ percent(student.accuracy) }} % |
{% if floor.accuracy is not none %}\
| best teacher alone ({{ floor.teacher }})\
{% if floor.coverage < 1 %}, where it answers ({{ percent(floor.coverage) }} %){% endif %} \
| {{ percent(floor.accuracy) }} % |
{% endif %}\
{% if ceiling.accuracy is not none %}\
| the same student on true labels | {{ percent(ceiling.accuracy) }} % |
{% endif %}\
{% else %}\
Its accuracy is not known: {{ measured_reason }}. By an estimate without labels it has \
{{ percent(reliability) }} % of the images of student_train right, of which it saw no label.
{% endif %}

## How to load it

PATH is the path of this folder. On the Hugging Face hub, `hf-hub:owner/name` takes the place of \
{% if no_timm %}PATH.{% else %}`local-dir:PATH` and of PATH.{% endif %}

With cosup:

```python
import cosup

student = cosup.load_student("PATH")
{% if meta %}\
features = student.embed(["IMAGE.png"])  # new classes by the nearest centroid; base classes below
{% else %}\
probabilities = student.predict(["IMAGE.png"])  # [1, C], the columns are student.classes
{% endif %}\
```

{% if no_timm %}\
timm cannot load it: {{ no_timm }}.\
{% if clip and not network %} CLIP's image encoder is stored in this folder; its text encoder is \
not needed.\
{% elif stored %} The weights of `{{ backbone }}` are stored in this folder.\
{% elif not network %} The weights of `{{ backbone }}` are not in this folder.\
{% endif %}
{% else %}\
With timm, which gives the same probabilities:

```python
import timm
import torch
from PIL import Image

model = timm.create_model("local-dir:PATH", pretrained=True).eval()
prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
image = Image.open("IMAGE.png").convert("RGB")
with torch.inference_mode():
    probabilities = model(prepare(image).unsqueeze(0)).softmax(1)
label = model.pretrained_cfg["label_names"][int(probabilities.argmax())]
```

{% if not network %}\
The head, and the standardisation of its features, are the last layer of the network. The weights \
of `{{ backbone }}` are in `model.safetensors` too.
{% endif %}\
{% endif %}

Classes: {{ classes | join(", ") }}

## The team

{% if team.reason %}There is no team to predict with: {{ team.reason }}.
{% else %}`predict(["IMAGE.png"], team=True)` also asks {{ team.teachers | join(", ") }}, routed \
as in the run.\
{% if team.left_out %} It cannot ask {{ team.left_out | join(", ") }}: annotation tables do not \
answer new images.\
{% endif %}
{% if team.uses == "both" %}It returns the product of the student's probabilities to the power \
{{ "%.2f" | format(team.student_exponent) }} and the team's to the power \
{{ "%.2f" | format(team.team_exponent) }}, fitted to {{ team.samples }} samples of \
{{ team.fitted_on }}.\
{% else %}It answers as the {{ team.uses }} does: on {{ team.samples }} samples of \
{{ team.fitted_on }} the two together were not better.\
{% endif %}{% if paired is not none %} Accuracy {{ measured }}: {{ percent(paired) }} %.{% endif %}
{% endif %}
"""


def card(
    config: Config,
    classes: tuple[str, ...],
    summary: dict[str, Any],
    folder: Path,
    no_timm: str | None,
) -> str:
    """Return the card, Markdown with YAML front matter.

    folder: of the student, whose weights are written. no_timm: why timm cannot load it.
    """
    meta, name = config.student.meta is not None, config.student.backbone.name
    license_ = None if no_timm else _license(folder)
    taught = [teacher for one in summary["rounds"] for teacher in one["teachers"]]
    environment = Environment(autoescape=False, keep_trailing_newline=True, finalize=_escaped)
    text = environment.from_string(CARD).render(
        head=Markup(_front_matter(license_, meta, no_timm is None)),
        run=summary["run"],
        network=config.student.mode == "finetune",
        kind=_kind(config.student.head),
        backbone=name.replace("`", "'"),
        clip=name.startswith(OPEN_CLIP),
        meta=meta,
        stored=(folder / BACKBONE).is_file(),
        teachers=list(dict.fromkeys(taught)),
        rounds=len(summary["rounds"]),
        labels=config.rounds.true_label_weight > 0,
        simulated=[t["name"] for t in summary["teachers"] if t["simulated"]],
        license=license_,
        measured=summary["measured"],
        measured_reason=summary["measured_reason"],
        reliability=summary["sources"].get("student", {}).get("reliability"),
        student=summary["student"],
        floor=summary["floor"],
        ceiling=summary["ceiling"],
        no_timm=no_timm,
        classes=classes,
        team=summary["team"],
        paired=summary["controls"].get("student_and_team", {}).get("accuracy"),
        percent=in_percent,
        plural=plural,
    )
    return re.sub(r"\n{3,}", "\n\n", text)


def _kind(head: HeadSection) -> str:
    """Return what kind of head it is, in words."""
    return head.kind if not head.hidden else f"{head.hidden}-hidden-layer"


def _escaped(value: Any) -> Any:
    """Return a text as Markdown that shows it: names of classes may come from anybody.

    Markup is left as it is. Underscores within a word mean nothing in Markdown, and stay.
    """
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    line = escape(" ".join(visible(value).split()))
    return re.sub(r"[\\`*\[\]|~#!]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", line)


def _license(folder: Path) -> str | None:
    """Return the licence of the weights that the student started from, if timm knows it."""
    about = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    found = about["pretrained_cfg"].get("license")
    return None if found is None else str(found).lower()


def _front_matter(license_: str | None, meta: bool, timm: bool) -> str:
    """Return what the hub reads at the head of a card, as YAML."""
    task = "image-feature-extraction" if meta else "image-classification"
    known = license_ is None or license_ in LICENSES
    made = ModelCardData(
        license=license_ if known else "other",
        license_name=None if known else license_,
        library_name="timm" if timm else "cosup",
        pipeline_tag=task,
        tags=[task, *(["timm"] if timm else []), "cosup"],
    )
    return made.to_yaml()
