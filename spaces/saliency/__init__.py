"""Which channels matter most. One module a criterion, each a function of a block -> [C].

| module | criterion |
| --- | --- |
| `norm` | `l1`, `l2`: size of a channel's filter |
| `bn_gamma` | `bn-gamma`: its batch norm's scale |
| `energy` | `energy`: how strong its activation is expected to be |
| `activation` | `activation`: how strong its activation is on images |
| `ranking` | `rank`: from scores of convolutions to orders of groups |
"""

from spaces.saliency.ranking import CRITERIA, rank

__all__ = ["CRITERIA", "rank"]
