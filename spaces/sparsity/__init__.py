"""Which weights of a layer are kept, and what the kept ones become.

| module | what it holds |
| --- | --- |
| `pattern` | `Pattern`, the interface of all methods: a mask, and how many weights it keeps |
| `unstructured` | the largest weights, wherever they are |
| `n_m` | N of M neighbouring weights |
| `block` | blocks of neighbouring weights |
| `kernel` | whole kernels |
| `entries` | R-TOSS: two or three entries of every kernel, 1x1 weights packed nine to a kernel |
| `families` | R-TOSS: parents whose patterns their children inherit |
| `names` | patterns by the names users give them |
| `obs` | Optimal Brain Surgeon: what a weight costs, and removing them one by one |
| `adaprune` | the weights that are left, fitted again on what the layer reads |
| `descent` | the patterns of all kernels of a layer chosen together |
| `sparsify` | a layer, or a network, with its patterns |
| `packing` | pattern-sparse weights as bytes |

Methods choose by *importance*: a number of 0 or more for each weight, its square where nothing is
known of what the layer reads. Axis letters: O outputs, I inputs, kh and kw taps, F = I * kh * kw
features in the order of `weight.flatten(1)`, P patterns.
"""
