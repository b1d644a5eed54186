"""What can go wrong on the worker, by the status code the client gets (see device.proto)."""

from typing import Dict, Type

import grpc


class WorkerError(Exception):
    """Root of the errors that are told to the client; the message says what, expected, got."""

    code = grpc.StatusCode.INTERNAL


class BadRequest(WorkerError):
    """The request or the model is wrong: the same call will never succeed."""

    code = grpc.StatusCode.INVALID_ARGUMENT


class NotStored(WorkerError):
    """No model of this digest is stored here: it has to be uploaded first."""

    code = grpc.StatusCode.NOT_FOUND


class Busy(WorkerError):
    """The queue is full: wait and try again."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class WrongDigest(WorkerError):
    """The bytes that arrived do not have the digest that was announced."""

    code = grpc.StatusCode.DATA_LOSS


class CannotRun(WorkerError):
    """The model is let in, but this runtime cannot run it."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class TimedOut(WorkerError):
    """The call's time is over; what was running has been killed."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED


class Cancelled(WorkerError):
    """The client has gone away."""

    code = grpc.StatusCode.CANCELLED


class ProcessDied(WorkerError):
    """The measuring process ended in the middle of its work, or cannot be started."""

    code = grpc.StatusCode.ABORTED


# The errors that the measuring process reports about a model, by the name that travels.
REPORTED: Dict[str, Type[WorkerError]] = {
    error.__name__: error for error in (BadRequest, CannotRun, TimedOut, WorkerError)
}
