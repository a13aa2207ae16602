"""The two classification tasks on compartment counts."""

from __future__ import annotations

from enum import StrEnum


class Task(StrEnum):
    """Classification task; a member equals its value, such as ``Task.COUNT == "count"``.

    Attributes
    ----------
    COUNT
        The number of compartments n_c.
    MULTICOMPARTMENT
        Whether a voxel has more than one compartment.

    Examples
    --------
    >>> from corrsk.evaluation import Task
    >>> Task("multicompartment") is Task.MULTICOMPARTMENT
    True
    """

    COUNT = "count"
    MULTICOMPARTMENT = "multicompartment"

    @classmethod
    def from_name(cls, name: str) -> Task:
        """Return a task by its name.

        Parameters
        ----------
        name : {"count", "multicompartment"} or Task
            Name of the task.

        Returns
        -------
        Task
            The task.

        Raises
        ------
        ValueError
            If there is no such task.
        """
        try:
            return cls(name)
        except ValueError:
            raise ValueError(
                f"task must be one of {', '.join(repr(str(task)) for task in cls)}; got {name!r}"
            ) from None
