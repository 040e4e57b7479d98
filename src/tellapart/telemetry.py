"""Nothing leaves the user's machine: packages that report to their makers are told not to, before they are imported."""

import os

# ONNX Runtime, from 1.29 on, looks up names, opens connections, and keeps an identity of the device and a queue of
# events in the user's cache folder as soon as it is imported. A variable named CI hides that.
_SWITCHES = {
    "ORT_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}


def disable_telemetry() -> None:
    """Set the variables that switch reports off, for this process and those that it starts; what is set stays."""
    for name, value in _SWITCHES.items():
        os.environ.setdefault(name, value)
