"""Where the repository's site and notebooks are published, from the repository's address alone."""

from __future__ import annotations

import re
from urllib.parse import quote


def owner_and_name(repository: str) -> tuple[str, str]:
    """Owner and name of `https://github.com/<owner>/<name>`.

    Raises `ValueError` for any other address: only GitHub's pages can be derived.
    """
    match = re.fullmatch(r"https://github\.com/([^/]+)/([^/]+?)(?:\.git)?/?", repository)
    if not match:
        raise ValueError(
            f"repository url = {repository!r} is not https://github.com/<owner>/<name>, so the "
            "site's address can't be derived. Correct it in _config.yml, or set html_baseurl."
        )
    return match[1], match[2]


def site(repository: str) -> str:
    """The address of the repository's GitHub pages, with a slash at its end."""
    owner, name = owner_and_name(repository)
    host = f"{owner.lower()}.github.io"
    return f"https://{host}/" if name.lower() == host else f"https://{host}/{name}/"


def colab(repository: str, docname: str, branch: str = "notebooks") -> str:
    """Where Colab opens the notebook of a page, on the branch that the workflow publishes."""
    owner, name = owner_and_name(repository)
    return (
        f"https://colab.research.google.com/github/{owner}/{name}/blob/{branch}/"
        f"{quote(docname)}.ipynb"
    )
