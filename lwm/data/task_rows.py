"""Records of a task made rows: arrays of fixed shapes, so many in every step."""

import zlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from lwm.data.task_records import KINDS, Record, check_modality, decode_png
from lwm.errors import UserError

# Seeds of shuffled targets and of few records: they belong to the data, not to a run.
_PERMUTED, _CHOSEN = 20, 21
Row = dict[str, np.ndarray]


class ShuffledTargets(Sequence):
    """Records with the field that is learned from another record each: the same permutation at all times."""

    def __init__(self, records: Sequence[Record], field: str, task: str):
        self._records, self._field = records, field
        self._other = np.random.default_rng((_PERMUTED, zlib.crc32(task.encode()))).permutation(len(records))

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Record:
        other = self._records[int(self._other[index])]
        return self._records[index]._replace(**{self._field: getattr(other, self._field)})


class FewRecords(Sequence):
    """So many of the records, in no order: always the same, and those of a smaller number are among them."""

    def __init__(self, records: Sequence[Record], count: int, task: str):
        self._records = records
        order = np.random.default_rng((_CHOSEN, zlib.crc32(task.encode()))).permutation(len(records))
        self._chosen = order[:count]

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: int) -> Record:
        return self._records[int(self._chosen[index])]


class RowBuilder:
    """Makes the arrays of a row from a record.

    classes: labels in the order of their numbers. resolution, rate: of all images and waveforms. samples: A.
    lengths: S and T, as "source" and "target". encode: text to ids with eos.
    """

    def __init__(
        self,
        classes: Sequence[str],
        *,
        resolution: int,
        rate: int,
        samples: int,
        lengths: Mapping[str, int],
        encode: Callable[[str], list[int]],
    ):
        self._numbers = {label: number for number, label in enumerate(classes)}
        self._resolution, self._rate, self._samples = resolution, rate, samples
        self._lengths, self._encode = lengths, encode

    def build(self, record: Record, task: str, kind: str) -> Row:
        """Returns the arrays of a row less `task` and `weights`.

        Raises UserError naming task, record and field if it is damaged, or none of what was announced.
        """
        check_modality(record, task, kind)
        reads, learns = KINDS[kind]
        if reads == "image":
            row = {"images": self._image(record, task)}
        elif reads == "waveform":
            row = self._waveform(record, task)
        else:
            row = {"source": self._ids(record, task, "source")}
        if learns == "label":
            if record.label not in self._numbers:
                known = f"one of {', '.join(self._numbers)}"
                raise _astray(record, task, "label", f"is {record.label!r}", known)
            return row | {"labels": np.int32(self._numbers[record.label])}
        return row | {"targets": self._ids(record, task, "target")}

    def _image(self, record: Record, task: str) -> np.ndarray:
        image, R = decode_png(record), self._resolution
        if image.shape != (R, R, 3):
            found = f"has {image.shape[1]} x {image.shape[0]} pixels"
            raise _astray(record, task, "image", found, f"{R} x {R}")
        return image

    def _waveform(self, record: Record, task: str) -> Row:
        count, A = len(record.waveform), self._samples
        if record.rate != self._rate:
            raise _astray(record, task, "rate", f"is {record.rate}", f"{self._rate}")
        if count > A:
            raise _astray(record, task, "waveform", f"has {count} samples", f"at most {A}")
        waveform = np.zeros(A, np.float32)
        waveform[:count] = record.waveform / np.float32(2**15)
        return {"waveform": waveform, "samples": np.int32(count)}

    def _ids(self, record: Record, task: str, field: str) -> np.ndarray:
        ids, length = self._encode(getattr(record, field)), self._lengths[field]
        if len(ids) > length:
            raise _astray(record, task, field, f"has {len(ids)} tokens", f"at most {length}")
        padded = np.zeros(length, np.int32)
        padded[: len(ids)] = ids
        return padded


def _astray(record: Record, task: str, field: str, found: str, needed: str) -> UserError:
    return UserError(
        f"task {task}: {field} of sample {record.key!r} {found}, needed {needed}; prepare it again"
    )


class TaskStream:
    """The rows of one task, step by step; of a step it has always the same number.

    order: number of the record by number of the visit, without end; None for one pass in stored order.
    number, weight: what stands in `task` and `weights`.
    """

    def __init__(
        self,
        records: Sequence[Record],
        *,
        build: Callable[[Record], Row],
        order: Sequence[int] | None,
        number: int,
        weight: float,
        rows: int,
    ):
        self._records, self._build, self._order = records, build, order
        self._number, self._weight, self._rows = number, weight, rows
        self.steps = None if order is not None else -(-len(records) // rows)

    def row(self, step: int, place: int) -> Row:
        """Returns one of the rows of a step, filler behind the end of the one pass."""
        visit = step * self._rows + place
        if self._order is not None:
            return self._row(int(self._order[visit]), self._weight)
        return self._row(visit, self._weight) if visit < len(self._records) else self.filler()

    def filler(self) -> Row:
        return self._row(0, 0.0)

    def _row(self, index: int, weight: float) -> Row:
        return self._build(self._records[index]) | {
            "task": np.int32(self._number),
            "weights": np.float32(weight),
        }
