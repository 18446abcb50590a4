"""Push a student's folder to the Hugging Face hub."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

from cosup.errors import RunError, UserError, in_short
from cosup.files import TEMPORARY
from cosup.models.weights import hub_resolves
from cosup.student.folder import DOWNLOADED

__all__ = ["Hub"]

PUSH = ("--push",)


@dataclass(frozen=True)
class Hub:
    """A repository of models on the hub that may be written.

    repo: `owner/name`. private: whether a new one is private.
    """

    api: HfApi
    repo: str
    private: bool

    @classmethod
    def signed_in(cls, repo: str, private: bool) -> "Hub":
        """Check the name and the user's credentials; nothing is changed on the hub.

        Raises `UserError` for a name that is not `owner/name`, without credentials or with wrong
        ones, where the hub cannot be reached, and with `private` for a repository that is public.
        """
        if repo.count("/") != 1:
            raise _no_name(repo)
        if get_token() is None:
            problem = "the hub needs your credentials: run `hf auth login`, or set HF_TOKEN"
            raise UserError(problem, key=PUSH, value=repo)
        if not hub_resolves():
            raise UserError("the hub cannot be reached", key=PUSH, value=repo)
        hub = cls(HfApi(library_name="cosup"), repo, private)
        hub._check()
        return hub

    def _check(self) -> None:
        try:
            self.api.whoami()
            try:
                public = not self.api.model_info(self.repo).private
            except RepositoryNotFoundError:
                return
        except HFValidationError:
            raise _no_name(self.repo) from None
        except Exception as error:  # the hub's client raises many kinds
            problem = f"the hub does not let you in ({in_short(error)})"
            raise UserError(problem, key=PUSH, value=self.repo) from None
        if public and self.private:
            problem = "exists and is public; make it private on the hub first"
            raise UserError(problem, key=("--private",), value=self.repo)

    def push(self, folder: Path, file: Path | None = None) -> str:
        """Upload the student's files in the folder, and the file beside it; return a line to print.

        Files of the repository that have the same names are replaced, and others are left. Raises
        `RunError` if the hub does not take them.
        """
        with self._failures():
            self.api.create_repo(self.repo, private=self.private or None, exist_ok=True)
            made = self.api.upload_folder(
                repo_id=self.repo,
                folder_path=folder,
                commit_message="Upload a student of cosup",
                allow_patterns=list(DOWNLOADED),
                ignore_patterns=[f"*{TEMPORARY}"],
            )
            if file is not None:
                self.api.upload_file(
                    repo_id=self.repo, path_or_fileobj=file, path_in_repo=file.name
                )
        return f"pushed to {made.repo_url}: cosup.load_student('hf-hub:{self.repo}')"

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # the hub's client raises many kinds
            raise RunError(f"cannot push to {self.repo} ({in_short(error)})") from error


def _no_name(repo: str) -> UserError:
    return UserError("is no name on the hub", key=PUSH, value=repo, allowed="owner/name")
