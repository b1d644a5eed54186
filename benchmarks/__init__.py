"""Measurements side by side; each module is a command that prints a table.

What compression keeps (shared/ beside the repository has the models and images):
quantization        bits, clips, roundings and grids: accuracy kept without training
pruning             criteria, ways to make up for channels, choices of what goes
patterns            sparsity patterns: storage, accuracy kept, predicted gains
quantised_training  few bits, with and without training
recover             a pick on BCCD, trained back

What it costs:
hw_models           errors of the hardware models on rows they were not fitted on
host_cpu            quick ways to a faster YOLOv5 on a CPU, and a front beside them
database            statistics of the dense layers, and layers made from them: time and size
device_worker       overhead of measuring over gRPC; what a worker holds

How the search does:
search              every method under equal evaluation: hypervolume, picks
proxies             how well cheap numbers stand for mAP
overhead            time of the driver a candidate
throughput, scale   evaluations a second, how busy actors are
kills, soak         runs that are killed, runs that are long

collect_measurements and hw_model_figures make files of the repository; networks/, rows and sleeper
are parts of others.
"""
