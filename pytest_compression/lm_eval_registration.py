"""Tells lm-eval of our model class, so that its own command knows ``--model pytest-compression``.

lm-eval looks for no plug-ins. But its command loads torch before it asks which class a model's name
means, and torch calls the functions of the entry points ``torch.backends`` when it is loaded
(https://docs.pytorch.org/tutorials/unstable/python_extension_autoload.html; the environment's
``TORCH_DEVICE_BACKEND_AUTOLOAD=0`` turns that off). Ours is one of them. It imports nothing heavy:
lm-eval imports the class when it is asked for.
"""

import sys

NAME = "pytest-compression"
"""Of the class among lm-eval's models."""
TARGET = "pytest_compression.scoring.harness:HarnessLM"


def register() -> None:
    """Make lm-eval know the class.

    Raises:
        ImportError: lm-eval is not installed, or too old to be told.
    """
    from lm_eval.api.registry import model_registry

    if NAME not in model_registry:
        model_registry.register(NAME, target=TARGET)


def torch_is_loaded() -> None:
    """Register the class if lm-eval loads torch, which nothing here may keep from loading."""
    if "lm_eval" in sys.modules:
        try:
            register()
        except ImportError:  # lm-eval of another version: it says that it does not know the name
            return
