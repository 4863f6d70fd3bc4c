"""A process that is killed at a step of its work with files."""

import os
import signal


def kill_at_step(step: int, work) -> bool:
    """Run `work` in a fork, killed before its n-th change of a name on disk; whether it was."""
    pid = os.fork()
    if pid == 0:
        steps = iter(range(step))

        def watch(change):
            def watched(*arguments, **options):
                if next(steps, None) is None:
                    os.kill(os.getpid(), signal.SIGKILL)
                return change(*arguments, **options)

            return watched

        os.replace, os.unlink, os.rmdir = watch(os.replace), watch(os.unlink), watch(os.rmdir)
        os.mkdir, os.fsync = watch(os.mkdir), watch(os.fsync)
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
