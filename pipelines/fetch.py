"""`voxveil fetch`: bring a profile's weights onto this machine, once, so that jobs themselves need no network."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from pipelines.faults import console, told_in_one_line


def fetch_weights(uris: list[str], say: Callable[[str], None]) -> None:
    """Fetch what each URI names and check it against what is known of it; tell where it lies.

    Weights that are there already are not fetched again. Raises InputError for something that is no URI, WeightsMissing
    where the hub (or the mirror that HF_ENDPOINT names) does not yield them, WeightsChanged where they are others.
    """
    from models import registry
    from operators.schema import InputError

    for uri in uris:
        try:
            found = registry.fetch(uri)
        except ValueError as fault:
            raise InputError(str(fault)) from None
        size = sum((found.path / name if found.path.is_dir() else found.path).stat().st_size for name in found.digests)
        known = "checked" if uri in registry.KNOWN else "of no known digest, taken as they are"
        licence = f", {found.licence}" if found.licence else ""
        say(f"{uri}: {len(found.digests)} files, {size / 1e6:,.0f} MB, {known}{licence}: {found.path}")


def profile_uris(profile: str) -> list[str]:
    """Return the URIs of a profile's weights. Raises InputError for a profile that is not there."""
    from models import registry
    from operators.schema import InputError

    if profile not in registry.PROFILES:
        raise InputError(f"no profile is called {profile!r}; there are {', '.join(registry.PROFILES)}")
    return list(registry.PROFILES[profile].values())


@told_in_one_line
def fetch(
    uris: Annotated[list[str] | None, typer.Argument(help="Weights such as hf://organization/name@revision.")] = None,
    profile: Annotated[str | None, typer.Option(help="All weights of an audit profile: embedded or standard.")] = None,
    mirror: Annotated[str | None, typer.Option(help="Address of a mirror of the Hugging Face hub.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder to keep them in (HF_HOME); jobs need it set too.")] = None,
) -> None:
    """Bring weights onto this machine and check their digests; nothing that is there is fetched again.

    Exit codes: 0 all are there, 2 some could not be fetched or are not what they should be, 1 anything else.
    """
    import os

    from operators.schema import InputError

    # The hub's library reads these when it is first imported.
    if mirror:
        os.environ["HF_ENDPOINT"] = mirror
    if cache:
        os.environ["HF_HOME"] = str(cache.absolute())
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # the one line at the end says all
    wanted = (profile_uris(profile) if profile else []) + list(uris or [])
    if not wanted:
        raise InputError("nothing to fetch; name a profile (--profile standard) or a URI")
    fetch_weights(wanted, lambda line: console.print(escape(line), soft_wrap=True))
