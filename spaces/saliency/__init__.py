"""Which channels matter most. One module a criterion, or a family of them.

| module | criteria |
| --- | --- |
| `norm` | `l1`, `l2`: size of a channel's filter |
| `lamp` | `lamp`: its share of the filters at least as large |
| `fpgm` | `fpgm`: how far its filter is from the others |
| `bn_gamma` | `bn-gamma`: its batch norm's scale |
| `energy` | `energy`: how strong its activation is expected to be |
| `activation` | `activation`, `activation-mean`, `activation-std`: how strong it is on images |
| `hrank` | `hrank`: rank of its feature map |
| `taylor` | `taylor-weight`, `taylor-activation`: first order of the confidence |
| `fisher` | `obd`, `fisher`: diagonal second order, of its weights or of a gate |
| `variational` | `information`, `variational`: how much noise it bears |
| `obs` | `obs`: what its readers lose after compensation |
| `residual` | `residual`: the same given all that was removed before, in units of the detections |

All but the first five rows look at unlabelled images.

| module | what they share |
| --- | --- |
| `ranking` | `score`, `order`, `rank`: from convolutions to groups, each normalised its way |
| `objectives` | what gradients are taken of |
| `watching` | the forward and backward passes |
| `readers` | covariance and influence of the convolutions that read a group |
"""

from spaces.saliency.ranking import CRITERIA, ON_IMAGES, Scores, order, rank, score

__all__ = ["CRITERIA", "ON_IMAGES", "Scores", "order", "rank", "score"]
