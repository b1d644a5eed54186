# ruff: noqa
# fmt: off
# mypy: disable-error-code="type-arg"
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class InfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class InfoReply(_message.Message):
    __slots__ = ("protocol_version", "worker_version", "board", "device_id", "power_mode", "power_modes", "runtime", "versions", "conditions", "limits", "queued", "busy", "power_source")
    class VersionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    WORKER_VERSION_FIELD_NUMBER: _ClassVar[int]
    BOARD_FIELD_NUMBER: _ClassVar[int]
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    POWER_MODE_FIELD_NUMBER: _ClassVar[int]
    POWER_MODES_FIELD_NUMBER: _ClassVar[int]
    RUNTIME_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    CONDITIONS_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    QUEUED_FIELD_NUMBER: _ClassVar[int]
    BUSY_FIELD_NUMBER: _ClassVar[int]
    POWER_SOURCE_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    worker_version: str
    board: str
    device_id: str
    power_mode: str
    power_modes: _containers.RepeatedScalarFieldContainer[str]
    runtime: Runtime
    versions: _containers.ScalarMap[str, str]
    conditions: Conditions
    limits: Limits
    queued: int
    busy: bool
    power_source: str
    def __init__(self, protocol_version: _Optional[int] = ..., worker_version: _Optional[str] = ..., board: _Optional[str] = ..., device_id: _Optional[str] = ..., power_mode: _Optional[str] = ..., power_modes: _Optional[_Iterable[str]] = ..., runtime: _Optional[_Union[Runtime, _Mapping]] = ..., versions: _Optional[_Mapping[str, str]] = ..., conditions: _Optional[_Union[Conditions, _Mapping]] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., queued: _Optional[int] = ..., busy: bool = ..., power_source: _Optional[str] = ...) -> None: ...

class Runtime(_message.Message):
    __slots__ = ("name", "version", "precisions", "processor", "threads", "profiles_layers")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PRECISIONS_FIELD_NUMBER: _ClassVar[int]
    PROCESSOR_FIELD_NUMBER: _ClassVar[int]
    THREADS_FIELD_NUMBER: _ClassVar[int]
    PROFILES_LAYERS_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    precisions: _containers.RepeatedScalarFieldContainer[str]
    processor: str
    threads: int
    profiles_layers: bool
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., precisions: _Optional[_Iterable[str]] = ..., processor: _Optional[str] = ..., threads: _Optional[int] = ..., profiles_layers: bool = ...) -> None: ...

class Conditions(_message.Message):
    __slots__ = ("clocks_mhz", "temperatures_c", "throttled")
    class ClocksMhzEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    class TemperaturesCEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    CLOCKS_MHZ_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURES_C_FIELD_NUMBER: _ClassVar[int]
    THROTTLED_FIELD_NUMBER: _ClassVar[int]
    clocks_mhz: _containers.ScalarMap[str, float]
    temperatures_c: _containers.ScalarMap[str, float]
    throttled: bool
    def __init__(self, clocks_mhz: _Optional[_Mapping[str, float]] = ..., temperatures_c: _Optional[_Mapping[str, float]] = ..., throttled: bool = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("model_bytes", "call_seconds", "queue")
    MODEL_BYTES_FIELD_NUMBER: _ClassVar[int]
    CALL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    model_bytes: int
    call_seconds: float
    queue: int
    def __init__(self, model_bytes: _Optional[int] = ..., call_seconds: _Optional[float] = ..., queue: _Optional[int] = ...) -> None: ...

class UploadStart(_message.Message):
    __slots__ = ("sha256", "size_bytes")
    SHA256_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    sha256: bytes
    size_bytes: int
    def __init__(self, sha256: _Optional[bytes] = ..., size_bytes: _Optional[int] = ...) -> None: ...

class UploadRequest(_message.Message):
    __slots__ = ("start", "chunk")
    START_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    start: UploadStart
    chunk: bytes
    def __init__(self, start: _Optional[_Union[UploadStart, _Mapping]] = ..., chunk: _Optional[bytes] = ...) -> None: ...

class UploadReply(_message.Message):
    __slots__ = ("sha256", "size_bytes", "was_stored")
    SHA256_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    WAS_STORED_FIELD_NUMBER: _ClassVar[int]
    sha256: bytes
    size_bytes: int
    was_stored: bool
    def __init__(self, sha256: _Optional[bytes] = ..., size_bytes: _Optional[int] = ..., was_stored: bool = ...) -> None: ...

class Shape(_message.Message):
    __slots__ = ("dims",)
    DIMS_FIELD_NUMBER: _ClassVar[int]
    dims: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, dims: _Optional[_Iterable[int]] = ...) -> None: ...

