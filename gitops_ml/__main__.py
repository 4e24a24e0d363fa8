"""``python -m gitops_ml``."""

from gitops_ml.main import entry_point

if __name__ == "__main__":
    entry_point()
