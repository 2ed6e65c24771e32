"""EvoTorch: operators for its populations, problems that start at a pre-trained network, and searchers."""

import warnings

with warnings.catch_warnings():
    # What EvoTorch 0.6 decorates while it is imported; nothing that a user of this package could mend.
    warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated", category=FutureWarning)
    import evotorch as evotorch
