"""Options that several commands have: how to reach protected device workers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

TlsCa = Annotated[
    Path | None, typer.Option(help="certificate authority of the workers' certificates")
]
TlsCert = Annotated[Path | None, typer.Option(help="our certificate, for the workers")]
TlsKey = Annotated[Path | None, typer.Option(help="its key")]
TokenFile = Annotated[Path | None, typer.Option(help="holds the workers' bearer token")]
ServerName = Annotated[
    str, typer.Option(help="name in the workers' certificates, if it is not the host's")
]
