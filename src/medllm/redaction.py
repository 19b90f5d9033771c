"""What has the form of a secret, and texts of others without it.

What people type is refused where it holds one (`config.credentials`). What libraries, programs and exceptions say is kept, and
told, without it.
"""

import logging
import os
import re
import traceback
from typing import Any

# A user access token of the Hugging Face hub, as in a text.
HUB_TOKEN = re.compile(r"\bhf_(?:oauth_)?[A-Za-z0-9]{30,}")

# Names of a tokenizer's own, which hold words and no secrets: of `SpecialTokensMixin` and of processors, in transformers.
OF_TOKENIZERS = "".join(
    rf"(?<!{name}[_-])" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask", "image", "video", "audio")
)

# Where only a part of what is found is the secret, it is the group `secret`. Whatever the text, time grows with its length alone:
# what could be read again from each place on is bounded.
SECRETS = {
    "a token of the hub": HUB_TOKEN,
    "a token of GitHub": re.compile(r"\bgh[pousr]_[A-Za-z0-9]{36,}|\bgithub_pat_\w{22,}"),
    # docs.gitlab.com/security/tokens/#token-prefixes; those that name their cell end in `.` and a checksum
    "a token of GitLab": re.compile(
        r"\bgl(?:pat|oas|dt|rtr?|cbt|ptt|ft|imt|agent|wt|soat|ffct)-[\w-]{20,}(?:\.[\w-]{2,20}){0,2}"
    ),
    # docs.slack.dev/authentication/tokens: of bots, users, apps and configurations, and those that expire
    "a token of Slack": re.compile(r"\b(?:xoxe\.)?xox[a-z]-\d[\w-]{9,}|\bxapp-\d-[\w-]{10,}"),
    # 39 characters: learn.microsoft.com/purview/sit-defn-google-api-key
    "a key of Google": re.compile(r"\bAIza[\w-]{35}(?![\w-])"),
    # github.blog/2021-09-23-announcing-npms-new-access-token-format: a checksum makes it 36 characters
    "a token of npm": re.compile(r"\bnpm_[A-Za-z0-9]{36,}"),
    # pypi.org/help/#apitoken: a macaroon in base64url, whose first bytes are always those of a location
    "a token of PyPI": re.compile(r"\bpypi-AgE[\w-]{50,}"),
    # docs.docker.com/security/access-tokens: of a person and of an organisation
    "a token of Docker": re.compile(r"\bdckr_[po]at_[\w-]{20,}"),
    # learn.microsoft.com/purview/sit-defn-client-secret-api-key
    "a secret of Azure": re.compile(r"(?<![\w.~-])[\w.~-]{3}\dQ~[\w.~-]{31,34}(?![\w.~-])"),
    "an API key": re.compile(r"(?<![\w-])sk-(?=[\w-]*\d)[\w-]{20,}"),
    # RFC 7519: header, claims and signature in base64url; the first two begin with `{"`
    "a signed token": re.compile(r"(?<![\w-])eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}"),
    "a private key": re.compile(
        r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
        r"(?:[^-]*+(?:-(?!----)[^-]*+)*+-----END [A-Z ]{0,40}PRIVATE KEY(?: BLOCK)?-----|[\w\s+/=\\]*)"
    ),
    "an access key of AWS": re.compile(r"\bA(?:KI|SI)A[0-9A-Z]{16}\b"),
    "an address with its password": re.compile(
        # Up to the last `@`. What opens a database takes a password as it is typed, with any sign in it.
        r"\b(?:https?|(?P<database>(?!https?:)[a-z][a-z0-9+]{1,20}))://"
        r"(?P<secret>[^\s/:@\"']{0,64}:(?(database)[^\s]{1,128}|[^\s/\"']{1,128}))@",
        re.I,
    ),
    "a secret in an address": re.compile(
        r"[?&#](?:password|passwd|pwd|sslpassword|(?:access_)?token|api_key|secret|sig|X-Amz-Signature|X-Amz-Security-Token)="
        r"(?P<secret>[^\s&#\"'\[\]]*[^\s&#\"'\[\].,;:)])",
        re.I,
    ),
    # RFC 9110, 6750 and 7617: as sent, and as clients print their headers, `(b'Authorization', b'Bearer ...')`
    "a header's credential": re.compile(
        r"(?<![A-Za-z0-9])authorization[\"']?\s*+[=:,]\s*+b?[\"']?(?:bearer|basic|token)\s++(?P<secret>[\w.~+/-]{8,}=*)",
        re.I,
    ),
    "a secret by its name": re.compile(
        rf"(?<![A-Za-z0-9])(?:{OF_TOKENIZERS}token|secret|passwo?r?d|passwd|(?:api|access|secret|private|account)[_-]?key|"
        r"sharedaccess(?:key|signature))"
        r"[\"']?\s*+[=:]\s*+[\"']?(?P<secret>(?=[A-Za-z+/=_-]{0,99}\d)(?=[\d+/=_-]{0,99}[A-Za-z])[\w+/=-]{16,})",
        re.I,
    ),
}

# By name of an environment variable: what it holds is secret, unless the name says that it is a place or a tokenizer's.
SECRET_NAME = re.compile(r"TOKEN(?!IZ)|SECRET|PASS(W|PHRASE)|_PWD$|CREDENTIAL|(API|ACCESS|PRIVATE)_?KEY", re.I)
PLACE_NAME = re.compile(r"_(PATH|FILE|DIR|FOLDER)$", re.I)

# Shorter values, and words and numbers below the second, stand in any text.
SHORTEST, SHORTEST_WORD = 8, 16


def _values() -> dict[str, str]:
    """What environment variables whose names say secret hold, longest first, since one may hold another."""
    # By name, since another thread may remove one between the list and its value, as MLflow's telemetry does.
    names = [name for name in os.environ if SECRET_NAME.search(name) and not PLACE_NAME.search(name)]
    named = {name: os.environ.get(name, "").strip() for name in names}
    found = {
        name: value
        for name, value in named.items()
        if len(value) >= (SHORTEST_WORD if value.isalpha() or value.isdecimal() else SHORTEST)
    }
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))


def secrets_in(text: str) -> list[str]:
    """What secrets a text holds, in words that do not repeat them: `the value of HF_TOKEN`, `a private key`."""
    held = [f"the value of {name}" for name, value in _values().items() if value in text]
    return held + [what for what, pattern in SECRETS.items() if pattern.search(text)]


def redacted(text: str) -> str:
    """A text in which each secret gave way to what it is: `[HF_TOKEN]`, `[a private key]`."""
    for name, value in _values().items():
        text = text.replace(value, f"[{name}]")
    for what, pattern in SECRETS.items():
        text = pattern.sub(lambda found, what=what: _without(found, what), text)  # type: ignore[misc]
    return text


def _without(found: re.Match[str], what: str) -> str:
    if "secret" not in found.re.groupindex:
        return f"[{what}]"
    start, end = (position - found.start() for position in found.span("secret"))
    return f"{found[0][:start]}[{what}]{found[0][end:]}"


class RedactedRecord(logging.LogRecord):
    """What any library logs, to any handler, redacted: message and traceback."""

    def __init__(self, *arguments: Any, **rest: Any):
        super().__init__(*arguments, **rest)
        if self.exc_info and self.exc_info[0] is not None:  # formatters take this text where it is there
            self.exc_text = redacted("".join(traceback.format_exception(*self.exc_info))).rstrip("\n")

    def getMessage(self) -> str:  # noqa: N802 # logging's own name
        """See `logging.LogRecord`."""
        return redacted(super().getMessage())
