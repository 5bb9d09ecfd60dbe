"""OpenCV, which preprocessing and videos need, and which does not load everywhere."""

from agents.config import MachineError


def require_opencv() -> None:
    """Load OpenCV now, before something that needs it is imported.

    Raises:
        MachineError: if that fails, with what to do about it.
    """
    try:
        import cv2  # noqa: F401
    except ImportError as error:
        raise MachineError(
            f"OpenCV cannot be loaded ({error}); on a machine without a desktop, install the "
            "libraries it wants (Debian, Ubuntu: apt-get install libgl1 libglib2.0-0) or the build "
            "that wants none: pip uninstall opencv-python && pip install opencv-python-headless"
        ) from error
