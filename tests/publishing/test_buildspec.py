"""buildspec.yml publishes a good image, and nothing after a failure; run phase by phase against ECR stand-ins."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import boto3
import pytest

from tests.clients.recording_aws import ACCOUNT, REGION, RecordingAws, recording_aws
from tests.publishing.buildspec import Build, run_build
from tests.publishing.registry import Registry, registry
from tests.publishing.vulnerability_feed import advisory, vulnerability_feed

ROOT = Path(__file__).resolve().parents[2]
HOST = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com"
REPOSITORY = "finetune"
# Of the tests in the image, a part that takes seconds.
SUITE = "tests/sagemaker/test_config_files.py tests/sagemaker/test_failure.py -q"
# Known, and accepted by the project's own list.
KNOWN = {"protobuf": advisory("GHSA-8qvm-5x2c-j2w7", "protobuf", "4.25.8", "CVE-2025-4565")}
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
# The image under test without the files of its large packages, but with their metadata: what a push compresses takes
# minutes, and any content proves the same.
SMALL_IMAGE = """\
FROM {image} AS whole
RUN cd /opt/venv/lib/python3.11/site-packages && rm -r {large}
FROM scratch
COPY --from=whole / /
ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin
ARG VERSION
ARG REVISION
LABEL org.opencontainers.image.version="${{VERSION}}" org.opencontainers.image.revision="${{REVISION}}"
"""
LARGE = (
    "botocore cuda fontTools matplotlib nvidia pandas pyarrow scipy scipy.libs sklearn sympy torch torchvision"
    " transformers triton"
)

pytestmark = [
    pytest.mark.image,
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(os.getuid() != 0, reason="only root can let a registry stand for Amazon ECR"),
]


@dataclass(frozen=True)
class Site:
    """A checkout, and the stand-ins for AWS.

    Attributes:
        variables: environment variables of every build.
    """

    source: Path
    registry: Registry
    aws: RecordingAws
    variables: Mapping[str, str]

    def build(self, log: Path, **variables: str) -> Build:
        """Run the buildspec."""
        return run_build(self.source, {**self.variables, **variables}, log)

    def repositories(self) -> list[str]:
        """Names of the repositories in ECR."""
        ecr = boto3.client("ecr", region_name=REGION, endpoint_url=self.aws.url, **self.aws.credentials)
        return [entry["repositoryName"] for entry in ecr.describe_repositories()["repositories"]]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout of the current working tree in its own commit."""
    folder = tmp_path_factory.mktemp("source")
    listed = git(ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    for name in filter(None, listed):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    git(folder, "init", "--quiet")
    commit(folder)
    return folder


def git(folder: Path, *arguments: str) -> str:
    command = ("git", "-c", "user.name=build", "-c", "user.email=build@localhost", *arguments)
    return subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, check=True).stdout


def commit(folder: Path) -> str:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "a build")
    return git(folder, "rev-parse", "HEAD").strip()