class MeasureRequest(_message.Message):
    __slots__ = ("model_sha256", "precision", "input_shapes", "warm_up", "number", "repeat", "min_time_s", "idle_s")
    class InputShapesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Shape
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Shape, _Mapping]] = ...) -> None: ...
    MODEL_SHA256_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    INPUT_SHAPES_FIELD_NUMBER: _ClassVar[int]
    WARM_UP_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    REPEAT_FIELD_NUMBER: _ClassVar[int]
    MIN_TIME_S_FIELD_NUMBER: _ClassVar[int]
    IDLE_S_FIELD_NUMBER: _ClassVar[int]
    model_sha256: bytes
    precision: str
    input_shapes: _containers.MessageMap[str, Shape]
    warm_up: int
    number: int
    repeat: int
    min_time_s: float
    idle_s: float
    def __init__(self, model_sha256: _Optional[bytes] = ..., precision: _Optional[str] = ..., input_shapes: _Optional[_Mapping[str, Shape]] = ..., warm_up: _Optional[int] = ..., number: _Optional[int] = ..., repeat: _Optional[int] = ..., min_time_s: _Optional[float] = ..., idle_s: _Optional[float] = ...) -> None: ...

class MeasureEvent(_message.Message):
    __slots__ = ("progress", "result")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    progress: Progress
    result: MeasureResult
    def __init__(self, progress: _Optional[_Union[Progress, _Mapping]] = ..., result: _Optional[_Union[MeasureResult, _Mapping]] = ...) -> None: ...

