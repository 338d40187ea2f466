"""`report`: report.html of a finished run, one file that needs no network."""

from jsonargparse import auto_cli

from commands.reporting.page import Maps, write_page
from commands.runs.run_folder import run_path


def report(args: list[str]) -> None:
    """Write the report that the command line asks for."""
    auto_cli(_report, args=args, prog="main.py report")


def _report(run: str = "", others: str = "", anonymous: bool = False, maps: Maps = "auto") -> None:
    """Write report.html into the folder of a finished run.

    Args:
        run: Name of the run, kept in runs/<name>, or a folder.
        others: Names or folders of other runs to show next to it, with spaces between them; those
            on the same folds are compared patient by patient.
        anonymous: Show numbers in the place of patient ids, file names and paths.
        maps: What speaks for the predicted class: 'gradcam', 'gradcam++', 'integrated_gradients',
            or slowly 'shap', 'lime', 'occlusion'; 'none'; or 'auto', gradcam where the network is
            a 3D convolutional one and none elsewhere.
    """
    if not run:
        raise ValueError("No run is given: set RUN=name.")
    path = write_page(run_path(run), others=others, anonymous=anonymous, maps=maps)
    print(f"Report: {path} ({path.stat().st_size / 2**20:.1f} MB)")