@pytest.fixture(scope="module")
def site(image: str, source: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The image is already built, so building it again takes seconds."""
    folder = tmp_path_factory.mktemp("registry")
    located = subprocess.run(
        (str(ROOT / "scripts" / "docker" / "program"), "docker-registry"), stdout=subprocess.PIPE, text=True, check=True
    )
    program = Path(located.stdout.strip()) / "docker-registry"
    with recording_aws() as aws, vulnerability_feed(KNOWN) as feed:
        ecr = boto3.client("ecr", region_name=REGION, endpoint_url=aws.url, **aws.credentials)
        token = ecr.get_authorization_token()["authorizationData"][0]["authorizationToken"]
        password = base64.b64decode(token).decode().partition(":")[2]
        with registry(program, folder, HOST, password) as running_registry:
            home = {"HOME": str(tmp_path_factory.mktemp("home")), "VULNERABILITY_SERVICE": feed}
            inherited = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
            yield Site(source, running_registry, aws, {**inherited, **home, **aws.environment()})
    remove_images()


def remove_images() -> None:
    names = subprocess.run(
        ["docker", "image", "ls", "--format", "{{.Repository}}:{{.Tag}}"], stdout=subprocess.PIPE, text=True, check=True
    ).stdout.split()
    ours = [name for name in names if name.startswith((HOST, "finetune:build-"))]
    if ours:
        subprocess.run(["docker", "image", "rm", *ours], stdout=subprocess.DEVNULL, check=True)


@dataclass(frozen=True)
class Published:
    """A successful build.

    Attributes:
        revision: the commit that was built.
        report: JUnit report of the tests in the image.
    """

    build: Build
    revision: str
    report: ElementTree.Element


@pytest.fixture(scope="module")
def published(site: Site, image: str, tmp_path_factory: pytest.TempPathFactory) -> Published:
    """A small image that passed its tests and its scan, and was pushed."""
    folder = tmp_path_factory.mktemp("published")
    dockerfile = folder / "Dockerfile"
    dockerfile.write_text(SMALL_IMAGE.format(image=image, large=LARGE), encoding="utf-8")
    build = site.build(folder / "log", TESTS=SUITE, BUILD_OPTIONS=f"--file {dockerfile}")
    assert build.succeeded, build.log
    return Published(build, git(site.source, "rev-parse", "HEAD").strip(), read_report(site))


def read_report(site: Site) -> ElementTree.Element:
    """The JUnit report of the latest build's tests."""
    return ElementTree.parse(site.source / "build" / "reports" / "image.xml").getroot()[0]


def pushed_tags(site: Site) -> set[str]:
    """Tags in the registry; tests run in any order, so an earlier one may have pushed an image."""
    return site.registry.tags(REPOSITORY) if site.registry.repositories() else set()


def assert_complete(sbom: bytes, revision: str) -> None:
    """Assert that an SBOM names the revision, and packages of each kind."""
    bom = json.loads(sbom)
    parts = {entry["name"].replace("_", "-") for entry in bom["components"]}
    assert {"torch", "transformers", "sagemaker-training", "libc6", "python3.11"} <= parts
    assert bom["metadata"]["component"]["version"] == revision


def test_failing_test_prevents_push(site: Site, tmp_path: Path) -> None:
    before = pushed_tags(site)
    failing = site.source / "tests" / "sagemaker" / "test_that_fails.py"
    failing.write_text("def test_that_fails() -> None:\n    assert False\n", encoding="utf-8")
    revision = commit(site.source)
    build = site.build(tmp_path / "log", TESTS="tests/sagemaker/test_that_fails.py")
    failing.unlink()
    commit(site.source)
    assert "1 failed" in build.log
    assert build.failed["build"].startswith("scripts/test-image")
    assert build.failed["post_build"] == 'test "$CODEBUILD_BUILD_SUCCEEDING" = 1'
    report = read_report(site)
    assert (report.get("tests"), report.get("failures")) == ("1", "1")
    assert (pushed_tags(site), build.artifacts) == (before - {revision}, {})


def test_unaccepted_vulnerability_prevents_push(site: Site, tmp_path: Path) -> None:
    before = pushed_tags(site)
    git(site.source, "commit", "--quiet", "--allow-empty", "--message", "a build with a vulnerability")
    revision = git(site.source, "rev-parse", "HEAD").strip()
    with vulnerability_feed({"pillow": advisory("GHSA-aaaa-bbbb-cccc", "pillow", "99.0")}) as feed:
        build = site.build(tmp_path / "log", TESTS=SUITE, VULNERABILITY_SERVICE=feed)
    assert "NOT ACCEPTED: pillow" in build.log
    assert build.failed["build"].startswith("scripts/scan")
    assert_complete((site.source / "build" / "sbom.json").read_bytes(), revision)
    assert (pushed_tags(site), build.artifacts) == (before - {revision}, {})


def test_passing_image_is_pushed_with_sbom_and_report(site: Site, published: Published) -> None:
    build, revision, report = published.build, published.revision, published.report
    version = re.findall(r'__version__ = "(.*)"', (site.source / "src/finetune/__init__.py").read_text("utf-8"))[0]
    assert site.repositories() == [REPOSITORY]
    assert site.registry.tags(REPOSITORY) == {version, revision}

    uri = json.loads(build.artifacts["imageDetail.json"])["ImageURI"]
    answers = [site.registry.get(f"{REPOSITORY}/manifests/{tag}", MANIFEST) for tag in (version, revision)]
    assert {f"{HOST}/{REPOSITORY}@{answer.headers['Docker-Content-Digest']}" for answer in answers} == {uri}
    assert re.search(rf"^pushed {re.escape(uri)} .* \d+\.\d\d GB$", build.log, re.MULTILINE)
    assert "scan: accepted: smdebug needs protobuf 3" in build.log

    assert_complete(build.artifacts["build/sbom.json"], revision)
    assert int(report.get("tests", "0")) > 20
    assert (report.get("failures"), report.get("errors")) == ("0", "0")


@pytest.mark.usefixtures("published")
def test_repository_scans_pushed_images(site: Site) -> None:
    ecr = boto3.client("ecr", region_name=REGION, endpoint_url=site.aws.url, **site.aws.credentials)
    (repository,) = ecr.describe_repositories()["repositories"]
    assert repository["imageScanningConfiguration"] == {"scanOnPush": True}


@pytest.mark.usefixtures("published")
def test_password_is_not_stored(site: Site) -> None:
    config = Path(site.variables["HOME"]) / ".docker" / "config.json"
    assert HOST not in config.read_text(encoding="utf-8")
