"""Refuses a platform we cannot run on, by name. Standard library only, any Python 3: runs before the install."""

import platform
import sys
import sysconfig


def unsupported(system: str, machine: str, host: str) -> str:
    """Why this platform cannot be used, or an empty string.

    Args:
        system: `platform.system()`.
        machine: `platform.machine()`.
        host: the triple Python was built for, as sysconfig's HOST_GNU_TYPE.
    """
    if system == "Darwin" and machine == "x86_64":
        return "macOS on Intel: Envoy has no wheel for it. Use Linux with glibc, or a Mac with Apple silicon"
    if system == "Linux" and "musl" in host:
        return "Linux with musl (Alpine): Envoy has no wheel for it. Use a Linux with glibc, such as Debian"
    if system not in ("Linux", "Darwin"):
        return f"{system or 'an unknown system'}: use Linux with glibc (on Windows: in WSL), or macOS on Apple silicon"
    return ""


def this_platform() -> str:
    """`unsupported` asked about this machine."""
    return unsupported(platform.system(), platform.machine(), str(sysconfig.get_config_var("HOST_GNU_TYPE") or ""))


WRONG_VERSION, NO_VENV, WRONG_PLATFORM = 11, 12, 13  # exit codes no failing interpreter uses for something else


def main() -> int:
    """0 where this Python on this machine will do, else a code that the Makefile turns into one line."""
    if not (3, 11) <= sys.version_info[:2] <= (3, 12):
        return WRONG_VERSION
    reason = this_platform()
    if reason:
        print(reason)
        return WRONG_PLATFORM
    try:
        import ensurepip  # noqa: F401  # Debian ships Python without it until python3-venv is installed
        import venv  # noqa: F401
    except ImportError:
        return NO_VENV
    return 0


if __name__ == "__main__":
    sys.exit(main())
