"""Secrets are hidden in text by their form; other text stays as it is."""

import pytest

from cosup.errors import RunError, UserError, in_short
from cosup.secrets import holds_secret, is_secret_name, mask

SECRET = "hunter2"


@pytest.mark.parametrize(
    "text",
    [
        "ray://me:hunter2@host:10001",
        "cannot read s3://KEY:hunter2@bucket/runs (403)",
        "https://me:hunter2@other@host/x",  # unescaped, and so a part of the password
        "https://me:hunter2/x@host",
        "https://:hunter2@host",
        "s3://b/runs?access_key=AKIA&secret_key=hunter2&region=x",
        "s3://b/runs?session_token=hunter2",
        "abfs://c@account/x?sig=hunter2",
        "https://host/x?X-Amz-Signature=hunter2",
        "https://host/x?key=hunter2",
        "override 'run.loggers.0.password=hunter2'",
        "AWS_SECRET_ACCESS_KEY=hunter2 cosup run",
        "https://hunter2hunter2hunter2hunter2@github.com/a/b",
    ],
)
def test_secrets_are_hidden(text: str) -> None:
    hidden = mask(text)
    assert SECRET not in hidden
    assert "***" in hidden
    assert mask(hidden) == hidden


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/a b/ü?region=x&endpoint_override=localhost:9000&scheme=http",
        "hdfs://namenode:8020/user@home/x",
        "abfss://a_container_of_a_long_name@account/runs",
        "http://[::1]:8265",
        "http://127.0.0.1:8265",
        "sqlite:////data/me@home/runs.db",
        "ray://me:${PASSWORD}@host and s3://b?secret_key=${KEY}",
        "teacher 'a' at step 3: loss=0.2, tokens=5, key=3",
        "mail a:b@c",
    ],
)
def test_other_text_stays(text: str) -> None:
    assert mask(text) == text
    assert not holds_secret(text)


def test_a_reference_within_a_secret_does_not_hide_the_rest() -> None:
    assert holds_secret("ray://me:${PASSWORD}hunter2@host")


def test_names_of_secrets() -> None:
    for name in ("password", "secret_key", "hf_token", "token", "API_KEY", "access-key"):
        assert is_secret_name(name), name
    for name in ("key", "tokens", "name", "keyword", "temperature", "seed"):
        assert not is_secret_name(name), name


def test_errors_hide_secrets() -> None:
    uri = f"s3://KEY:{SECRET}@bucket/{'x' * 90}"
    long = ["y" * 40, f"ray://me:{SECRET}-{'z' * 80}@host"]  # shown cut
    errors: list[Exception] = [
        UserError("wrong {value}", key="run.output", value=uri, where=uri, allowed=uri),
        UserError("wrong", value=long),
        UserError("wrong", key="run.loggers.0.password", value=SECRET),
        RunError(f"cannot be read: {uri}", where=uri),
    ]
    for error in errors:
        assert SECRET not in str(error)
        assert SECRET not in in_short(error, named=True)
    assert SECRET not in in_short(ValueError(f"{'w' * 150} ray://me:{SECRET}{'z' * 80}@host"))
