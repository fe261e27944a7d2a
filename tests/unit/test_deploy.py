"""The Dockerfile and what deploy/ has: each esops command line in it is one that esops takes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.unit.test_help import parse

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
TIMERS = sorted((DEPLOY / "systemd").glob("*.timer"))
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
DOCKERFILE = (ROOT / "Dockerfile").read_text()
MOST_EXPOSED = 20
"""Tenths of systemd's scale from 0 (sealed off) to 10."""


def manifests():
    for path in MANIFESTS:
        for each in yaml.safe_load_all(path.read_text()):
            spec = each["spec"]
            if each["kind"] == "CronJob":
                spec = spec["jobTemplate"]["spec"]
            yield path.name, each, spec["template"]["spec"]


def command_lines():
    for path in UNITS:
        (line,) = re.findall(r"^ExecStart=/opt/esops/bin/(esops .*)$", path.read_text(), re.M)
        yield path.name, line.replace("%i", "carts")
    for name, _, pod in manifests():
        for container in pod["containers"]:
            yield name, " ".join(["esops", *container["args"]])
    compose = yaml.safe_load((DEPLOY / "compose/compose.yaml").read_text())
    for name, service in compose["services"].items():
        if "command" in service:
            yield f"compose {name}", " ".join(["esops", *service["command"]])
    (found,) = re.findall(r"^CMD (\[.*\])$", DOCKERFILE, re.M)
    yield "Dockerfile", " ".join(["esops", *json.loads(found)])


@pytest.mark.parametrize(("where", "line"), [*command_lines()], ids=lambda each: each)
def test_every_command_line_is_one_that_esops_takes(where, line):
    parse(line)


def test_manifests_are_of_the_kinds_that_are_promised_and_probe_what_run_answers():
    kinds = {name: each["kind"] for name, each, _ in manifests()}
    assert kinds == {
        "archive.yaml": "CronJob",
        "audit.yaml": "CronJob",
        "check.yaml": "CronJob",
        "rebuild.yaml": "Job",
        "run.yaml": "Deployment",
    }
    for _, each, pod in manifests():
        assert pod["securityContext"]["runAsNonRoot"]
        (container,) = pod["containers"]
        assert container["securityContext"]["readOnlyRootFilesystem"]
        if each["kind"] == "Deployment":
            paths = [container[f"{n}Probe"]["httpGet"]["path"] for n in ("liveness", "readiness")]
            assert paths == ["/livez", "/readyz"]
            selected = each["spec"]["selector"]["matchLabels"]
            assert selected == each["spec"]["template"]["metadata"]["labels"]
            assert f"0.0.0.0:{container['ports'][0]['containerPort']}" in container["args"]
        else:
            assert pod["restartPolicy"] == "Never"


def test_the_shop_of_the_compose_file_is_the_demos():
    for name in ("cart_summary.sql", "shop_projections.py"):
        ours = ROOT / "esops/demo/files" / name
        assert (DEPLOY / "compose/work" / name).read_text() == ours.read_text()


def test_the_image_runs_as_a_user_with_pinned_versions_and_asks_run_for_its_health():
    last = DOCKERFILE.rpartition("\nFROM ")[2]
    assert re.search(r"^USER 10001$", last, re.M)
    assert "--constraint constraints.txt" in DOCKERFILE
    assert "http://127.0.0.1:9180/livez" in last
    assert '"--health", "9180"' in last
    for source in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.M):
        for each in source.split():
            assert (ROOT / each).exists(), each
            assert f"!{each.removeprefix('./')}" in (ROOT / ".dockerignore").read_text().split()
    assert not re.search(r"FROM \S+\.\S+/", DOCKERFILE)  # no host of a registry


def test_a_linter_finds_nothing_in_the_dockerfile():
    hadolint = Path(sys.executable).with_name("hadolint")
    if not hadolint.exists():
        pytest.skip("hadolint is not installed")
    done = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_takes_the_units_and_finds_them_well_sealed(tmp_path):
    for path in (*UNITS, *TIMERS):
        # Where it is installed here, so that systemd finds the program.
        text = path.read_text().replace("/opt/esops/bin/esops", sys.executable)
        (tmp_path / path.name).write_text(text)
    paths = [str(tmp_path / path.name) for path in (*UNITS, *TIMERS)]
    found = subprocess.run(["systemd-analyze", "verify", *paths], capture_output=True, text=True)
    told = [line for line in found.stderr.splitlines() if str(tmp_path) in line or "esops" in line]
    assert told == []
    threshold = f"--threshold={MOST_EXPOSED}"
    for path in UNITS:
        sealed = subprocess.run(
            ["systemd-analyze", "security", "--offline=true", threshold, tmp_path / path.name],
            capture_output=True,
            text=True,
        )
        assert sealed.returncode == 0, sealed.stdout.splitlines()[-1:]
    assert {path.stem for path in TIMERS} == {path.stem for path in UNITS} - {"esops-run"}
