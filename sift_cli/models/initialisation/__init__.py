"""How a model draws its own weights, at its own shapes or at others.

``initialisation(architecture)`` constructs the model once under a :class:`~.recorder.Recorder`, on fake tensors, and
says of every parameter what it is drawn from. For a module whose shapes have changed, three ways lead to the new
numbers, the first that works:

1. *The calls are made again.* Whatever function initialised the parameter (``nn.init.kaiming_normal_``,
   ``reset_parameters``, a model's own ``init_weights``) runs on the new module, so its own code computes the fans.
2. *A number that a constructor computed is recognised* as a gain over the root of a fan, and follows the fan.
3. *Anything else stays:* GPT-2's .02/√(2 · layers) depends on no width.

What no operator tells (orthogonal matrices, sines, copies from elsewhere) is measured on two seeded builds.
"""

from sift_cli.models.initialisation.draw import Draw
from sift_cli.models.initialisation.recorded import Initialisation, Part, initialisation

__all__ = ["Draw", "Initialisation", "Part", "initialisation"]