class Progress(_message.Message):
    __slots__ = ("stage", "done", "total")
    class Stage(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STAGE_UNSPECIFIED: _ClassVar[Progress.Stage]
        STAGE_QUEUED: _ClassVar[Progress.Stage]
        STAGE_LOADING: _ClassVar[Progress.Stage]
        STAGE_TIMING: _ClassVar[Progress.Stage]
    STAGE_UNSPECIFIED: Progress.Stage
    STAGE_QUEUED: Progress.Stage
    STAGE_LOADING: Progress.Stage
    STAGE_TIMING: Progress.Stage
    STAGE_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    stage: Progress.Stage
    done: int
    total: int
    def __init__(self, stage: _Optional[_Union[Progress.Stage, str]] = ..., done: _Optional[int] = ..., total: _Optional[int] = ...) -> None: ...

class MeasureResult(_message.Message):
    __slots__ = ("model_sha256", "samples_ms", "median_ms", "p90_ms", "p99_ms", "power", "before", "after", "power_mode", "outputs", "window_s", "load_s")
    MODEL_SHA256_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_MS_FIELD_NUMBER: _ClassVar[int]
    MEDIAN_MS_FIELD_NUMBER: _ClassVar[int]
    P90_MS_FIELD_NUMBER: _ClassVar[int]
    P99_MS_FIELD_NUMBER: _ClassVar[int]
    POWER_FIELD_NUMBER: _ClassVar[int]
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    POWER_MODE_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    WINDOW_S_FIELD_NUMBER: _ClassVar[int]
    LOAD_S_FIELD_NUMBER: _ClassVar[int]
    model_sha256: bytes
    samples_ms: _containers.RepeatedScalarFieldContainer[float]
    median_ms: float
    p90_ms: float
    p99_ms: float
    power: Power
    before: Conditions
    after: Conditions
    power_mode: str
    outputs: _containers.RepeatedCompositeFieldContainer[Output]
    window_s: float
    load_s: float
    def __init__(self, model_sha256: _Optional[bytes] = ..., samples_ms: _Optional[_Iterable[float]] = ..., median_ms: _Optional[float] = ..., p90_ms: _Optional[float] = ..., p99_ms: _Optional[float] = ..., power: _Optional[_Union[Power, _Mapping]] = ..., before: _Optional[_Union[Conditions, _Mapping]] = ..., after: _Optional[_Union[Conditions, _Mapping]] = ..., power_mode: _Optional[str] = ..., outputs: _Optional[_Iterable[_Union[Output, _Mapping]]] = ..., window_s: _Optional[float] = ..., load_s: _Optional[float] = ...) -> None: ...

class Power(_message.Message):
    __slots__ = ("source", "mean_mw", "idle_before_mw", "idle_after_mw", "readings", "energy_mj")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    MEAN_MW_FIELD_NUMBER: _ClassVar[int]
    IDLE_BEFORE_MW_FIELD_NUMBER: _ClassVar[int]
    IDLE_AFTER_MW_FIELD_NUMBER: _ClassVar[int]
    READINGS_FIELD_NUMBER: _ClassVar[int]
    ENERGY_MJ_FIELD_NUMBER: _ClassVar[int]
    source: str
    mean_mw: float
    idle_before_mw: float
    idle_after_mw: float
    readings: int
    energy_mj: float
    def __init__(self, source: _Optional[str] = ..., mean_mw: _Optional[float] = ..., idle_before_mw: _Optional[float] = ..., idle_after_mw: _Optional[float] = ..., readings: _Optional[int] = ..., energy_mj: _Optional[float] = ...) -> None: ...

class Output(_message.Message):
    __slots__ = ("name", "dims", "mean", "rms", "finite")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DIMS_FIELD_NUMBER: _ClassVar[int]
    MEAN_FIELD_NUMBER: _ClassVar[int]
    RMS_FIELD_NUMBER: _ClassVar[int]
    FINITE_FIELD_NUMBER: _ClassVar[int]
    name: str
    dims: _containers.RepeatedScalarFieldContainer[int]
    mean: float
    rms: float
    finite: bool
    def __init__(self, name: _Optional[str] = ..., dims: _Optional[_Iterable[int]] = ..., mean: _Optional[float] = ..., rms: _Optional[float] = ..., finite: bool = ...) -> None: ...

class ProfileRequest(_message.Message):
    __slots__ = ("model_sha256", "precision", "input_shapes", "runs")
    class InputShapesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Shape
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Shape, _Mapping]] = ...) -> None: ...
    MODEL_SHA256_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    INPUT_SHAPES_FIELD_NUMBER: _ClassVar[int]
    RUNS_FIELD_NUMBER: _ClassVar[int]
    model_sha256: bytes
    precision: str
    input_shapes: _containers.MessageMap[str, Shape]
    runs: int
    def __init__(self, model_sha256: _Optional[bytes] = ..., precision: _Optional[str] = ..., input_shapes: _Optional[_Mapping[str, Shape]] = ..., runs: _Optional[int] = ...) -> None: ...

class ProfileReply(_message.Message):
    __slots__ = ("layers",)
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    layers: _containers.RepeatedCompositeFieldContainer[LayerTime]
    def __init__(self, layers: _Optional[_Iterable[_Union[LayerTime, _Mapping]]] = ...) -> None: ...

class LayerTime(_message.Message):
    __slots__ = ("name", "kind", "mean_ms")
    NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    MEAN_MS_FIELD_NUMBER: _ClassVar[int]
    name: str
    kind: str
    mean_ms: float
    def __init__(self, name: _Optional[str] = ..., kind: _Optional[str] = ..., mean_ms: _Optional[float] = ...) -> None: ...
