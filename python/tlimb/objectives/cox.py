"""Time until an event, by the order in which events come.

Cox (1972), "Regression models and life-tables", JRSS B 34, 187-220; ties as in Breslow (1974), "Covariance analysis of
censored survival data", Biometrics 30, 89-99. As the loss of a network: Katzman et al. (2018), "DeepSurv", BMC Medical
Research Methodology 18, 24.
"""

import torch
from torch import Tensor, nn


class Cox(nn.Module):
    r"""log sum_{j: t_j >= t_i} exp(o_j) - o_i of each scan i whose event was seen, 0 of the others.

    Their mean over events is the negative partial log-likelihood. o is the logarithm of the hazard ratio, the higher
    the sooner; t_j >= t_i are those at risk when the event of i came, among the scans that are given together: in
    training those of a batch, which stand for all as in Kvamme, Borgan, Scheel (2019), "Time-to-event prediction with
    neural networks and Cox regression", JMLR 20, 129; for the validation loss the whole part. A batch without an event
    teaches nothing, so batches should be large enough to hold several.
    """

    kinds = ("survival",)

    def __init__(self):
        super().__init__()

    def forward(self, output: Tensor, label: Tensor) -> Tensor:
        """Outputs (B, 1) and times (B,), negative where the event was not seen, 0 where nothing is known -> (B,)."""
        risk, time, seen = output[:, 0], label.abs(), label > 0
        out_of_risk = time[None, :] < time[seen][:, None]
        at_risk = risk.expand_as(out_of_risk).masked_fill(out_of_risk, -torch.inf).logsumexp(1)
        each = torch.zeros_like(risk)
        each[seen] = at_risk - risk[seen]
        return each
