"""`python -m pipelines` is `voxveil`."""

from pipelines.cli import main

main()
