"""The program that runs on a device and times ONNX models there for paretrim.

    cli.py         options, start and stop
    server.py      the gRPC server: ports, threads, health
    security.py    where it may listen, TLS, the bearer token
    service.py     the calls of device.proto, translated to what follows
    turnstile.py   one measurement at a time, a bounded queue
    store.py       uploaded models: digest-named files in a private folder
    sandbox.py     the measuring process: started, spoken to, killed
    child.py       what runs in the measuring process
    onnx_check.py  which ONNX files are let in
    timing.py      the timing protocol and its statistics
    runtimes/      onnxruntime, OpenVINO, trtexec behind one interface
    power.py       power meters: INA3221, tegrastats, RAPL
    board.py       what board this is; clocks, temperatures, throttling

Python 3.8 is enough, because that is what JetPack 4 boards have; nothing of the rest of paretrim is
imported. device_pb2.py and onnx_subset_pb2.py are generated (`make stubs`).
"""

__version__ = "0.1.0"
PROTOCOL_VERSION = 1
