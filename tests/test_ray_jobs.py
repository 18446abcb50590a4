"""Tests of the files in `ray_jobs/` against the schemas of Ray and KubeRay and cosup's commands."""

import json
import re
import shlex
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from packaging.specifiers import SpecifierSet

pytest.importorskip("ray")

from cosup.config import load_config
from cosup.config.yaml import parse_yaml
from cosup.remote import is_uri

pytestmark = pytest.mark.ray

ROOT = Path(__file__).parents[1]
JOBS = ROOT / "ray_jobs"

# Fields of ray.io/v1 as of KubeRay 1.7.0, from its generated reference (docs/reference/api.md).
RAY_JOB_SPEC = {
    "activeDeadlineSeconds": int,
    "backoffLimit": int,
    "rayClusterSpec": dict,
    "submitterPodTemplate": dict,
    "metadata": dict,
    "clusterSelector": dict,
    "submitterConfig": dict,
    "managedBy": str,
    "deletionStrategy": dict,
    "entrypoint": str,
    "runtimeEnvYAML": str,
    "jobId": str,
    "submissionMode": str,
    "entrypointResources": str,
    "entrypointNumCpus": float,
    "entrypointNumGpus": float,
    "ttlSecondsAfterFinished": int,
    "preRunningDeadlineSeconds": int,
    "shutdownAfterJobFinishes": bool,
    "suspend": bool,
}
RAY_CLUSTER_SPEC = {
    "upgradeStrategy": dict,
    "authOptions": dict,
    "suspend": bool,
    "managedBy": str,
    "autoscalerOptions": dict,
    "headServiceAnnotations": dict,
    "enableInTreeAutoscaling": bool,
    "gcsFaultToleranceOptions": dict,
    "historyServerOptions": dict,
    "networkPolicy": dict,
    "tlsOptions": dict,
    "headGroupSpec": dict,
    "rayVersion": str,
    "workerGroupSpecs": list,
}
AUTH_OPTIONS = {"enableK8sTokenAuth": bool, "secretName": str, "mode": str}
HEAD_GROUP_SPEC = {
    "template": dict,
    "headService": dict,
    "enableIngress": bool,
    "ingressOptions": dict,
    "resources": dict,
    "labels": dict,
    "rayStartParams": dict,
    "serviceType": str,
}
WORKER_GROUP_SPEC = {
    "suspend": bool,
    "groupName": str,
    "replicas": int,
    "minReplicas": int,
    "maxReplicas": int,
    "idleTimeoutSeconds": int,
    "priority": int,
    "resources": dict,
    "labels": dict,
    "rayStartParams": dict,
    "template": dict,
    "scaleStrategy": dict,
    "numOfHosts": int,
}
# The fields of Kubernetes' core/v1 that are used here.
POD_SPEC = {
    "containers": list,
    "volumes": list,
    "tolerations": list,
    "serviceAccountName": str,
    "securityContext": dict,
}
CONTAINER = {"name": str, "image": str, "resources": dict, "ports": list, "volumeMounts": list}


def head_of(path: Path) -> str:
    """Return the comment at the start of a file as text."""
    lines = path.read_text().splitlines()
    count = next(i for i, line in enumerate(lines) if not line.startswith("#"))
    return "\n".join(line[1:].strip() for line in lines[:count])


def check_fields(item: dict[str, Any], known: dict[str, type], where: str) -> None:
    for key, value in item.items():
        assert key in known, f"{where}: no field {key}"
        assert type(value) is known[key], f"{where}.{key}: {value!r}"


def check_run(command: str, root: Path) -> None:
    """Check a `cosup run` that needs no quoting, with a valid config and persistent output."""
    words = shlex.split(command)
    assert not set(command) & set(";|&<>`$(){}*?~\"'\\"), "a shell would change it"
    start = words.index("cosup")
    assert words[start + 1] == "run"
    path, *rest = words[start + 2 :]
    flags = [word for word in rest if word.startswith("--")]
    file = root / path if path.endswith(".yaml") else root / "configs" / f"{path}.yaml"
    config = load_config(file, *(w for w in rest if w not in flags))
    assert flags == ["--resume"]
    assert config.execution.backend == "ray"
    assert is_uri(config.run.output) or Path(config.run.output).is_absolute()
    assert Path(config.data.source.settings["root"]).is_absolute()


@pytest.mark.parametrize("name", ["job", "kuberay", "cluster"])
def test_each_file_starts_with_its_command(name: str) -> None:
    path = JOBS / f"{name}.yaml"
    head = head_of(path)
    assert f"ray_jobs/{path.name}" in head
    assert "EDIT" in path.read_text() or name == "job"
    for config in re.findall(r"configs/\w+\.yaml", head):
        assert (ROOT / config).is_file()


def test_job_is_a_runtime_env_and_its_command_runs() -> None:
    from ray.runtime_env import RuntimeEnv

    path = JOBS / "job.yaml"
    tree = parse_yaml(path.read_text(), str(path))
    env = RuntimeEnv(**tree)
    assert dict(env)["working_dir"] == "."
    assert all(isinstance(value, str) for value in tree["env_vars"].values())
    submit = next(line for line in head_of(path).splitlines() if line.startswith("ray job submit"))
    options, entrypoint = submit.split(" -- ")
    assert "--runtime-env ray_jobs/job.yaml" in options
    assert entrypoint.startswith("python -m cosup run ")
    check_run(entrypoint, ROOT)


def test_job_names_the_requirements_of_cosup() -> None:
    text = re.sub(r"\n#? *", " ", (JOBS / "job.yaml").read_text())
    named = re.findall(r'"([^"]+)"', re.search(r"pip: \[(.*?)\](?= )", text)[1])  # type: ignore[index]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ours = [item for item in project["dependencies"] if not item.startswith("ray[")]
    assert named == ours  # without Ray, which the cluster has in its own version


