"""Let DVC run one stage if it is out of date, and say in a line why it could not.

Like `dvc repro --single-item`, of which --quiet hides DVC's errors with its chatter.

    python -m tasks.stage train@small           # run it
    python -m tasks.stage train@small --pull    # take it from DVC's remote, if that has it
"""

import argparse
import logging
import sys

from tasks.errors import UserError, explained

CRASHED = ", exited with 1"  # how DVC ends the line on a Python program that failed, which has said itself why


def reproduce(stage: str, pull: bool = False) -> None:
    """Run a stage in the current folder; with `pull` what others have of it in DVC's remote will do.

    Raises:
        UserError: DVC cannot run it: dvc.yaml or dvc.lock is broken, or an input is missing.
        SystemExit: the stage failed.
    """
    from dvc.exceptions import DvcException, ReproductionError
    from dvc.repo import Repo

    logging.getLogger("dvc").setLevel(logging.WARNING)
    try:
        with Repo() as repo:
            repo.reproduce(stage, single_item=True, pull=pull)
    except ReproductionError as error:  # of the stage; the reason is its cause
        reason = str(error.__cause__ or error)
        if reason.endswith(CRASHED):
            sys.exit(1)
        raise UserError(reason) from error
    except DvcException as error:
        raise UserError(str(error)) from error


@explained
def main() -> None:
    """Run the stage named on the command line."""
    parser = argparse.ArgumentParser(description="Let DVC run one stage if it is out of date.")
    parser.add_argument("stage", help="as dvc.yaml names it: promote, train@small")
    parser.add_argument("--pull", action="store_true", help="take it from DVC's remote, if that has it")
    given = parser.parse_args()
    reproduce(given.stage, given.pull)


if __name__ == "__main__":
    main()
