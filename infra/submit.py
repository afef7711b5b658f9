"""Submit a job to a Ray cluster once, and follow it to its end.

Example:
  python infra/submit.py --id nightly-2026-11-24 -- python /app/jobs/refresh_cache.py --config ...

Where a job of that id was submitted before, it is followed, and nothing is started. The address is
RAY_API_SERVER_ADDRESS, the token RAY_AUTH_TOKEN. Exit codes: the job's own; 143 it was stopped by
`ray job stop`; 3 the cluster cannot be reached or was lost, so that another call may help.
"""

import argparse
import asyncio
import shlex
import sys
import time
from collections.abc import Sequence

import aiohttp
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

EXIT_FAILED = 1
EXIT_LOST = 3
EXIT_STOPPED = 143

_POLL_SECONDS = 1.0
_LOST = (OSError, RuntimeError, aiohttp.ClientError)
"""What Ray's client raises for a cluster that does not answer, or not as it should."""


def connect(deadline: float) -> JobSubmissionClient:
    """A client; until ``deadline`` (monotonic seconds) a head may still be starting."""
    while True:
        try:
            return JobSubmissionClient()
        except OSError:
            if time.monotonic() > deadline:
                raise
        time.sleep(_POLL_SECONDS)


def submit_once(
    client: JobSubmissionClient, name: str, command: Sequence[str], deadline: float
) -> bool:
    """Whether the command was submitted: not where a job ``name`` is there already."""
    while all(job.submission_id != name for job in client.list_jobs()):
        try:
            client.submit_job(entrypoint=shlex.join(command), submission_id=name)
            return True
        except RuntimeError as error:
            if "already exists" in str(error):  # another call was faster
                return False
            if "No available agent" not in str(error) or time.monotonic() > deadline:
                raise
        time.sleep(_POLL_SECONDS)
    return False


def follow(client: JobSubmissionClient, name: str) -> JobDetails:
    """Copy the job's output to stdout; returns what is known of it at its end."""

    async def copy() -> None:
        async for lines in client.tail_job_logs(name):
            print(lines, end="", flush=True)

    asyncio.run(copy())
    while not (job := client.get_job_info(name)).status.is_terminal():
        time.sleep(_POLL_SECONDS)
    return job


def exit_code(job: JobDetails) -> int:
    """The exit code that stands for how the job ended."""
    if job.status == JobStatus.SUCCEEDED:
        return 0
    if job.status == JobStatus.STOPPED:
        return EXIT_STOPPED
    code: int | None = job.driver_exit_code
    return code if code is not None and code > 0 else EXIT_FAILED


def main(arguments: Sequence[str] | None = None) -> int:
    """Submit and follow; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="submit.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--id", required=True, help="of the submission")
    parser.add_argument(
        "--wait", type=float, default=300, metavar="SECONDS", help="for a head that is starting"
    )
    parser.add_argument("command", nargs="+", help="what the cluster runs, behind --")
    args = parser.parse_args(arguments)
    deadline = time.monotonic() + args.wait
    try:
        client = connect(deadline)
        if not submit_once(client, args.id, args.command, deadline):
            print(f"job {args.id} was submitted before; following it", file=sys.stderr)
        job = follow(client, args.id)
    except AuthenticationError as error:
        print(f"error: the cluster refuses RAY_AUTH_TOKEN: {error}", file=sys.stderr)
        return EXIT_FAILED
    except _LOST as error:
        print(f"error: the cluster does not answer: {error}", file=sys.stderr)
        return EXIT_LOST
    code = exit_code(job)
    if code:
        print(f"error: job {args.id} is {job.status}, exit code {code}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
