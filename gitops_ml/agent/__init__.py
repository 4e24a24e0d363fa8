"""The program that runs on the training machine and executes one trial.

It needs Python 3.10 and its standard library, no git, and nothing of the rest of gitops-ml but
``storage`` and ``datasets``.
"""
