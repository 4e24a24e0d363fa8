"""AWS on loopback whose machines are real: moto keeps the books, and the user data of an instance runs.

``Cloud`` is what a test uses. Behind it stands a process of its own (``server``), which puts a layer in front of moto
(``Gate``): it holds every request to botocore's service models and to its signature, keeps a list of all calls, fails
on command, and adds what moto lacks (``services``). ``machines`` runs the user data, in name spaces where that may be.
"""

from tests.fakes.aws.cloud import Cloud, Held, Instance

__all__ = ["Cloud", "Held", "Instance"]
