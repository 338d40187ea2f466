"""`synthesize`: two small cohorts of synthetic brain volumes, to try everything without data."""

from pathlib import Path

from jsonargparse import auto_cli

from datamodules.importing.synthetic import write_synthetic_cohort


def synthesize(args: list[str]) -> None:
    """Write the cohorts that the command line asks for."""
    auto_cli(_write_cohorts, args=args, prog="main.py synthesize")


def _write_cohorts(
    out: str = "runs/demo/data",
    num_source: int = 24,
    num_target: int = 48,
    seed: int = 0,
    small_lesions: bool = False,
) -> None:
    """Write source.csv without labels and target.csv with them.

    Args:
        out: Folder for the tables and scans.
        num_source: Patients of the source cohort, for pretraining.
        num_target: Patients of the labelled target cohort.
        seed: Seed of everything.
        small_lesions: Whether the brains are skull-stripped and their lesions small and faint.
    """
    folder = Path(out)
    for name, num_patients, labelled in (
        ("source", num_source, False),
        ("target", num_target, True),
    ):
        table = write_synthetic_cohort(
            folder, name, num_patients, labelled=labelled, seed=seed, small_lesions=small_lesions
        )
        print(f"{num_patients} synthetic scans: {table}")