def test_the_jobs_use_a_ray_that_pyproject_allows() -> None:
    """Ray is bounded at several places, and its upper bound is raised by hand."""
    bounds = set(re.findall(r'"ray\[\w+\]([^"]*)"', (ROOT / "pyproject.toml").read_text()))
    assert len(bounds) == 1
    allowed = SpecifierSet(bounds.pop())
    assert {part.operator for part in allowed} == {">=", "<"}
    files = [(JOBS / name).read_text() for name in ("Dockerfile", "cluster.yaml", "kuberay.yaml")]
    named = re.findall(r"(?:rayproject/ray:|rayVersion: \"|Ray )(\d+\.\d+\.\d+)", "".join(files))
    assert len(named) == 4
    assert len(set(named)) == 1
    assert named[0] in allowed


def test_kuberay_has_the_fields_of_ray_job_v1() -> None:
    path = JOBS / "kuberay.yaml"
    job = parse_yaml(path.read_text(), str(path))
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert set(job) == {"apiVersion", "kind", "metadata", "spec"}
    spec, cluster = job["spec"], job["spec"]["rayClusterSpec"]
    check_fields(spec, RAY_JOB_SPEC, "spec")
    check_fields(cluster, RAY_CLUSTER_SPEC, "rayClusterSpec")
    check_fields(cluster["authOptions"], AUTH_OPTIONS, "authOptions")
    check_fields(cluster["headGroupSpec"], HEAD_GROUP_SPEC, "headGroupSpec")
    for group in cluster["workerGroupSpecs"]:
        check_fields(group, WORKER_GROUP_SPEC, "workerGroupSpecs")
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    assert spec["submissionMode"] in ("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode")
    assert spec["shutdownAfterJobFinishes"] is True  # otherwise the time below has no effect
    assert spec["ttlSecondsAfterFinished"] > 0
    assert cluster["authOptions"] == {"mode": "token"}
    version = tuple(int(part) for part in cluster["rayVersion"].split("."))
    assert version >= (2, 52, 0), "no token authentication"
    assert spec["backoffLimit"] == 0  # a mistake in a config fails again
    image = (JOBS / "Dockerfile").read_text()
    assert f"\nFROM rayproject/ray:{cluster['rayVersion']}-" in image
    assert "ray_jobs/Dockerfile" in head_of(path)
    # KubeRay gives its job the name of the RayJob; a selector would show the last ten lines alone.
    assert f"kubectl logs -f job/{job['metadata']['name']}" in head_of(path)


def test_kuberay_pods() -> None:
    job = parse_yaml((JOBS / "kuberay.yaml").read_text(), "kuberay.yaml")
    cluster = job["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        # rayStartParams are strings, or the API server refuses them.
        assert all(type(value) is str for value in group["rayStartParams"].values())
        pod = group["template"]["spec"]
        check_fields(pod, POD_SPEC, "template.spec")
        assert pod["securityContext"]["fsGroup"] == 100  # of the user of Ray's images
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            check_fields(container, CONTAINER, "container")
            assert {mount["name"] for mount in container["volumeMounts"]} == volumes
            limits, requests = (container["resources"][key] for key in ("limits", "requests"))
            assert limits == requests  # required for GPUs by Kubernetes; Ray reads the limits
    images = {c["image"] for g in groups for c in g["template"]["spec"]["containers"]}
    assert len(images) == 1
    (worker,) = cluster["workerGroupSpecs"][0]["template"]["spec"]["containers"]
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_kuberay_entrypoint_runs_a_config_that_comes_with_cosup() -> None:
    from ray.runtime_env import RuntimeEnv

    path = JOBS / "kuberay.yaml"
    spec = parse_yaml(path.read_text(), str(path))["spec"]
    check_run(spec["entrypoint"], ROOT)
    RuntimeEnv(**parse_yaml(spec["runtimeEnvYAML"], "runtimeEnvYAML"))
    pod = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    mounts = {m["mountPath"]: m for m in pod["containers"][0]["volumeMounts"]}
    assert "run.output=/runs " in spec["entrypoint"]
    assert not mounts["/runs"].get("readOnly")
    assert mounts["/data"]["readOnly"]
    (image,) = {container["image"] for container in pod["containers"]}
    assert f"docker build -t {image} " in (JOBS / "Dockerfile").read_text()


def test_cluster_is_valid_for_the_launcher_of_ray() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = files("ray.autoscaler") / "ray-schema.json"
    path = JOBS / "cluster.yaml"
    config = parse_yaml(path.read_text(), str(path))
    jsonschema.validate(config, json.loads(schema.read_text()))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**config, "max_worker": 4}, json.loads(schema.read_text()))
    kinds = config["available_node_types"]
    assert config["head_node_type"] in kinds
    assert sum(kind["max_workers"] for kind in kinds.values()) <= config["max_workers"]
    assert kinds["gpu"]["min_workers"] > 0
    starts = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    assert all("0.0.0.0" not in command for command in starts)
    assert "-e RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    assert config["file_mounts"]["/home/ray/.ray/auth_token"] == "~/.ray/auth_token"
    for commands in ("initialization_commands", "setup_commands", "head_setup_commands"):
        for command in config[commands]:
            assert shlex.split(command)


def test_submit_command_of_cluster() -> None:
    head = head_of(JOBS / "cluster.yaml")
    line = next(line for line in head.splitlines() if line.startswith("cosup submit"))
    words = shlex.split(line)
    at = words.index("--address")
    assert words[at + 1] == "http://127.0.0.1:8265"
    from cosup.cluster.submit import job_config

    config = job_config(ROOT / words[2], words[3:at], None)
    assert config.execution.backend == "ray"
